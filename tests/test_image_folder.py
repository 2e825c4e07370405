"""Folders of pictures: forms, sizes, colours, splits, and every file that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import picture_tree
from PIL import Image, ImageCms

from snnrun import cli, data
from snnrun.compiled import parallel
from snnrun.data import pictures
from snnrun.errors import SnnrunError, UsageError


def load(root: Path, **options: Any) -> data.Dataset:
    return data.load("image_folder", root=root, **{"validation": 0, **options})


def failure(root: Path, kind: type[SnnrunError] = SnnrunError, **options: Any) -> str:
    with pytest.raises(kind) as error:
        load(root, **options)
    return str(error.value)


def read(path: Path, channels: int, rows: int, columns: int, **options: Any) -> np.ndarray:
    return pictures.read(path, pictures.Form((channels, rows, columns), **options)).pixels


# ---- one picture ----------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tif", ".gif", ".jpg", ".webp"])
def test_colours_become_channels(tmp_path: Path, suffix: str) -> None:
    """To the pixel where the form keeps them, else nearly."""
    pixels = PIXELS if suffix not in (".gif", ".jpg", ".webp") else np.full((4, 6, 3), (200, 100, 50), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    found = read(tmp_path / f"a{suffix}", 3, 4, 6)
    assert found.shape == (3, 4, 6)
    assert np.abs(found.transpose(1, 2, 0).astype(int) - pixels).max() <= (0 if pixels is PIXELS else 3)


def test_grey_is_luma(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read(tmp_path / "a.png", 1, 4, 6)[0] - luma).max() <= 1
    grey = PIXELS[..., 0]
    Image.fromarray(grey).save(tmp_path / "b.pgm")
    assert np.array_equal(read(tmp_path / "b.pgm", 1, 4, 6)[0], grey)
    assert np.array_equal(read(tmp_path / "b.pgm", 3, 4, 6), np.stack([grey] * 3))


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    deep = (PIXELS[..., 0].astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png", 1, 4, 6)[0], PIXELS[..., 0])
    header = b"P5 6 4 65535\n"
    (tmp_path / "b.pgm").write_bytes(header + deep.astype(">u2").tobytes())
    assert np.array_equal(read(tmp_path / "b.pgm", 1, 4, 6)[0], PIXELS[..., 0])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_every_mode_that_a_file_has_is_grey_as_its_colours_are(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.repeat(PIXELS[..., :1], 3, axis=2))
    if mode == "LAB":
        colours = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        picture = ImageCms.profileToProfile(picture, *colours, outputMode="LAB")
    else:
        picture = picture.quantize() if mode == "P" else picture.convert(mode)
    picture.save(tmp_path / ("a.gif" if mode == "P" else "a.tif"))
    found = read(next(tmp_path.iterdir()), 1, 4, 6)[0].astype(int)
    wanted = np.asarray(picture).astype(int) * 255 if mode == "1" else PIXELS[..., 0]
    assert np.abs(found - wanted).max() <= 3


def test_every_value_of_sixteen_bits(tmp_path: Path) -> None:
    """The upper 8 bits count, whatever form holds them; levels spread what is between them over 256 equal parts."""
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(every).save(tmp_path / "a.png")
    Image.fromarray(every).save(tmp_path / "a.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5 256 256 65535\n" + every.astype(">u2").tobytes())
    for suffix in ("png", "tif", "pgm"):
        assert np.array_equal(read(tmp_path / f"a.{suffix}", 1, 256, 256)[0], every >> 8)
    found = read(tmp_path / "a.png", 1, 256, 256, levels=(256, 768))[0].ravel()
    assert (found[[0, 256, 257, 258, 300, 767, 768, 65535]] == [0, 0, 0, 1, 22, 255, 255, 255]).all()


def test_a_range_that_is_not_known_is_refused_or_given(tmp_path: Path) -> None:
    for kind, words in (np.int32, "integers of 32 bits"), (np.float32, "floating-point numbers"):
        Image.fromarray(np.array([[0, 100], [200, 400]], kind)).save(tmp_path / "a.tif")
        with pytest.raises(pictures.UnreadableError, match=f"its pixels are {words}, whose range is not known"):
            read(tmp_path / "a.tif", 1, 2, 2)
        assert read(tmp_path / "a.tif", 1, 2, 2, levels=(0, 400)).tolist() == [[[0, 64], [128, 255]]]
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(pictures.UnreadableError, match="NaN or infinite"):
        read(tmp_path / "a.tif", 1, 1, 2, levels=(0, 1))


def test_fewer_bits_in_sixteen_are_refused_unless_they_are_given(tmp_path: Path) -> None:
    for place, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(5):
            deep = np.full((4, 6), 16 * (100 * place + number + 50), np.uint16)
            deep[0] = 0
            Image.fromarray(deep).save(tmp_path / name / f"{number}.png")
    message = failure(tmp_path)
    assert f"{tmp_path / 'dog/4.png'}: no image of 16 bits has a value above its 2,464" in message
    assert "data.levels=[0,4095], or data.levels=[0,65535]" in message
    own = load(tmp_path, rows=4, columns=6, levels=[0, 4095], test_fraction=0.5)
    assert own.train.samples.max() in (153, 154)
    dim = "no pixel of any sample is brighter than 9 of 255, so that few or no spikes come of it"
    assert any(note.startswith(dim) for note in load(tmp_path, rows=4, columns=6, levels=[0, 65535]).notes)


@pytest.mark.slow
def test_ink_in_the_transparency_is_told_and_has_a_background(tmp_path: Path, capsys: Any) -> None:
    for place, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(5):
            ink = np.zeros((8, 8, 4), np.uint8)
            ink[2 * place : 2 * place + 3, :, 3] = 255
            Image.fromarray(ink).save(tmp_path / name / f"{number}.png")
    dark = load(tmp_path, rows=8, columns=8)
    assert dark.notes[0].startswith("10 images are drawn in their transparency alone and vanish on this background; ")
    assert "data.background=255 lays white behind it" in dark.notes[0]
    assert any(note.startswith("10 of 10 samples are of one colour (cat/") for note in dark.notes)
    assert cli.main(["data", "verify", "image_folder", "--root", str(tmp_path)]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")] == [
        f"note: {note}" for note in dark.notes
    ]
    white = load(tmp_path, rows=8, columns=8, background=255)
    assert not any("of one colour" in note or "vanish" in note for note in white.notes)
    picture = white.train.samples[0].reshape(8, 8)
    assert (picture[:3] == 0).all()
    assert (picture[3:] == 255).all()


def test_a_picture_keeps_its_proportions_where_that_is_wanted(tmp_path: Path) -> None:
    wide = np.full((2, 8), 200, np.uint8)
    wide[:, :3] = 100
    Image.fromarray(wide).save(tmp_path / "a.png")
    padded = read(tmp_path / "a.png", 1, 4, 8, fit="pad", background=7)[0]
    assert np.array_equal(padded, np.vstack([np.full((1, 8), 7), wide, np.full((1, 8), 7)]))
    assert (read(tmp_path / "a.png", 3, 4, 8, fit="pad", background=7) == padded).all()
    assert np.array_equal(read(tmp_path / "a.png", 1, 2, 2, fit="crop")[0], wide[:, 3:5])
    Image.fromarray(wide.T).save(tmp_path / "b.png")
    assert np.array_equal(read(tmp_path / "b.png", 1, 2, 2, fit="crop")[0], wide.T[3:5])
    assert read(tmp_path / "b.png", 1, 1, 4000, fit="pad").max() > 0  # not to nothing


def test_what_is_transparent_is_black(tmp_path: Path) -> None:
    alpha = np.full((4, 6, 1), 255, np.uint8)
    alpha[:, 3:] = 0
    Image.fromarray(np.concatenate([np.full_like(PIXELS, 200), alpha], axis=2)).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png", 3, 4, 6)
    assert (found[:, :, :3] == 200).all()
    assert not found[:, :, 3:].any()


def test_a_picture_is_stretched_to_the_size_and_turned_as_its_camera_says(tmp_path: Path) -> None:
    halves = np.zeros((8, 12), np.uint8)
    halves[:, 6:] = 240
    Image.fromarray(halves).save(tmp_path / "a.png")
    small = read(tmp_path / "a.png", 1, 4, 4)[0]
    assert (small[:, 0] == 0).all()
    assert (small[:, 3] == 240).all()
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn clockwise
    Image.fromarray(halves).save(tmp_path / "b.png", exif=turned)
    assert np.array_equal(read(tmp_path / "b.png", 1, 12, 8)[0], np.rot90(halves, -1))


# ---- folders --------------------------------------------------------------------------------------------------------


def test_folders_are_classes(tmp_path: Path) -> None:
    picture_tree(tmp_path, ("b", "a", "c"))
    own = load(tmp_path, rows=6, columns=5)
    assert (own.kind, own.classes, own.shape, own.image) == ("image", ("a", "b", "c"), (6, 5), (1, 6, 5))
    assert (len(own.train), len(own.test)) == (12, 3)
    assert sorted(own.test.labels.tolist()) == [0, 1, 2]
    assert own.train.samples.dtype == np.uint8
    again = load(tmp_path, rows=6, columns=5, seed=5)
    assert np.array_equal(again.test.samples, own.test.samples)
    assert not np.array_equal(load(tmp_path, rows=6, columns=5, split_seed=1).test.samples, own.test.samples)
    parallel.set_threads(3)
    assert load(tmp_path, rows=6, columns=5).digest == own.digest
    colour = load(tmp_path, colour=True)
    assert (colour.shape, colour.image, colour.channels) == ((3, 32, 32), (3, 32, 32), 3072)


def test_folders_that_tell_train_and_test(tmp_path: Path) -> None:
    picture_tree(tmp_path / "train", count=3)
    picture_tree(tmp_path / "Test", count=2)
    (tmp_path / "train/cat/notes.txt").write_text("x")
    own = load(tmp_path)
    assert (own.train.labels.tolist(), own.test.labels.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])
    assert own.notes[0] == "1 files that are no images are ignored (notes.txt)"
    picture_tree(tmp_path / "Test", ("emu",), count=1)
    assert "has classes that" in failure(tmp_path)


def test_classes_that_are_missing(tmp_path: Path) -> None:
    assert "no class has images" in failure(tmp_path)
    picture_tree(tmp_path, ("cat",))
    message = failure(tmp_path)
    assert "only one class has images, cat" in message
    assert "<class>/<name>.png" in message
    assert "Give the folder itself by data.root=FOLDER." in message


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_every_file_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path, capsys: Any) -> None:
    picture_tree(tmp_path)
    whole = (tmp_path / "cat/0.png").read_bytes()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "dog/9.jpg")
    half = (tmp_path / "dog/9.jpg").read_bytes()
    contents = {
        "cat/0.png": (b"", "it is empty; copy it anew or remove it"),
        "cat/1.png": (whole[: len(whole) // 2], "copy it anew or remove it"),
        "cat/2.png": (b"not a picture", "it is no image, or damaged from its beginning on; replace or remove it"),
        "dog/0.png": (whole[:80] + bytes(30) + whole[110:], "it is damaged"),
        "dog/9.jpg": (half[: len(half) // 2], "it is damaged or cut short"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "dog/2.png").unlink()
    (tmp_path / "dog/2.png").symlink_to("nowhere.png")
    contents["dog/2.png"] = b"", "it is a link that leads nowhere; mend or remove it"
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "dog/1.tif")
    contents["dog/1.tif"] = b"", "its pixels are floating-point numbers, whose range is not known; save it with 8 or 16"
    message = failure(tmp_path)
    assert message.startswith("data=image_folder: 7 files cannot be used:\n")
    assert cli.main(["data", "verify", "image_folder", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    for name, (_, words) in contents.items():
        assert any(f"{tmp_path / name}: " in line and words in line for line in out.splitlines()), (name, out)
    assert out.endswith("7 faults\n")


@pytest.mark.parametrize("seed", range(8))
def test_no_torn_file_ends_in_a_traceback(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for suffix in (".png", ".bmp", ".gif", ".tif", ".jpg", ".ppm", ".webp"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        path.write_bytes(content[: rng.integers(1, len(content) + 1)])
    faults = pictures.read_all(sorted(tmp_path.iterdir()), pictures.Form((3, 4, 4))).faults
    assert all(str(tmp_path) in fault for fault in faults)


def test_a_picture_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture_tree(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert "it has too many pixels; make it smaller or remove it" in failure(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns from here on, and refuses at twice as many
    assert len(load(tmp_path).train) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": 0}, "data.rows: 0 is out of range. Allowed: at least 1 and at most 4096"),
        ({"columns": 5000}, "data.columns: 5000"),
        ({"test_fraction": 1.0}, "data.test_fraction: 1"),
        ({"test_fraction": 0.01}, "leaves 0 of 10 images to test on"),
        ({"fit": "squeeze"}, "data.fit: 'squeeze' is not allowed. Allowed: stretch, pad, crop"),
        ({"background": 256}, "data.background: 256 is out of range"),
        ({"levels": [5, 5]}, "data.levels=[5.0, 5.0]: the values of black and of white, the lower one first"),
        ({"levels": [0]}, "data.levels=[0]: two values are needed"),
        ({"split_seed": -1}, "data.split_seed: -1"),
        ({"shift": 32}, "data.shift=32: a number of pixels below the 32"),
    ],
)
def test_values_out_of_range(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    picture_tree(tmp_path)
    assert words in failure(tmp_path, UsageError, **options)


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_verify_and_list(tmp_path: Path, capsys: Any) -> None:
    picture_tree(tmp_path)
    assert cli.main(["data", "verify", "image_folder", "--root", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["train"]["samples"], report["test"]["samples"], report["shape"]) == (8, 2, [32, 32])
    assert cli.main(["data", "list", "--root", str(tmp_path)]) == 0
    assert "image_folder  at hand" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_learns_two_classes(tmp_path: Path, capsys: Any) -> None:
    picture_tree(tmp_path, count=20)
    options = ["tracking=none", f"outputs={tmp_path / 'out'}", "hardware=cpu", "hardware.kernels=reference"]
    options += ["data.rows=12", "data.columns=10", "data.validation=0", "encoder.steps=10", "train.batch_size=8"]
    options += ["model=stbp", "model.network=12", "model.v_th=0.5", "train.epochs=12", "train.lr=0.01"]
    assert cli.main(["train", "data=image_folder", f"data.root={tmp_path}", *options]) == 0
    assert "test, last epoch       100.00 %" in capsys.readouterr().out
