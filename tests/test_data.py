from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from snnrun import data, encoders
from snnrun.data import blank
from snnrun.data.corpus import Corpus, Mapped, stratified
from snnrun.errors import UsageError

reproducible = settings(deadline=None, derandomize=True, max_examples=30)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits():
    digits = data.load("digits", root="/nowhere")
    assert (digits.name, digits.kind, digits.shape) == ("digits", "image", (8, 8))
    assert digits.image == (1, 8, 8)
    assert digits.classes == tuple("0123456789")
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1293, 144, 360)
    for split in digits.train, digits.validation, digits.test:
        assert split.samples.dtype == np.uint8
        assert split.samples.shape == (len(split), 64)
        assert split.labels.dtype == split.index.dtype == np.int64
        assert split.samples.flags.writeable
    assert digits.train.samples.max() == 255
    every = np.concatenate([digits.train.index, digits.validation.index, digits.test.index])
    assert np.array_equal(np.sort(every), np.arange(1797))
    assert set(np.bincount(digits.test.labels)) <= {34, 35, 36, 37}  # 174 to 183 of a class in 1797


def test_digits_pixels_are_the_bundled_ones():
    from sklearn.datasets import load_digits

    digits = data.load("digits", validation=0)
    pixels, labels = load_digits(return_X_y=True)
    mine = sorted(map(bytes, np.concatenate([digits.train.samples, digits.test.samples])))
    assert mine == sorted(bytes(round(v * 255 / 16) for v in row) for row in pixels)
    assert np.array_equal(np.bincount(labels), np.bincount(np.concatenate([digits.train.labels, digits.test.labels])))


def test_test_split_and_digest_do_not_depend_on_the_seed():
    one, two = data.load("digits", seed=1), data.load("digits", seed=2, limit=5, validation=0.5)
    assert np.array_equal(one.test.samples, two.test.samples)
    assert one.digest == two.digest
    assert len(one.digest) == 64
    assert not np.array_equal(one.validation.index, two.validation.index)


# --- cutting ----------------------------------------------------------------------------------------------------------


@reproducible
@given(hnp.arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 6)), st.floats(0, 1), st.integers(0, 9))
def test_stratified_keeps_every_share(labels, fraction, seed):
    size = round(fraction * len(labels))
    chosen = stratified(labels, size, np.random.default_rng(seed))
    assert len(chosen) == size
    assert (np.diff(chosen) > 0).all()
    counts = np.bincount(labels)
    assert (np.abs(np.bincount(labels[chosen], minlength=len(counts)) - counts * size / len(labels)) < 1).all()


def test_stratified_gives_what_is_left_to_the_largest_remainder():
    labels = np.repeat([0, 1, 2], [9, 10, 1])  # shares of 5: 2.25, 2.5, 0.25
    assert np.bincount(labels[stratified(labels, 5, np.random.default_rng(0))]).tolist() == [2, 3]


def test_digest_sees_every_sample_and_label():
    def digest(**changes):
        parts = {
            "train_samples": np.zeros((3, 4), np.uint8),
            "train_labels": np.zeros(3, np.int64),
            "test_samples": np.zeros((2, 4), np.uint8),
            "test_labels": np.zeros(2, np.int64),
        }
        for part, position in changes.items():
            parts[part].flat[position] = 1
        return Corpus("image", (2, 2), ("a", "b"), **parts).digest()

    digests = [
        digest(),
        digest(train_samples=11),
        digest(train_labels=2),
        digest(test_samples=0),
        digest(test_labels=1),
    ]
    assert len(set(digests)) == 5
    assert digest() == digests[0]


@pytest.mark.slow
@reproducible
@given(st.floats(0, 0.9), st.integers(0, 2**40), st.integers(1, 100))
def test_cuts_are_disjoint_ordered_and_reproducible(validation, seed, limit):
    cut = data.load("digits", validation=validation, seed=seed, limit=limit)
    again = data.load("digits", validation=validation, seed=seed, limit=limit)
    whole = data.load("digits", validation=validation, seed=seed)
    assert len(cut.train) == limit
    assert len(cut.validation) == round(validation * 1437)
    for split, other in (cut.train, again.train), (cut.validation, again.validation):
        assert np.array_equal(split.index, other.index)
        assert np.array_equal(split.samples, other.samples)
        assert (np.diff(split.index) > 0).all()
    assert np.array_equal(cut.validation.index, whole.validation.index)
    assert not set(cut.train.index) & set(cut.validation.index)
    assert set(cut.train.index) <= set(whole.train.index)
    longer = data.load("digits", validation=validation, seed=seed, limit=limit + 1)
    assert set(cut.train.index) < set(longer.train.index)


def test_seed_changes_the_cuts():
    one, two = (data.load("digits", seed=seed, limit=100) for seed in (0, 1))
    assert not np.array_equal(one.train.index, two.train.index)
    assert not np.array_equal(one.validation.index, two.validation.index)


def test_no_validation():
    digits = data.load("digits", validation=0)
    assert len(digits.validation) == 0
    assert digits.validation.samples.shape == (0, 64)
    assert len(digits.train) == 1437


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "minst"}, ["data=minst", "fashion_mnist"]),
        ({"validation": -0.1}, ["data.validation: -0.1"]),
        ({"validation": 1.0}, ["data.validation: 1 is"]),
        ({"validation": float("nan")}, ["data.validation: nan"]),
        ({"validation": 0.9999}, ["data.validation=0.9999", "left to train"]),
        ({"limit": 0}, ["data.limit: 0"]),
        ({"limit": -5}, ["data.limit: -5"]),
        ({"limit": 1294}, ["data.limit=1294", "only 1293"]),
        ({"seed": -1}, ["seed: -1"]),
        ({"root": "~nobody-of-this-name/data"}, ["data.root=~nobody"]),
    ],
)
def test_values_out_of_range(options, words):
    with pytest.raises(UsageError) as error:
        data.load(**{"name": "digits", **options})
    assert all(word in str(error.value) for word in words), str(error.value)


# --- the real corpora -------------------------------------------------------------------------------------------------


def test_mnist(shared):
    mnist = data.load("mnist", root=shared / "data", validation=0, download=False)
    assert mnist.shape == (28, 28)
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.train.labels).tolist() == counts
    assert mnist.train.samples.shape == (60_000, 784)
    assert mnist.test.samples.shape == (10_000, 784)


def test_fashion_mnist(shared):
    fashion = data.load("fashion_mnist", root=shared / "data", download=False, limit=1000)
    assert fashion.classes[0] == "T-shirt/top"
    assert fashion.classes[9] == "Ankle boot"
    assert len(fashion.train) == 1000
    assert np.bincount(fashion.validation.labels).tolist() == [600] * 10
    assert len(fashion.test) == 10_000


# --- samples with nothing in them -------------------------------------------------------------------------------------


def corpus_of(kind: str, samples: np.ndarray, **more) -> Corpus:
    labels = np.arange(len(samples)) % 2
    half = len(samples) // 2
    parts = samples[:half], labels[:half], samples[half:], labels[half:]
    return Corpus(kind, samples.shape[1:], ("a", "b"), *parts, **more)


def test_pictures_of_one_colour_are_told(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12), dtype=np.uint8)
    assert blank.notes(corpus_of("image", pixels)) == []
    pixels[[1, 4]] = [[0], [255]]
    assert blank.notes(corpus_of("image", pixels)) == [
        "2 of 6 samples are of one colour; `snnrun data show` draws them"
    ]
    own = corpus_of("image", pixels, names=tuple("uvwxyz"))
    assert blank.notes(own) == ["2 of 6 samples are of one colour (v, y); `snnrun data show` draws them"]
    monkeypatch.setitem(data.DATASETS, "digits", lambda root, download: own)
    assert data.load("digits", validation=0).notes == (
        "2 of 6 samples are of one colour (v, y); `snnrun data show` draws them",
    )


def test_a_corpus_in_which_all_is_dark_is_told():
    pixels = np.random.default_rng(0).integers(0, 16, (6, 12), dtype=np.uint8)
    assert blank.notes(corpus_of("image", pixels)) == [
        f"no pixel of any sample is brighter than {pixels.max()} of 255, so that few or no spikes come of it; "
        "`snnrun data stats` counts them"
    ]
    assert blank.notes(corpus_of("image", np.zeros((2, 12), np.uint8))) == [
        "2 of 2 samples are of one colour; `snnrun data show` draws them"
    ]


def test_samples_without_a_spike_are_told():
    spikes = np.full((6, 5, 2), -1)
    assert blank.notes(corpus_of("spikes", spikes)) == []
    spikes[[0, 5]] = 0
    assert blank.notes(corpus_of("spikes", spikes, names=tuple("uvwxyz"))) == [
        "2 of 6 samples have no input spike (u, z); `snnrun data show` draws them"
    ]
    mapped = Mapped(spikes, np.array([0, 3])), Mapped(spikes, np.array([1, 5, 4]))
    labels = np.zeros(2, int), np.zeros(3, int)
    own = Corpus("spikes", (128,), ("a", "b"), mapped[0], labels[0], mapped[1], labels[1])
    assert blank.notes(own) == ["2 of 5 samples have no input spike; `snnrun data show` draws them"]


# ---- vectors, series and images of floats ----------------------------------------------------------------------------


def own_corpus(kind: str) -> Corpus:
    """20 samples to train on and 5 to test on; a series in two channels, whose second half some lack."""
    rng, shape = np.random.default_rng(0), {"image": (6, 6), "vector": (5,), "series": (2,)}[kind]
    size = (25, 8, 2) if kind == "series" else (25, int(np.prod(shape)))
    samples = rng.random(size).astype(np.float32)
    if kind == "series":
        samples[::3, 4:] = np.nan
    labels = np.arange(25) % 2
    image = (1, 6, 6) if kind == "image" else None
    return Corpus(kind, shape, ("a", "b"), samples[:20], labels[:20], samples[20:], labels[20:], image=image)


@pytest.mark.parametrize("kind", ["image", "vector", "series"])
def test_samples_of_floats_reach_the_encoder(monkeypatch, kind):
    monkeypatch.setitem(data.DATASETS, "digits", lambda root, download: own_corpus(kind))
    loaded = data.load("digits", validation=0.2)
    assert loaded.kind == kind
    assert loaded.steps == (8 if kind == "series" else 0)
    assert loaded.notes == ()
    encoder = encoders.build("poisson", seed=0, steps=16)
    bits = encoder.encode(loaded.train.samples, loaded.train.index, 1)
    assert bits.shape == (16, 16, 1)
    assert encoders.inputs(encoder, loaded.channels) == loaded.channels
    if kind == "series":
        ended = loaded.train.index % 3 == 0
        assert not bits[ended, 8:].any(), "these end after half of their points"
        assert bits[~ended, 8:].any()


def test_values_that_are_equal_or_small_are_told(monkeypatch):
    own = own_corpus("vector")
    own.train_samples[:] *= 0.1
    own.test_samples[:] *= 0.1
    own.train_samples[3] = 0.05
    monkeypatch.setitem(data.DATASETS, "digits", lambda root, download: own)
    first, second = data.load("digits").notes
    assert first == "1 of 25 samples have one value alone; `snnrun data show` draws them"
    assert re.fullmatch(
        r"no value of any sample is larger than 0[.]\d+ of 1, so that few or no spikes come of it; `snnrun data .*",
        second,
    )


def test_float_images_are_moved_and_not_distorted(monkeypatch):
    own = own_corpus("image")
    monkeypatch.setitem(data.DATASETS, "digits", lambda root, download: own)
    moved = data.load("digits", shift=2, mirror=True)
    shown = moved.augment(moved.train.samples, moved.train.index, 1)
    assert shown.dtype == np.float32
    assert (shown != moved.train.samples).any()
    with pytest.raises(UsageError, match="only pixels of 8 bits"):
        data.load("digits", rotation=5.0)
