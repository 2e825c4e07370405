"""Arrays of one's own: what is written is what is read, and what cannot be used is said."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
import trained_runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file

from snnrun import cli, data
from snnrun.data import arrays, plain_objects
from snnrun.data.corpus import Converted
from snnrun.errors import SnnrunError
from snnrun.record import description
from snnrun.record.run_folder import RunFolder
from snnrun.run import build, experiment, resume, samples

written = settings(
    deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBERS = st.sampled_from(["?", "u1", "i1", "u2", "<i4", ">i4", "i8", "f2", "<f4", ">f4", "f8"])
WRITERS = ("npz", "compressed", "npy", "h5", "mat")


def write(folder: Path, form: str, **own: np.ndarray) -> Path:
    """Write arrays as one of the forms that are read; returns what data.root is."""
    if form == "npy":
        folder = folder / "arrays"
        folder.mkdir(exist_ok=True)
        for name, array in own.items():
            np.save(folder / f"{name}.npy", array)
        return folder
    path = folder / f"own.{'npz' if form == 'compressed' else form}"
    if form == "h5":
        with h5py.File(path, "w") as file:
            for name, array in own.items():
                file[name] = array.astype(object) if array.dtype.kind == "U" else array
    elif form == "mat":
        scipy.io.savemat(path, own)
    else:
        (np.savez if form == "npz" else np.savez_compressed)(path, **own)
    return path


def ragged(*rows: np.ndarray) -> np.ndarray:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def labels(count: int, classes: int = 2) -> np.ndarray:
    return np.arange(count) % classes


def load(root: Path, **options) -> data.Corpus:
    return data.found("arrays", root, False, options)


def everything(corpus: data.Corpus) -> tuple[np.ndarray, np.ndarray]:
    """All samples and labels in the order of the file, of a corpus without parts of its own."""
    order = np.argsort([int(name.split()[-1].replace(",", "")) for name in corpus.names])
    samples = np.concatenate([corpus.train_samples[:], corpus.test_samples[:]])
    return samples[order], np.concatenate([corpus.train_labels, corpus.test_labels])[order]


# ---- what is written is what is read --------------------------------------------------------------------------------


@written
@given(
    type_=NUMBERS,
    inner=st.sampled_from([(5,), (3, 4), (4, 4, 3)]),
    form=st.sampled_from(WRITERS),
    order=st.sampled_from("CF"),
    seed=st.integers(0, 99),
)
def test_numbers_of_every_type_are_scaled_to_their_range(tmp_path, type_, inner, form, order, seed):
    """Against the definition in float64, whatever the file and the type."""
    rng, kind = np.random.default_rng(seed), {1: "vector", 2: "series", 3: "image"}[len(inner)]
    x = (rng.random((10, *inner)) * 100 - (50 if np.dtype(type_).kind in "if" else 0)).astype(type_)
    x = np.asarray(x, order=order)
    root = write(tmp_path, form, x=x, y=labels(10))
    low, high = float(x.min()), float(x.max())
    if low == high:
        return
    samples, read = everything(load(root, kind=kind, range=[low, high], split_seed=seed))
    wanted = (x.astype(np.float64) - low) / (high - low)
    if kind == "image":
        wanted = wanted.transpose(0, 3, 1, 2).reshape(10, -1)
    assert samples.dtype == np.float32
    assert np.array_equal(samples, wanted.astype(np.float32))
    assert read.tolist() == labels(10).tolist()


@written
@given(
    form=st.sampled_from(WRITERS),
    lengths=st.lists(st.integers(1, 9), min_size=6, max_size=12),
    channels=st.integers(1, 3),
)
def test_series_of_different_lengths_end_where_they_end(tmp_path, form, lengths, channels):
    if form == "h5" and channels > 1:  # HDF5 has no ragged arrays of two axes
        channels = 1
    rng = np.random.default_rng(len(lengths))
    rows = [rng.standard_normal((length, channels)).astype(np.float32) for length in lengths]
    count, longest = len(rows), max(lengths)
    if form == "h5":
        root = tmp_path / "own.h5"
        with h5py.File(root, "w") as file:
            x = file.create_dataset("x", (count,), h5py.vlen_dtype(np.float32))
            for k, row in enumerate(rows):
                x[k] = row[:, 0]
            file["y"] = labels(count)
    elif form == "npy":
        folder = tmp_path / "arrays"
        folder.mkdir(exist_ok=True)
        np.save(folder / "x.npy", ragged(*rows), allow_pickle=True)
        np.save(folder / "y.npy", labels(count))
        root = folder
    else:
        root = write(tmp_path, form, x=ragged(*rows), y=labels(count))
    corpus = load(root, range=[-9, 9], test_fraction=0.4)
    samples, _ = everything(corpus)
    assert (corpus.kind, corpus.shape) == ("series", (channels,))
    assert samples.shape == (count, longest, channels)
    for row, sample in zip(rows, samples, strict=True):
        assert np.array_equal(sample[: len(row)], ((row.astype(np.float64) + 9) / 18).astype(np.float32))
        assert np.isnan(sample[len(row) :]).all()


@written
@given(
    type_=st.sampled_from(["?", "u1", "i8", "f4"]),
    form=st.sampled_from(WRITERS),
    channels=st.sampled_from([1, 7, 64, 65]),
)
def test_spike_trains_become_bits(tmp_path, type_, form, channels):
    spikes = np.random.default_rng(channels).random((9, 5, channels)) < 0.4
    spikes[0, 0, 0] = True
    corpus = load(write(tmp_path, form, x=spikes.astype(type_), y=labels(9)))
    assert (corpus.kind, corpus.shape) == ("spikes", (channels,))
    bits, _ = everything(corpus)
    read = np.unpackbits(bits.view(np.uint8), axis=2, bitorder="little", count=channels)
    assert np.array_equal(read.astype(bool), spikes)


@written
@given(
    names=st.lists(
        st.one_of(st.integers(-5, 300), st.text("abcxyz é", min_size=1)), min_size=2, max_size=5, unique=True
    ),
    form=st.sampled_from(("npz", "npy", "h5")),
    as_bytes=st.booleans(),
)
def test_labels_of_every_kind_are_classes(tmp_path, names, form, as_bytes):
    if len({type(name) for name in names}) > 1:
        names = [str(name) for name in names]
    if len(set(names)) < len(names):
        return
    own = [names[k % len(names)] for k in range(12)]
    y = np.array(own)
    if as_bytes and y.dtype.kind == "U" and form != "h5":
        y = np.char.encode(y, "utf-8")
    corpus = load(write(tmp_path, form, x=np.random.default_rng(0).random((12, 3)), y=y), test_fraction=0.5)
    assert corpus.classes == tuple(map(str, sorted(names)))
    _, read = everything(corpus)
    assert [corpus.classes[k] for k in read] == list(map(str, own))


def test_images_of_eight_bits_stay_as_they_are(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (8, 5, 6), dtype=np.uint8)
    corpus = load(write(tmp_path, "npz", x=grey, y=labels(8)))
    assert (corpus.kind, corpus.shape, corpus.image) == ("image", (5, 6), (1, 5, 6))
    assert np.array_equal(everything(corpus)[0], grey.reshape(8, -1))
    colour = np.random.default_rng(0).integers(0, 256, (8, 5, 6, 3), dtype=np.uint8)
    for x in colour, colour.transpose(0, 3, 1, 2):
        corpus = load(write(tmp_path, "npz", x=x, y=labels(8)))
        assert (corpus.shape, corpus.image) == ((3, 5, 6), (3, 5, 6))
        assert np.array_equal(everything(corpus)[0], colour.transpose(0, 3, 1, 2).reshape(8, -1))


def test_images_that_use_few_of_eight_bits_have_their_range_measured(tmp_path):
    x = np.random.default_rng(0).integers(0, 17, (20, 8, 8), dtype=np.uint8)
    x[:, 0, 0] = 16
    corpus = load(write(tmp_path, "npz", x=x, y=labels(20)))
    assert corpus.train_samples.max() == 1
    assert "values become 0 to 1 from 0 to 16" in " ".join(corpus.notes)


def test_time_may_be_the_last_axis(tmp_path):
    x = np.random.default_rng(0).random((8, 2, 9))
    first = load(write(tmp_path, "npz", x=x.transpose(0, 2, 1), y=labels(8)))
    last = load(write(tmp_path, "npz", x=x, y=labels(8)), time="last")
    assert last.shape == (2,)
    assert np.array_equal(first.train_samples, last.train_samples)
    rows = [row[:, : 3 + k] for k, row in enumerate(x)]
    uneven = load(write(tmp_path, "npz", x=ragged(*rows), y=labels(8)), time="last", range=[0, 1])
    assert everything(uneven)[0].shape == (8, 9, 2) or everything(uneven)[0].shape == (8, 10, 2)
    assert np.array_equal(everything(uneven)[0][0, :3], x[0, :, :3].T.astype(np.float32))
    assert "if it is the other way, data.time=last" in " ".join(load(write(tmp_path, "npz", x=x, y=labels(8))).notes)


def test_nan_after_the_end_is_the_end(tmp_path):
    x = np.random.default_rng(0).random((8, 5, 2))
    x[3, 2:] = np.nan
    corpus = load(write(tmp_path, "npz", x=x, y=labels(8)))
    assert corpus.kind == "series"
    assert np.isnan(everything(corpus)[0][3, 2:]).all()
    assert "1 of 8 samples are shorter than the longest: 2 to 5 steps" in corpus.notes


def test_the_range_is_measured_on_what_is_not_tested(tmp_path):
    """Of each feature by itself; what lies beyond is clipped."""
    x = np.random.default_rng(0).random((10, 2)) * [1, 50]
    x_test = np.array([[2.0, 25.0], [-1.0, 60.0]])
    corpus = load(write(tmp_path, "npz", x=x, y=labels(10), x_test=x_test, y_test=labels(2)))
    low, high = x.min(axis=0), x.max(axis=0)
    assert np.array_equal(corpus.train_samples, ((x - low) / (high - low)).astype(np.float32))
    assert corpus.test_samples[:, 0].tolist() == [1.0, 0.0]
    assert corpus.form["low"] == low.tolist()
    assert "clipped" in " ".join(corpus.notes)


def test_parts_and_classes_of_their_own(tmp_path):
    x = np.random.default_rng(0).random((12, 3))
    root = write(
        tmp_path, "npz", X_train=x[:6], y_train=labels(6), x_val=x[6:9], y_val=labels(3), x_test=x[9:],
        y_test=labels(3), classes=np.array(["cat", "dog"]), feature_names=np.array(["a", "b", "c"]),
    )  # fmt: skip
    corpus = load(root)
    assert corpus.classes == ("cat", "dog")
    assert corpus.validation.tolist() == [6, 7, 8]
    assert (len(corpus.train_labels), len(corpus.test_labels)) == (9, 3)
    assert "not used: feature_names" in corpus.notes
    loaded = data.load("arrays", root=root)
    assert loaded.sizes == {"train": 6, "validation": 3, "test": 3}


def test_the_test_part_is_drawn_by_its_seed_and_stratified(tmp_path):
    root = write(tmp_path, "npz", x=np.random.default_rng(0).random((100, 3)), y=labels(100, 4))
    first, again, other = load(root), load(root), load(root, split_seed=1)
    assert np.bincount(first.test_labels).tolist() == [5, 5, 5, 5]
    assert first.digest() == again.digest()
    assert first.names != other.names
    assert "test: no x_test, so 0.2 of every class, 20 samples" in " ".join(first.notes)


@pytest.mark.parametrize("form", WRITERS)
def test_many_samples_are_made_batch_by_batch(tmp_path, monkeypatch, form):
    """And are the same; those of .npy, .npz and .h5 stay in their file until then."""
    x = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
    root = write(tmp_path, form, x=x, y=labels(40))
    whole = load(root)
    monkeypatch.setattr(arrays, "_IN_MEMORY", 0)
    asked = load(root)
    assert isinstance(asked.train_samples, Converted)
    assert np.array_equal(asked.train_samples[:], whole.train_samples)
    assert np.array_equal(asked.test_samples[np.array([3, 0, 3])], whole.test_samples[[3, 0, 3]])
    loaded = data.load("arrays", root=root)
    assert np.array_equal(loaded.validation.samples[:2], data.load("arrays", root=root).validation.samples[:2])
    [source] = asked.train_samples.array._arrays
    assert isinstance(source, np.memmap) == (form in ("npz", "npy"))
    assert len(load(root).digest()) == 64


def test_named_pairs_of_npy(tmp_path):
    x = np.random.default_rng(0).random((10, 3))
    for prefix, shift in ("first_", 0), ("second_", 1):
        np.save(tmp_path / f"{prefix}x.npy", x + shift)
        np.save(tmp_path / f"{prefix}y.npy", labels(10))
    corpus = load(tmp_path / "second_x.npy", range=[0, 2])
    assert np.array_equal(everything(corpus)[0], ((x + 1) / 2).astype(np.float32))


def test_matlab_7_3_has_its_axes_in_reverse(tmp_path):
    """The layout that MATLAB writes: a user block, transposed arrays, cells as references, texts as numbers."""
    path, x = tmp_path / "own.mat", np.random.default_rng(0).random((6, 5, 2))
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = x.T
        file["x"].attrs["MATLAB_class"] = np.bytes_("double")
        cells = []
        for k, name in enumerate(["left", "right"] * 3):
            cells.append(file.create_dataset(f"#refs#/{k}", data=np.array([[ord(c)] for c in name], np.uint16)).ref)
            file[f"#refs#/{k}"].attrs["MATLAB_class"] = np.bytes_("char")
        file.create_dataset("y", (1, 6), h5py.ref_dtype)[0] = cells
        file["y"].attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: test".ljust(512, b" "))
    corpus = load(path, range=[0, 1], test_fraction=0.4)
    assert corpus.classes == ("left", "right")
    assert np.array_equal(everything(corpus)[0], x.astype(np.float32))


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


# ---- what cannot be used --------------------------------------------------------------------------------------------

X, Y = np.random.default_rng(0).random((6, 3)), labels(6)
SERIES = np.random.default_rng(0).random((6, 4, 2))


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


# ---- from the command line ------------------------------------------------------------------------------------------


def test_verify_says_what_it_understood(tmp_path, capsys):
    root = write(tmp_path, "npz", x=np.random.default_rng(0).random((20, 8, 8)) * 16, y=labels(20))
    assert cli.main(["data", "verify", "arrays", f"data.root={root}"]) == 0
    said = capsys.readouterr().out
    for words in (
        "kind: images of 8 x 8\n",
        "range: 0.",
        "samples: 16 to train, 4 to test",
        "  0               8           2",
        "note: images: x has square rows of 8 x 8, float64",
        "note: test: no x_test",
        "no fault",
    ):
        assert words in said, said
    assert cli.main(["data", "verify", "arrays", f"data.root={root}", "data.kind=spikes"]) == 1
    assert "spike trains are 0 and 1" in capsys.readouterr().out
    assert cli.main(["data", "verify", "arrays", f"data.root={root}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["form"]["kind"] == "image"


def values_of(root: Path, model: str = "strsbp", **own) -> dict:
    """The config of a run on a file."""
    return {
        **trained_runs.values(model),
        "data": {"name": "arrays", "root": str(root), "validation": 0.2, **own},
        "encoder": {"name": "auto", "steps": 30, "attenuation": None},
        "train": {"epochs": 1, "batch_size": 8, "lr": 0.01},
    }


def one_of_each(folder: Path) -> dict[str, Path]:
    """A file of each kind, 20 samples in 2 classes."""
    rng, y, own = np.random.default_rng(0), np.array(["no", "yes"] * 10), {}
    rows = [rng.standard_normal((3 + k % 4, 2)) for k in range(20)]
    for name, x in {
        "image": rng.integers(0, 256, (20, 5, 4), dtype=np.uint8),
        "grey": rng.random((20, 5, 5)) * 7,
        "vector": rng.standard_normal((20, 6)),
        "series": rng.standard_normal((20, 9, 2)),
        "ragged": ragged(*rows),
        "spikes": rng.random((20, 40, 5)) < 0.3,
    }.items():
        (folder / name).mkdir()
        own[name] = write(folder / name, "npz", x=x, y=y)
    return own


CHOSEN = {
    "image": {"strsbp": "poisson", "stbp": "bernoulli"},
    "vector": {"strsbp": "poisson", "stbp": "bernoulli"},
    "series": {"strsbp": "population", "stbp": "population"},
    "spikes": {"strsbp": "stored", "stbp": "stored"},
}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["strsbp", "stbp"])
@pytest.mark.parametrize("name", ["image", "grey", "vector", "series", "ragged", "spikes"])
def test_a_row_is_fed_as_the_corpus_feeds_it(tmp_path, name, model):
    """From a run's folder alone, bit for bit; the run's config says which encoder was chosen."""
    root = one_of_each(tmp_path)[name]
    (tmp_path / "run").mkdir()
    run = RunFolder(trained_runs.train_with(values_of(root, model), tmp_path / "run"))
    kept, about = run.values(), description.load(run.path)
    kind = {"grey": "image", "ragged": "series"}.get(name, name)
    assert about.kind == kind
    assert kept["encoder"]["name"] == CHOSEN[kind][model]
    dataset, encoder = build.load(kept)
    assert encoder == build.load(values_of(root, model)).encoder
    reader = samples.Reader(kept, about)
    for split in dataset.train, dataset.test:
        row = int(corpus_row(root, split.index[0]))
        found = reader.read(f"{root}:{row}")
        assert np.array_equal(found.inputs, encoder.encode(split.samples[[0]], np.zeros(1, np.int64), 0))
        assert found.label == split.labels[0]
        assert split is dataset.test or found.notes == ()


def corpus_row(root: Path, index: int) -> str:
    return load(root).names[index].split()[-1]


@pytest.mark.slow
def test_single_samples_and_rows_of_other_files(tmp_path, capsys):
    root = one_of_each(tmp_path)["series"]
    (tmp_path / "run").mkdir()
    run = trained_runs.train_with(values_of(root), tmp_path / "run")
    x = np.load(root)["x"]
    np.save(tmp_path / "one.npy", x[3])
    np.savez(tmp_path / "more.npz", x=np.pad(x, ((0, 0), (0, 2), (0, 0))), x_test=x[:, :4] * 100)
    kept, about = RunFolder(run).values(), description.load(run)
    reader = samples.Reader(kept, about)
    wanted = reader.read(f"{root}:3").inputs
    assert np.array_equal(reader.read(str(tmp_path / "one.npy")).inputs, wanted)
    cut = reader.read(f"{tmp_path / 'more.npz'}:3")
    assert np.array_equal(cut.inputs, wanted)
    assert cut.notes == ("its 11 steps are cut to the 9 of the run",)
    short = reader.read(f"{tmp_path / 'more.npz'}:x_test:3")
    assert "lie beyond those that the network was trained on and are clipped" in short.notes[0]
    np.save(tmp_path / "other.npy", x[3, :, :1])
    for source, words in (
        (str(root), "which sample of it?"),
        (f"{root}:77", "x has no sample 77; it has 20, numbered from 0"),
        (f"{root}:x_test:0", "it has no samples called x_test. There are x"),
        (f"{tmp_path}/no.npz:0", "there is no"),
        (str(tmp_path / "other.npy"), "it is float64 (9, 1); wanted are numbers (steps, 2), 9 at most"),
    ):
        assert cli.main(["predict", str(run), source]) in (1, 2)
        error = capsys.readouterr().err
        assert words in error, error
        assert error.count("\n") == 1
    assert cli.main(["predict", str(run), f"{root}:3"]) == 0
    assert "(it is yes)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_encoder_that_was_chosen(tmp_path):
    """To the same weights, though its command left the encoder open."""
    values = values_of(one_of_each(tmp_path)["series"])
    values["train"] = {**values["train"], "epochs": 2}
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    for folder in folders:
        folder.mkdir()
    trained_runs.train_with(values, folders[0])

    def stop(_metrics: object) -> None:
        raise KeyboardInterrupt

    with contextlib.redirect_stdout(io.StringIO()):
        experiment.run(values, folders[1], command=["test"], on_epoch=stop)
        go_on = resume.prepare(RunFolder(folders[1]))
        assert go_on["encoder"]["name"] == "population"
        experiment.run(go_on, folders[1], command=["test"], resumed=True)
    whole, stopped = (load_file(folder / "last.safetensors") for folder in folders)
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)


@pytest.mark.parametrize("form", ["npz", "compressed", "npy", "h5"])
def test_files_that_changed_anywhere_are_read_or_refused(tmp_path, form):
    """Whatever the bytes are, nothing but a message comes of them."""
    rng = np.random.default_rng(5)
    x = SERIES if form == "h5" else ragged(*[SERIES[0, : 2 + k % 3] for k in range(6)])
    root = write(tmp_path, form, x=x, y=Y)
    path = root / "x.npy" if form == "npy" else root
    whole, refused = path.read_bytes(), list[str]()
    for _ in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, min(len(content), rng.choice([150, 10_000])), 3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            load(root).digest()
        except SnnrunError as error:
            refused.append(str(error))
    assert refused
    assert all(message.startswith(str(tmp_path)) or message.startswith(root.name) for message in refused), refused
