"""Augmentation: keyed draws, mirror images, shifts, and the map of elastic distortion, scale and rotation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun import data
from snnrun.compiled import parallel
from snnrun.data import distort
from snnrun.data.augment import Augment
from snnrun.errors import UsageError

SHAPE = (5, 7)
IMAGE = (1, *SHAPE)


def images(count: int, seed: int = 0, pixels: int = 35) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (count, pixels), dtype=np.uint8)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image moved, by hand."""
    moved = np.zeros_like(image)
    for y, x in np.ndindex(*image.shape):
        if 0 <= y + down < image.shape[0] and 0 <= x + right < image.shape[1]:
            moved[y + down, x + right] = image[y, x]
    return moved


# ---- mirror and shift -----------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 100), st.booleans(), st.integers(0, 3))
def test_every_image_is_a_mirrored_and_shifted_one(seed, epoch, mirror, shift):
    samples = images(8)
    shown = Augment(IMAGE, seed, mirror, shift)(samples, np.arange(8), epoch)
    moves = range(-shift, shift + 1)
    for before, after in zip(samples.reshape(-1, *SHAPE), shown.reshape(-1, *SHAPE), strict=True):
        moved = [shifted(before, down, right) for down in moves for right in moves]
        candidates = moved + [image[:, ::-1] for image in moved] if mirror else moved
        assert any(np.array_equal(after, image) for image in candidates)


@given(st.permutations(range(8)), st.integers(0, 1000))
def test_draws_do_not_depend_on_the_batch(order, epoch):
    samples, augment = images(8), Augment(IMAGE, 3, True, 2)
    together = augment(samples, np.arange(8), epoch)
    index = np.array(order)
    assert np.array_equal(augment(samples[index], index, epoch), together[index])


def test_all_choices_are_equally_likely_and_epochs_differ():
    """2,000 draws: mirrored half of the time, each of the nine shifts a ninth of it, to four standard deviations."""
    image = np.zeros(SHAPE, np.uint8)
    image[2, 3], image[2, 4] = 1, 2
    samples = np.repeat(image.reshape(1, -1), 2000, axis=0)
    augment = Augment(IMAGE, 0, True, 1)
    shown, again = (augment(samples, np.arange(2000), epoch).reshape(-1, *SHAPE) for epoch in (1, 2))
    mirrored = (np.diff(shown.astype(int), axis=2) == -1).any((1, 2)).mean()
    assert abs(mirrored - 0.5) < 4 * np.sqrt(0.25 / 2000)
    rows = np.array([(shown[:, y] == 1).any(1).mean() for y in (1, 2, 3)])
    assert rows.sum() == 1
    assert np.abs(rows - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 2000)
    assert 0.85 < (shown != again).any((1, 2)).mean() < 0.99


def test_the_channels_of_an_image_move_together():
    samples = images(6)
    grey = Augment(IMAGE, 1, True, 2, 3.4, 12, 0.12)(samples, np.arange(6), 5)
    colour = Augment((3, *SHAPE), 1, True, 2, 3.4, 12, 0.12)(np.tile(samples, 3), np.arange(6), 5)
    assert np.array_equal(colour, np.tile(grey, 3))
    mixed = np.concatenate([samples, np.zeros_like(samples), samples], axis=1)
    assert not Augment((3, *SHAPE), 1, True, 2)(mixed, np.arange(6), 5)[:, 35:70].any()


# ---- the map --------------------------------------------------------------------------------------------------------

STRENGTH = {"elastic": 3.4, "rotation": 12.0, "scale": 0.12}
MASK = 2**64 - 1


def noise(key: int, number: int) -> float:
    """SplitMix64's number of that place in the stream of a key, in [-1, 1)."""
    x = (key + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return ((x ^ (x >> 31)) >> 40) / 2**23 - 1


def field(noises: np.ndarray) -> np.ndarray:
    """Convolution with a 21 x 21 Gaussian, sigma 4, prefactor 1 / (2 pi sigma), zero outside: by definition."""
    out = np.zeros_like(noises)
    for r, k in np.ndindex(*noises.shape):
        for i in range(-10, 11):
            for j in range(-10, 11):
                if 0 <= r + i < noises.shape[0] and 0 <= k + j < noises.shape[1]:
                    out[r, k] += noises[r + i, k + j] * math.exp(-(i * i + j * j) / 32) / (2 * math.pi * 4)
    return out


def brute_map(key: int, shape: tuple[int, int], authors: bool) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = shape
    size = rows * columns
    horizontal = np.array([noise(key, n) for n in range(size)]).reshape(shape)
    vertical = horizontal if authors else np.array([noise(key, size + n) for n in range(size)]).reshape(shape)
    dh, dv = STRENGTH["elastic"] * field(horizontal), STRENGTH["elastic"] * field(vertical)
    if authors:
        n0, n1 = horizontal[0, 0], horizontal[0, 1]
        across, down, turn = max(0, n0), max(0, n1), n0
    else:
        across, down, turn = (noise(key, 2 * size + n) for n in range(3))
    theta = math.radians(STRENGTH["rotation"] * turn)
    for r, k in np.ndindex(rows, columns):
        x, y = r - rows // 2, k - columns // 2
        dh[r, k] += STRENGTH["scale"] * across * y + y - y * math.cos(theta) - x * math.sin(theta)
        dv[r, k] += STRENGTH["scale"] * down * x + x - x * math.cos(theta) + y * math.sin(theta)
    return dv, dh


def brute_warp(image: np.ndarray, dv: np.ndarray, dh: np.ndarray, authors: bool) -> np.ndarray:
    """Bilinear; as the authors do it on their scale of -1 to 1, background -1."""
    rows, columns = image.shape
    scaled = np.pad(2 * image.astype(float) / 255 - 1, 2, constant_values=-1)
    out = np.full(image.shape, -1.0)
    for r, k in np.ndindex(rows, columns):
        y, x = r - dv[r, k], k - dh[r, k]
        top, left = (int(y), int(x)) if authors else (math.floor(y), math.floor(x))
        inside = top >= 0 and left >= 0 and top + 1 < rows and left + 1 < columns
        near = -2 <= top <= rows and -2 <= left <= columns
        if inside or (near and not authors):
            cell = scaled[top + 2 : top + 4, left + 2 : left + 4]
            weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
            out[r, k] = (cell * weights).sum()
    return np.clip((out + 1) / 2 * 255, 0, 255)


@pytest.mark.parametrize("shape", [(28, 28), (6, 9)])
@pytest.mark.parametrize("authors", [False, True])
def test_the_map_and_the_sampling_are_those_of_the_definition(shape, authors):
    key = 0xDEADBEEF12345678 + shape[0]
    wanted = brute_map(key, shape, authors)
    dv, dh, wide = (np.empty(shape, np.float32) for _ in range(3))
    strength = np.array([STRENGTH["elastic"], STRENGTH["scale"], math.radians(STRENGTH["rotation"])], np.float32)
    distort.displacements(np.uint64(key), strength, distort.gaussian(), authors, dv, dh, wide)
    np.testing.assert_allclose(dv, wanted[0], atol=2e-5)
    np.testing.assert_allclose(dh, wanted[1], atol=2e-5)
    assert np.abs(wanted).max() > 0.3  # something moves


@pytest.mark.parametrize("authors", [False, True])
def test_sampling_is_bilinear_inside_the_image_and_across_its_border(authors):
    shape = (6, 9)
    image = images(1, pixels=54).reshape(1, *shape)
    dv, dh = np.random.default_rng(1).uniform(-5, 5, (2, *shape)).astype(np.float32)
    dv[0, :4], dh[0, :4] = (0, 0, 0.5, -0.5), (0, 0.5, 0, 0)
    shown = np.empty_like(image)
    distort.warp(image, dv, dh, authors, shown)
    exact = brute_warp(image[0], dv.astype(float), dh.astype(float), authors)
    assert np.abs(shown[0] - exact).max() <= 0.501  # rounding
    assert (exact == 0).any()


def test_the_gaussian_sums_to_about_its_sigma():
    assert 3.85 < distort.gaussian().sum() ** 2 < 4


@given(st.permutations(range(6)), st.integers(1, 50), st.sampled_from(["own", "authors"]), st.integers(1, 3))
@settings(max_examples=30)
def test_a_distortion_depends_on_seed_epoch_and_sample_alone(order, epoch, distortion, threads):
    samples, augment = images(6), Augment(IMAGE, 3, distortion=distortion, **STRENGTH)
    together = augment(samples, np.arange(6), epoch)
    parallel.set_threads(threads)
    index = np.array(order)
    assert np.array_equal(augment(samples[index], index, epoch), together[index])
    alone = [augment(samples[i : i + 1], np.array([i]), epoch) for i in range(6)]
    assert np.array_equal(np.concatenate(alone), together)
    parallel.set_threads(1)


def test_own_maps_differ_between_images_and_the_authors_only_between_epochs():
    samples, index = np.repeat(images(1), 4, axis=0), np.arange(4)
    own, authors = (Augment(IMAGE, 0, distortion=distortion, **STRENGTH) for distortion in ("own", "authors"))
    assert len(np.unique(own(samples, index, 1), axis=0)) == 4
    assert len(np.unique(authors(samples, index, 1), axis=0)) == 1
    for augment in own, authors:
        assert (augment(samples, index, 1) != augment(samples, index, 2)).any()
        assert np.array_equal(augment(samples, index, 1), augment(samples, index, 1))


@given(st.sampled_from(list(STRENGTH)), st.floats(0, 1), st.sampled_from(["own", "authors"]), st.integers(0, 9))
@settings(max_examples=40)
def test_values_stay_within_those_of_the_image(key, strength, distortion, seed):
    """Of a white image, every value is a mixture of white and background."""
    image = np.full((1, 35), 200, np.uint8)
    shown = Augment(IMAGE, seed, distortion=distortion, **{key: strength})(image, np.zeros(1, np.int64), 1)
    assert shown.dtype == np.uint8
    assert shown.shape == image.shape
    assert shown.max() <= 200
    assert shown.reshape(SHAPE)[2, 3] >= 100  # the middle stays inside


@given(st.sampled_from(["elastic", "rotation", "scale"]), st.integers(0, 99))
@settings(max_examples=20)
def test_the_weakest_distortion_leaves_an_image_as_it_is(key, seed):
    samples = images(3)
    assert np.array_equal(Augment(IMAGE, seed, **{key: 1e-7})(samples, np.arange(3), 1), samples)


def test_only_enlarging_is_the_authors():
    """A square in the middle: the authors' epochs never make it smaller, ours do now and then."""
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 9:20, 9:20] = 255
    flat, one = image.reshape(1, -1), np.zeros(1, np.int64)
    area = {
        distortion: [
            Augment((1, 28, 28), 0, scale=0.5, distortion=distortion)(flat, one, e).mean() for e in range(1, 40)
        ]
        for distortion in ("own", "authors")
    }
    assert min(area["authors"]) >= flat.mean() - 1e-9
    assert min(area["own"]) < flat.mean() < max(area["own"])


# ---- erasing --------------------------------------------------------------------------------------------------------


def test_an_erased_image_lacks_a_rectangle_and_nothing_else():
    """Within the sizes of the definition, in all channels; a share of the images is left alone."""
    shape, index = (2, 20, 30), np.arange(2000)
    samples, augment = images(2000, pixels=1200), Augment(shape, 3, erase=0.6)
    shown, lost = augment(samples, index, 1).reshape(-1, *shape), augment.erased(index, 1)
    assert np.array_equal(shown, np.where(lost[:, None], 0, samples.reshape(-1, *shape)))
    some = lost.any(axis=(1, 2))
    assert abs(some.mean() - 0.6) < 0.06
    heights, widths = lost.any(axis=2).sum(axis=1)[some], lost.any(axis=1).sum(axis=1)[some]
    assert np.array_equal(lost.sum(axis=(1, 2))[some], heights * widths), "a rectangle"
    assert (np.abs(heights * widths / 600 - (0.02 + 1 / 3) / 2) < 0.21).all()
    assert (heights / widths).min() < 0.5
    assert (heights / widths).max() > 2.0
    assert lost.any(axis=0).all(), "anywhere"
    assert not np.array_equal(lost, augment.erased(index, 2))


@given(st.permutations(range(6)), st.integers(1, 50))
@settings(max_examples=20)
def test_what_is_erased_depends_on_seed_epoch_and_sample_alone(order, epoch):
    samples, augment = images(6), Augment(IMAGE, 3, mirror=True, shift=2, erase=0.5)
    whole = augment(samples, np.arange(6), epoch)
    assert np.array_equal(augment(samples[order], np.array(order), epoch), whole[order])
    assert np.array_equal(augment(samples[4:5], np.array([4]), epoch)[0], whole[4])


# ---- what is left alone, and what is refused ------------------------------------------------------------------------


def test_evaluation_sees_the_images_themselves():
    samples = images(4)
    assert Augment(IMAGE, 0, True, 2, erase=1.0, **STRENGTH)(samples, np.arange(4), 0) is samples
    assert Augment(IMAGE, 0)(samples, np.arange(4), 1) is samples


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match=r"data\.mirror, data\.elastic: only images can be augmented"):
        data.load(name="utterances", mirror=True, elastic=1.0, samples=2, classes=2, steps=20)
    with pytest.raises(UsageError, match=r"data\.shift=8: a number of pixels below the 8"):
        data.load(name="digits", shift=8)
    for wrong in (
        {"elastic": -1.0},
        {"elastic": math.inf},
        {"rotation": 181.0},
        {"scale": math.nan},
        {"scale": 1.5},
        {"erase": 1.5},
    ):
        [(key, value)] = wrong.items()
        with pytest.raises(UsageError, match=rf"data\.{key}: {value:g} is out of range. Allowed: at least 0"):
            data.load(name="digits", **wrong)
    with pytest.raises(UsageError, match=r"data\.distortion: 'theirs' is not allowed. Allowed: own, authors"):
        data.load(name="digits", distortion="theirs")
