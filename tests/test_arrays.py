"""Arrays of one's own: what is written is what is read, and what cannot be used is said."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_arrays import labels, load, ragged, write, written

from snnrun import data
from snnrun.data import arrays
from snnrun.data.corpus import Converted

NUMBERS = st.sampled_from(["?", "u1", "i1", "u2", "<i4", ">i4", "i8", "f2", "<f4", ">f4", "f8"])


WRITERS = ("npz", "compressed", "npy", "h5", "mat")


def everything(corpus: data.Corpus) -> tuple[np.ndarray, np.ndarray]:
    """All samples and labels in the order of the file, of a corpus without parts of its own."""
    order = np.argsort([int(name.split()[-1].replace(",", "")) for name in corpus.names])
    samples = np.concatenate([corpus.train_samples[:], corpus.test_samples[:]])
    return samples[order], np.concatenate([corpus.train_labels, corpus.test_labels])[order]


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
