"""Augmentation: keyed draws, and nothing but mirror images and shifts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnrun import data
from snnrun.data.augment import Augment
from snnrun.errors import UsageError

SHAPE = (5, 7)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (count, 35), dtype=np.uint8)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image moved, by hand."""
    moved = np.zeros_like(image)
    for y, x in np.ndindex(*image.shape):
        if 0 <= y + down < image.shape[0] and 0 <= x + right < image.shape[1]:
            moved[y + down, x + right] = image[y, x]
    return moved


@given(st.integers(0, 2**31), st.integers(1, 100), st.booleans(), st.integers(0, 3))
def test_every_image_is_a_mirrored_and_shifted_one(seed, epoch, mirror, shift):
    samples = images(8)
    shown = Augment(SHAPE, seed, mirror, shift)(samples, np.arange(8), epoch)
    moves = range(-shift, shift + 1)
    for before, after in zip(samples.reshape(-1, *SHAPE), shown.reshape(-1, *SHAPE), strict=True):
        moved = [shifted(before, down, right) for down in moves for right in moves]
        candidates = moved + [image[:, ::-1] for image in moved] if mirror else moved
        assert any(np.array_equal(after, image) for image in candidates)


@given(st.permutations(range(8)), st.integers(0, 1000))
def test_draws_do_not_depend_on_the_batch(order, epoch):
    samples, augment = images(8), Augment(SHAPE, 3, True, 2)
    together = augment(samples, np.arange(8), epoch)
    index = np.array(order)
    assert np.array_equal(augment(samples[index], index, epoch), together[index])


def test_all_choices_are_equally_likely_and_epochs_differ():
    """2,000 draws: mirrored half of the time, each of the nine shifts a ninth of it, to four standard deviations."""
    image = np.zeros(SHAPE, np.uint8)
    image[2, 3], image[2, 4] = 1, 2
    samples = np.repeat(image.reshape(1, -1), 2000, axis=0)
    augment = Augment(SHAPE, 0, True, 1)
    shown, again = (augment(samples, np.arange(2000), epoch).reshape(-1, *SHAPE) for epoch in (1, 2))
    mirrored = (np.diff(shown.astype(int), axis=2) == -1).any((1, 2)).mean()
    assert abs(mirrored - 0.5) < 4 * np.sqrt(0.25 / 2000)
    rows = np.array([(shown[:, y] == 1).any(1).mean() for y in (1, 2, 3)])
    assert rows.sum() == 1
    assert np.abs(rows - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 2000)
    assert 0.85 < (shown != again).any((1, 2)).mean() < 0.99


def test_evaluation_sees_the_images_themselves():
    samples = images(4)
    assert Augment(SHAPE, 0, True, 2)(samples, np.arange(4), 0) is samples
    assert Augment(SHAPE, 0)(samples, np.arange(4), 1) is samples


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="only images"):
        data.load(name="utterances", mirror=True, samples=2, classes=2, steps=20)
    with pytest.raises(UsageError, match=r"data\.shift=8: a number of pixels below the 8"):
        data.load(name="digits", shift=8)
