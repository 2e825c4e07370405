"""Files of arrays that run no code, and what cannot be used is said."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from written_arrays import SERIES, X, Y, labels, load, ragged, write, written

from snnrun.data import plain_objects
from snnrun.errors import SnnrunError

# ---- files that run no code -----------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_object_arrays_run_no_code(tmp_path, capsys):
    np.savez(tmp_path / "evil.npz", x=ragged(Evil(), Evil()), y=labels(2))
    with pytest.raises(SnnrunError, match=r"x holds builtins.print, which only code of the file could make again"):
        load(tmp_path / "evil.npz")
    assert capsys.readouterr().out == ""


@written
@given(
    st.recursive(
        st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(), st.binary()),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=6,
    ),
    hnp.arrays(st.sampled_from([np.bool_, np.int16, np.dtype(">f4"), np.dtype("<U3"), np.dtype("S4")]), (2, 3)),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_plain_objects_are_what_pickle_makes_of_them(item, array, protocol):
    content = ragged(item, array, np.asfortranarray(array), array.ravel()[0], ragged(array, 3))
    own = plain_objects.load(io.BytesIO(pickle.dumps(content, protocol)))
    assert own.dtype == object
    assert own[0] == item
    for k in (1, 2, 3):
        assert np.asarray(own[k]).dtype == np.asarray(content[k]).dtype
        assert np.array_equal(own[k], content[k], equal_nan=array.dtype.kind == "f")
    assert np.array_equal(own[4][0], array, equal_nan=array.dtype.kind == "f")
    assert own[4][1] == 3


@written
@given(st.binary(max_size=60), st.integers(0, 200))
def test_damaged_pickles_are_refused(noise, cut):
    whole = pickle.dumps(ragged(np.arange(3.0), np.arange(4.0)))
    for content in (noise, whole[:cut], whole[:cut] + noise):
        if content.startswith(whole):
            continue
        try:
            found = plain_objects.load(io.BytesIO(content))
        except ValueError:
            continue
        assert isinstance(found, int | float | str | bytes | list | tuple | dict | set | np.ndarray | None)


def with_(value: float, x: np.ndarray = X) -> np.ndarray:
    x = x.copy()
    x[4, 1] = value
    return x


REFUSED = {
    "NaN": ({"x": with_(np.nan), "y": Y}, {}, "x: sample 4 has NaN. Fill the gaps in"),
    "NaN inside a series": ({"x": with_(np.nan, SERIES), "y": Y}, {}, "x: sample 4 has NaN before its end"),
    "infinite": ({"x": with_(-np.inf), "y": Y}, {}, "x: sample 4 has an infinite value"),
    "several": ({"x": np.where(np.arange(6)[:, None] > 2, np.nan, X), "y": Y}, {}, "3 has NaN, and so have 2 more"),
    "a series of nothing": ({"x": np.where(np.arange(6)[:, None, None] == 2, np.nan, SERIES), "y": Y}, {}, "2 has no"),
    "beyond the range": ({"x": with_(7.0), "y": Y}, {"range": [0, 1]}, "4 has the value 7, beyond data.range=[0, 1]"),
    "a range that is none": ({"x": X, "y": Y}, {"range": [1, 0]}, "data.range=[1, 0]: two numbers are needed"),
    "one class": ({"x": X, "y": Y * 0}, {}, "every sample to train on has the label 0"),
    "labels too few": ({"x": X, "y": Y[:5]}, {}, "x has 6 samples and y 5 labels"),
    "one-hot": ({"x": X, "y": np.eye(6)}, {}, "save y.argmax(axis=1)"),
    "half a label": ({"x": X, "y": Y + 0.5}, {}, "y: sample 0 has the label 0.5; labels are whole numbers or texts"),
    "mixed labels": ({"x": X, "y": Y, "x_test": X, "y_test": np.array(list("abcdef"))}, {}, "some labels are texts"),
    "an untrained label": ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, {}, "sample 1 has the label 2, which no"),
    "a label without a name": ({"x": X, "y": Y + 1, "classes": np.array(["a", "b"])}, {}, "labels go from 0 to 1 then"),
    "a class twice": ({"x": X, "y": Y, "classes": np.array(["a", "a"])}, {}, "classes has 'a' more than once"),
    "x without y": ({"x": X}, {}, "it has x and no y. Add y, or remove x"),
    "no x": ({"data": X, "y": Y}, {}, "it has no x, the array of the samples (data, y is in it)"),
    "a slip": ({"x": X, "y": Y, "x_tets": X}, {}, "the name x_tets is not known. Is it x_test?"),
    "twice": ({"x": X, "y": Y, "x_train": X}, {}, "x and x_train are both x. Remove one"),
    "other shapes": ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, {}, "samples of x_test have the shape (2,)"),
    "complex": ({"x": X + 1j, "y": Y}, {}, "x has the type complex128; samples are numbers. Save its real part"),
    "texts": ({"x": X.astype(str), "y": Y}, {}, "samples are numbers"),
    "five dimensions": ({"x": np.zeros((6, 2, 2, 2, 2)), "y": Y}, {}, "x has 5 dimensions, (6, 2, 2, 2, 2)"),
    "one dimension": ({"x": np.arange(6), "y": Y}, {}, "x has 1 dimensions"),
    "empty": ({"x": np.zeros((0, 3)), "y": np.zeros(0)}, {}, "x is empty: its shape is (0, 3)"),
    "other channels": ({"x": ragged(*[SERIES[0]] * 5, SERIES[0, :, :1]), "y": Y}, {}, "5 has 1 channels, the first"),
    "an empty series": ({"x": ragged(*[SERIES[0]] * 5, SERIES[0, :0]), "y": Y}, {}, "sample 5 is empty"),
    "nested": ({"x": ragged(*[SERIES] * 6), "y": Y}, {}, "sample 0 is float64 (6, 4, 2); each is a series"),
    "no spikes": ({"x": SERIES, "y": Y}, {"kind": "spikes"}, "a value between 0 and 1; spike trains are 0 and 1"),
    "many spikes": ({"x": np.arange(48).reshape(6, 4, 2), "y": Y}, {"kind": "spikes"}, "0 has the value 7; spike"),
    "no image": ({"x": X, "y": Y}, {"kind": "image"}, "data.kind=image: x has samples of 3; wanted is"),
    "no test part": ({"x": X, "y": Y}, {"test_fraction": 0.05}, "data.test_fraction=0.05: leaves 0 of 6 samples"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path, case):
    own, options, words = REFUSED[case]
    root = write(tmp_path, "npz", **own)
    with pytest.raises(SnnrunError) as error:
        load(root, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def damaged(tmp_path: Path) -> dict[str, tuple[bytes, str]]:
    """Contents of files that cannot be read, and what is said of each."""
    path = write(tmp_path, "npz", x=X, y=Y)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(X.tobytes()[:8])] ^= 1
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("x.npy", b"hello")
        archive.writestr("y.npy", b"hello")
    hdf5 = write(tmp_path, "h5", x=X, y=Y).read_bytes()
    table = io.BytesIO()
    np.savez(table, x=np.zeros(3, "f4,i4"), y=Y[:3])
    return {
        "cut.npz": (whole[:400], "it is damaged or cut short"),
        "flipped.npz": (bytes(flipped), "x is damaged (Bad CRC-32"),
        "foreign.npz": (foreign.getvalue(), "is no array of NumPy's"),
        "table.npz": (table.getvalue(), "x has the type [('f0', '<f4'), ('f1', '<i4')]; samples are numbers"),
        "text.csv": (b"1,2,3\n", "it is no .npz, .npy, .h5 or .mat file by its first bytes"),
        "empty.npz": (b"", "it is empty; write it anew"),
        "cut.h5": (hdf5[:900], "it is damaged or cut short"),
        "text.mat": (b"nothing of the kind", "it is no .mat or .h5 file that can be read"),
        "alone.npy": (b"\x93NUMPY", "it is one array, and the labels are another"),
    }


@pytest.mark.parametrize(
    "name",
    ["cut.npz", "flipped.npz", "foreign.npz", "table.npz", "text.csv", "empty.npz", "cut.h5", "text.mat", "alone.npy"],
)
def test_damaged_files_are_told(tmp_path, name):
    content, words = damaged(tmp_path)[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SnnrunError) as error:
        load(tmp_path / name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_and_cut_arrays_are_told(tmp_path):
    for root, words in (tmp_path / "no.npz", "there is no"), (tmp_path, "has no .npy files"):
        with pytest.raises(SnnrunError, match=words):
            load(root)
    folder = write(tmp_path, "npy", x=X, y=Y)
    (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-9])
    with pytest.raises(SnnrunError, match=r"x.npy is cut short: 135 of 144 bytes are there"):
        load(folder)


def test_what_does_not_fit_into_the_memory_is_refused(tmp_path, monkeypatch):
    root = write(tmp_path, "compressed", x=X, y=Y)
    monkeypatch.setattr("snnrun.data.array_files._SHARE", 1e-12)
    with pytest.raises(SnnrunError, match=r"it is compressed. Write it uncompressed, by np.savez"):
        load(root)
