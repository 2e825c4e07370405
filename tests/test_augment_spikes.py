"""Augmentation of spike trains: against loops in NumPy, and what holds of every draw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from corpora import nmnist_tree
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun import cli, data
from snnrun.compiled import parallel
from snnrun.compiled.packed_arrays import pack
from snnrun.compiled.splitmix_arrays import keyed
from snnrun.data.augment_spikes import _SPIKES, AugmentSpikes, displacements
from snnrun.errors import UsageError

MASK = 2**64 - 1
STEPS, NEURONS, IMAGE = 40, 70, (2, 5, 7)
ALL: dict[str, Any] = {"time_shift": 7, "jitter": 1.7, "drop": 0.3, "speed": 0.4}


def trains(count: int, seed: int = 0, density: float = 0.2) -> np.ndarray:
    """Bits (S, T, W), and no bit beyond the channels."""
    spikes = np.random.default_rng(seed).random((count, STEPS, NEURONS)) < density
    return np.stack([pack(sample) for sample in spikes])


def unpacked(bits: np.ndarray) -> np.ndarray:
    words = np.ascontiguousarray(bits).view(np.uint8)
    return np.unpackbits(words, axis=-1, bitorder="little")[..., :NEURONS].astype(bool)


def drawn(key: int, place: int) -> int:
    """SplitMix64's word of a place in the stream of a key."""
    x = (key + (place + 1) * 0x9E3779B97F4A7C15) & MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def reference(augment: AugmentSpikes, samples: np.ndarray, index: np.ndarray, epoch: int) -> np.ndarray:
    """What becomes of every spike, one by one: spikes (S, T, N)."""
    shown = np.zeros((len(samples), STEPS, NEURONS), bool)
    below, moves = displacements(augment.jitter), augment.moves(index, epoch)
    for b, key in enumerate(keyed(index, _SPIKES, augment.seed, epoch).tolist()):
        down, right = moves[b, 2:4]
        for t, n in np.argwhere(unpacked(samples[b])).tolist():
            word = drawn(key, t * 64 * samples.shape[2] + n)
            if word % 2**32 < round(augment.drop * 2**32):
                continue
            when = (
                math.floor(t * moves[b, 5] / 2**32 + 0.5)
                + moves[b, 0]
                + int(np.searchsorted(below, word >> 32, side="right"))
                - len(below) // 2
            )
            where = n + moves[b, 1]
            if augment.image is not None:
                channel, row, column = np.unravel_index(n, augment.image)
                row, column = row + down, column + right
                if not (0 <= row < augment.image[1] and 0 <= column < augment.image[2]):
                    continue
                column = augment.image[2] - 1 - column if moves[b, 4] else column
                where = np.ravel_multi_index((channel, row, column), augment.image)
            if 0 <= when < STEPS and 0 <= where < NEURONS:
                shown[b, when, where] = True
    return shown


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (None, ALL | {"channel_shift": 5}),
        (IMAGE, ALL | {"mirror": True, "shift": 2}),
        (None, {"channel_shift": 69}),
        (None, {"time_shift": 39}),
        (None, {"jitter": 39.0}),
        (None, {"speed": 0.9}),
        (IMAGE, {"mirror": True}),
    ],
)
def test_every_spike_goes_where_the_definition_says(image, options):
    samples, index = trains(6), np.array([0, 1, 2, 900, 7, 3])
    augment = AugmentSpikes(NEURONS, STEPS, image, 5, **options)
    for epoch in (1, 2):
        shown = augment(samples, index, epoch)
        assert np.array_equal(unpacked(shown), reference(augment, samples, index, epoch))
        assert not np.array_equal(shown, samples)
        assert np.array_equal(pack(unpacked(shown)[0]), shown[0])  # no bit beyond the channels


@given(st.permutations(range(6)), st.integers(1, 50), st.integers(1, 3))
@settings(max_examples=30)
def test_draws_depend_on_seed_epoch_and_sample_alone(order, epoch, threads):
    samples, augment = trains(6), AugmentSpikes(NEURONS, STEPS, None, 3, channel_shift=4, **ALL)
    together = augment(samples, np.arange(6), epoch)
    parallel.set_threads(threads)
    index = np.array(order)
    assert np.array_equal(augment(samples[index], index, epoch), together[index])
    alone = [augment(samples[i : i + 1], np.array([i]), epoch) for i in range(6)]
    assert np.array_equal(np.concatenate(alone), together)
    parallel.set_threads(1)


def test_presentations_samples_and_seeds_differ():
    samples = np.repeat(trains(1), 2, axis=0)
    for options in {"time_shift": 9}, {"channel_shift": 9}, {"jitter": 1.0}, {"drop": 0.1}:
        shown = [
            AugmentSpikes(NEURONS, STEPS, None, seed, **options)(samples, np.arange(2), epoch)[k]
            for seed, epoch, k in ((0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1))
        ]
        assert len({sample.tobytes() for sample in shown}) >= 3, options


@given(st.integers(0, 99), st.floats(0.01, 0.99))
@settings(max_examples=15)
def test_a_drop_leaves_a_binomial_share_of_the_spikes_and_makes_none(seed, drop):
    samples = trains(60, seed)
    shown = AugmentSpikes(NEURONS, STEPS, None, seed, drop=drop)(samples, np.arange(60), 1)
    assert not (shown & ~samples).any()
    before, after = unpacked(samples).sum(), unpacked(shown).sum()
    assert abs(after - (1 - drop) * before) < 4.5 * math.sqrt(before * drop * (1 - drop))
    each = unpacked(shown)[unpacked(samples)].reshape(-1)  # neighbours are dropped independently
    assert abs(np.corrcoef(each[1:], each[:-1])[0, 1]) < 4.5 / math.sqrt(len(each))


@given(st.integers(0, 99), st.integers(1, 15), st.integers(1, 20))
@settings(max_examples=20)
def test_shifts_move_all_of_a_sample_and_the_opposite_move_brings_it_back(seed, steps, channels):
    middle = np.zeros((5, STEPS, NEURONS), bool)
    middle[:, steps : STEPS - steps, channels : NEURONS - channels] = (
        np.random.default_rng(seed).random((5, STEPS - 2 * steps, NEURONS - 2 * channels)) < 0.3
    )
    samples = np.stack([pack(sample) for sample in middle])
    augment = AugmentSpikes(NEURONS, STEPS, None, seed, time_shift=steps, channel_shift=channels)
    shown, moves = unpacked(augment(samples, np.arange(5), 1)), augment.moves(np.arange(5), 1)
    assert np.array_equal(shown.sum(axis=(1, 2)), middle.sum(axis=(1, 2)))
    for before, after, (later, higher, *_) in zip(middle, shown, moves, strict=True):
        assert np.array_equal(np.roll(after, (-later, -higher), axis=(0, 1)), before)


def test_all_shifts_are_equally_likely():
    moves = AugmentSpikes(NEURONS, STEPS, IMAGE, 0, time_shift=2, mirror=True, shift=1).moves(np.arange(9000), 3)
    for place, choices in ((0, 5), (2, 3), (3, 3), (4, 2)):
        counts = np.unique(moves[:, place], return_counts=True)[1]
        assert len(counts) == choices
        assert np.abs(counts - 9000 / choices).max() < 4.5 * math.sqrt(9000 / choices)
    assert abs(np.corrcoef(moves[:, [0, 2, 3, 4]].T) - np.eye(4)).max() < 0.05


def test_speed_multiplies_all_times_of_a_sample_by_one_factor():
    """Spikes far apart stay as many; those that leave at the end are lost. Factors are uniform around 1."""
    index = np.arange(400)
    spikes = np.zeros((STEPS, NEURONS), bool)
    spikes[[0, 10, 20, 30]] = True
    augment = AugmentSpikes(NEURONS, STEPS, None, 2, speed=0.5)
    shown, factors = unpacked(augment(np.stack([pack(spikes)] * 400), index, 1)), augment.moves(index, 1)[:, 5] / 2**32
    assert 0.5 <= factors.min() < 0.55
    assert 1.45 < factors.max() <= 1.5
    assert abs(factors.mean() - 1.0) < 0.05
    for sample, factor in zip(shown, factors, strict=True):
        times = [math.floor(t * factor + 0.5) for t in (0, 10, 20, 30)]
        assert np.flatnonzero(sample[:, 3]).tolist() == [time for time in times if time < STEPS]


def test_jitter_is_a_rounded_normal_deviate_and_loses_spikes_at_edges_and_in_collisions_alone():
    spikes = np.zeros((400, STEPS, NEURONS), bool)
    spikes[:, STEPS // 2] = True  # a spike of each channel, far from the edges
    samples = np.stack([pack(sample) for sample in spikes])
    shown = unpacked(AugmentSpikes(NEURONS, STEPS, None, 0, jitter=2.0)(samples, np.arange(400), 1))
    assert np.array_equal(shown.sum(axis=1), spikes.sum(axis=1))
    moved = np.nonzero(shown)[1] - STEPS // 2
    assert abs(moved.mean()) < 4.5 * 2 / math.sqrt(len(moved))
    assert abs(moved.std() - math.sqrt(4 + 1 / 12)) < 0.05
    full = np.ones((1, STEPS, NEURONS), bool)
    fewer = unpacked(AugmentSpikes(NEURONS, STEPS, None, 0, jitter=2.0)(pack(full[0])[None], np.arange(1), 1)).sum()
    assert 0.4 * full.sum() < fewer < full.sum()


@given(st.floats(0.01, 300))
def test_the_table_of_displacements_is_a_symmetric_distribution(deviation):
    shares = np.diff(displacements(deviation), prepend=0)
    assert (shares >= 0).all()
    assert shares.sum() == 2**32
    assert np.abs(shares - shares[::-1]).max() <= 2
    assert displacements(0.0).tolist() == [2**32]


def test_mirrored_events_stay_in_their_row_and_polarity():
    samples, index = trains(8), np.arange(8)
    augment = AugmentSpikes(NEURONS, STEPS, IMAGE, 0, mirror=True)
    shown, flips = unpacked(augment(samples, index, 1)).reshape(8, STEPS, *IMAGE), augment.moves(index, 1)[:, 4]
    before = unpacked(samples).reshape(8, STEPS, *IMAGE)
    assert 0 < flips.sum() < 8
    for k, flip in enumerate(flips):
        assert np.array_equal(shown[k], before[k][..., ::-1] if flip else before[k])


# ---- in a training --------------------------------------------------------------------------------------------------


def test_evaluation_and_samples_without_augmentation_are_left_as_they_are():
    samples, index = trains(2), np.arange(2)
    assert AugmentSpikes(NEURONS, STEPS, None, 0, **ALL)(samples, index, 0) is samples
    assert AugmentSpikes(NEURONS, STEPS, None, 0)(samples, index, 1) is samples


def test_stored_samples_are_not_changed():
    samples = trains(3)
    before = samples.copy()
    samples.flags.writeable = False
    AugmentSpikes(NEURONS, STEPS, None, 0, **ALL)(samples, np.arange(3), 1)
    assert np.array_equal(samples, before)


def test_a_corpus_of_spikes_declares_them(tmp_path):
    dataset = data.load("utterances", samples=3, classes=2, steps=50, time_shift=5, drop=0.5)
    assert dataset.augment is not None
    samples = dataset.train.samples[:]
    shown = dataset.augment(samples, dataset.train.index, 1)
    assert 0.3 < np.bitwise_count(shown.view(np.uint64)).sum() / np.bitwise_count(samples.view(np.uint64)).sum() < 0.6
    nmnist_tree(tmp_path)
    pixels = data.load("nmnist", root=tmp_path, bin_ms=10.0, steps=32, mirror=True, shift=3, jitter=1.0).augment
    assert isinstance(pixels, AugmentSpikes)
    assert (pixels.image, pixels.neurons, pixels.steps, pixels.mirror, pixels.shift) == ((2, 34, 34), 2312, 32, True, 3)


def test_what_cannot_be_is_said(tmp_path):
    nmnist_tree(tmp_path)
    events = {"root": tmp_path, "bin_ms": 10.0, "steps": 32}
    small = {"samples": 2, "classes": 2, "steps": 20}
    for name, options, words in (
        ("digits", {"time_shift": 1, "drop": 0.1}, "data.time_shift, data.drop: only spike trains can be augmented so"),
        ("utterances", small | {"mirror": True}, "data.mirror: only images can be augmented so"),
        ("utterances", small | {"time_shift": 20}, "data.time_shift=20: a number below the 20 steps of a sample"),
        ("utterances", small | {"channel_shift": 78}, "data.channel_shift=78: a number below the 78 channels"),
        ("utterances", small | {"jitter": 20.5}, "data.jitter=20.5: a number below the 20 steps"),
        ("utterances", small | {"drop": 1.0}, "data.drop: 1 is out of range. Allowed: at least 0 and less than 1"),
        ("utterances", small | {"speed": 1.0}, "data.speed: 1 is out of range. Allowed: at least 0 and less than 1"),
        ("digits", {"speed": 0.1}, "data.speed: only spike trains can be augmented so"),
        ("utterances", small | {"erase": 0.5}, "data.erase: only images can be augmented so"),
        ("nmnist", events | {"erase": 0.5}, "data.erase: only images can be augmented so"),
        ("nmnist", events | {"channel_shift": 3}, "data.channel_shift=3: these channels are pixels, which data.shift"),
        ("nmnist", events | {"shift": 34}, "data.shift=34: a number below the 34 rows or columns of a sample"),
        ("nmnist", events | {"elastic": 3.4}, "data.elastic: only images can be augmented so"),
    ):
        with pytest.raises(UsageError) as error:
            data.load(name, **options)
        assert words in str(error.value)


@pytest.mark.slow
def test_a_resumed_training_goes_on_with_the_same_spikes(tmp_path, capsys):
    """Three epochs at once, or two and then one more: the same weights to the last bit."""
    small = ["tracking=none", "hardware=cpu", "hardware.kernels=reference", "model.network=8", "train.batch_size=16"]
    small += ["data=utterances", "data.classes=3", "data.samples=8", "data.steps=60", "train.schedule=constant"]
    small += ["data.time_shift=5", "data.channel_shift=2", "data.jitter=1", "data.drop=0.1", "data.speed=0.2"]
    folders = [tmp_path / "whole", tmp_path / "parts"]
    for folder, epochs in zip(folders, (3, 2), strict=True):
        assert cli.main(["train", *small, f"train.epochs={epochs}", f"outputs={folder}"]) == 0
    assert cli.main(["resume", "last", "train.epochs=3", "--outputs", str(folders[1])]) == 0
    capsys.readouterr()
    whole, parts = (next(folder.glob("runs/*/last.safetensors")).read_bytes() for folder in folders)
    assert whole == parts
