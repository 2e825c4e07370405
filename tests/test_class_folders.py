"""Folders of one's own: what is a part, a class and a sample, and what is none of them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import fsdd_tree, picture_tree, record
from PIL import Image

from snnrun import cli, data
from snnrun.data import audio, class_folders, image_folder, parts, pictures
from snnrun.data.corpus import MissingError
from snnrun.errors import SnnrunError, printable


def touch(place: Path, classes: Iterable[str] = ("cat", "dog"), count: int = 5) -> None:
    for name in classes:
        (place / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (place / name / f"{number}.png").touch()


def find(root: Path, **options: Any) -> class_folders.Found:
    fixed: dict[str, Any] = {"corpus": "own", "what": "images", "example": "<name>.png", "forms": "png"}
    return class_folders.find(root, **fixed, **{"suffixes": {".png"}, "test_fraction": 0.2, "split_seed": 0, **options})


def refusal(root: Path) -> str:
    with pytest.raises(SnnrunError) as error:
        find(root)
    return str(error.value)


def counts(found: class_folders.Found) -> tuple[int, int, int]:
    """Samples to train, to validate and to test on."""
    held = 0 if found.validation is None else len(found.validation)
    return len(found.train) - held, held, len(found.test)


# ---- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "valid", "test_set"),
        ("training_set", "dev", "eval"),  # as speech corpora have it
        ("train", "eval", "test"),
    ],
)
def test_folders_are_parts_by_their_names(tmp_path: Path, train: str, validation: str, test: str) -> None:
    for name, count in (train, 5), (validation, 3), (test, 2):
        touch(tmp_path / name, count=count)
    found = find(tmp_path)
    assert found.classes == ("cat", "dog")
    assert counts(found) == (10, 6, 4)
    assert found.validation is not None
    assert {found.train[k].parent.parent.name for k in found.validation} == {validation}
    assert {path.parent.parent.name for path in found.test} == {test}
    assert [found.classes[label] for label in found.train_labels] == [path.parent.name for path in found.train]
    assert found.notes == ("validation: a part of its own, 6 images; data.validation is not used",)


def test_what_no_part_tells_is_chosen_of_the_training_part_and_said(tmp_path: Path) -> None:
    touch(tmp_path / "train", count=10)
    only = find(tmp_path)
    assert (only.classes, counts(only)) == (("cat", "dog"), (16, 0, 4))
    assert only.notes == ("test: no part of its own, so 0.2 of the others (data.test_fraction)",)
    touch(tmp_path / "val", count=3)
    with_validation = find(tmp_path)
    assert counts(with_validation) == (16, 6, 4)
    assert with_validation.test == only.test
    assert {path.parent.parent.name for path in with_validation.test} == {"train"}


def test_a_part_that_is_not_used_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "7.png").touch()
    assert find(tmp_path).notes == (
        "test is not used as the test part: its 1 images lie in no class",
        "1 folders have no images and are no classes (val)",
        "test: no part of its own, so 0.2 of the others (data.test_fraction)",
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train", "bus", "car"], "train/ is a part by its name, and these beside are no parts: bus, car"),
        (["train", "Training"], "Training/ and train/ are both the train part by their names. Merge them"),
        (["test", "val"], "test/ and val/ are parts by their names, and there is no train/ beside"),
        (["train", "dev", "valid"], "dev/ and valid/ are both the validation part"),
    ],
)
def test_parts_that_cannot_be_understood_are_refused(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        touch(tmp_path / name)
    assert words in refusal(tmp_path)


def test_within_a_part_every_name_is_a_class(tmp_path: Path) -> None:
    touch(tmp_path / "train", ["train", "bus", "test"])
    assert find(tmp_path).classes == ("bus", "test", "train")


def test_parts_without_classes_and_classes_with_parts_are_refused(tmp_path: Path) -> None:
    for part in "train", "val":
        touch(tmp_path / "flat", [part])
    assert f"no class has images, in {tmp_path / 'flat' / 'train'}" in refusal(tmp_path / "flat")
    assert "5 images lie directly in it, where no folder tells their class" in refusal(tmp_path / "flat")
    for name in "cat", "dog":
        touch(tmp_path / "inner" / name, ["train", "val"])
    message = refusal(tmp_path / "inner")
    assert message.startswith(f"{tmp_path / 'inner' / 'cat'}: train/ in it is a part by its name")
    assert "Put the parts above the classes, as train/cat/" in message


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_part_with_a_class_that_is_not_trained_on(tmp_path: Path, part: str) -> None:
    touch(tmp_path / "train")
    touch(tmp_path / part, ["Dog"])
    assert f"{tmp_path / part} has classes that {tmp_path / 'train'} lacks: Dog" in refusal(tmp_path)


def test_the_folder_that_is_meant_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "mydata")
    assert f"Is it data.root={tmp_path / 'mydata'}? There are cat, dog." in refusal(tmp_path)
    with pytest.raises(MissingError):
        find(tmp_path / "nowhere")


# ---- lists ----------------------------------------------------------------------------------------------------------


def test_the_layout_of_speech_commands(tmp_path: Path) -> None:
    touch(tmp_path, ["yes", "no"], 6)
    touch(tmp_path, ["_background_noise_"], 3)
    (tmp_path / "testing_list.txt").write_text("yes/0.png\nno/0.png\nno/1.png\n\n")
    (tmp_path / "validation_list.txt").write_text("./yes/2.png\nno/2.png\nno/77.png\n")
    found = find(tmp_path)
    assert (found.classes, counts(found)) == (("no", "yes"), (7, 2, 3))
    assert [str(path.relative_to(tmp_path)) for path in found.test] == ["no/0.png", "no/1.png", "yes/0.png"]
    assert found.validation is not None
    assert [found.train[k].name for k in found.validation] == ["2.png", "2.png"]
    assert found.notes == (
        "_background_noise_ is no class: its 3 images are not used",
        "test: the 3 files that testing_list.txt names",
        "validation: the 2 files that validation_list.txt names; 1 more that it names are not there (no/77.png)",
        "validation: a part of its own, 2 images; data.validation is not used",
    )
    (tmp_path / "testing_list.txt").unlink()
    assert counts(find(tmp_path)) == (8, 2, 2)


def test_lists_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    touch(tmp_path)
    (tmp_path / "testing_list.txt").write_text("bird/0.png\n")
    assert refusal(tmp_path).endswith(
        "testing_list.txt: none of the 1 files that it names is there. Correct or remove it"
    )
    for name in parts.LISTS:
        (tmp_path / name).write_text("cat/0.png\n")
    assert f"it names {tmp_path / 'cat/0.png'}, as the other list does" in refusal(tmp_path)


# ---- what is no sample ----------------------------------------------------------------------------------------------

SYSTEM = ("._0.png", ".ipynb_checkpoints/0-checkpoint.png", "@eaDir/0.png/THUMB.png", "__MACOSX/cat/._0.png")
SYSTEM += ("Thumbs.db", "desktop.ini", ".DS_Store", "$RECYCLE.BIN/0.png", ".git/x/y.png")


@pytest.mark.parametrize("where", [".", "cat", "cat/deeper/still"])
def test_what_systems_leave_is_skipped_at_every_depth(tmp_path: Path, where: str) -> None:
    touch(tmp_path)
    before = find(tmp_path)
    for name in SYSTEM:
        path = tmp_path / where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    after = find(tmp_path)
    assert (after.classes, after.train, after.test) == (before.classes, before.train, before.test)
    [note] = after.notes
    assert note.startswith(f"{len(SYSTEM)} hidden or system files and folders are skipped (")


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "store", ["more", "owl"])
    touch(tmp_path / "own")
    (tmp_path / "own" / "dog" / "more").symlink_to(tmp_path / "store" / "more")
    (tmp_path / "own" / "owl").symlink_to(tmp_path / "store" / "owl")
    (tmp_path / "own" / "cat" / "back").symlink_to(tmp_path / "own" / "cat")
    (tmp_path / "own" / "cat" / "itself").symlink_to(tmp_path / "own" / "cat" / "itself")
    (tmp_path / "own" / "emu").symlink_to(tmp_path / "gone")
    found = find(tmp_path / "own")
    every = Counter(found.classes[label] for label in [*found.train_labels, *found.test_labels])
    assert every == {"cat": 5, "dog": 10, "owl": 5}
    assert found.notes == ("2 links lead nowhere and are ignored (emu, itself)",)


def test_a_class_that_vanishes_is_named(tmp_path: Path) -> None:
    touch(tmp_path)
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "0.heic").touch()
    (tmp_path / "loose.png").touch()
    assert find(tmp_path).notes == (
        "1 folders have no images and are no classes (owl)",
        "1 images lie in no folder of a class and are not used (loose.png)",
        "1 files that are no images are ignored (0.heic)",
    )


def test_what_the_libraries_read_is_a_sample(tmp_path: Path) -> None:
    assert {".wav", ".mp3", ".aiff", ".au", ".flac", ".opus", ".sph"} <= audio.suffixes()
    assert {".png", ".jfif", ".jp2", ".tga", ".webp", ".avif"} <= pictures.suffixes()
    assert not {".mat", ".raw", ".txt"} & audio.suffixes()
    assert not {".h5", ".pdf", ".eps", ".mpg"} & pictures.suffixes()
    picture_tree(tmp_path / "pictures")
    (tmp_path / "pictures" / "owl").mkdir()
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(tmp_path / "pictures" / "owl" / "0.JFIF", "JPEG")
    (tmp_path / "pictures" / "owl" / "1.jfif").write_bytes((tmp_path / "pictures" / "owl" / "0.JFIF").read_bytes())
    assert data.load("image_folder", root=tmp_path / "pictures").classes == ("cat", "dog", "owl")
    record(tmp_path / "sounds" / "a" / "0.wav", form="WAV")
    (tmp_path / "sounds" / "b").mkdir()
    for number in range(2):
        soundfile.write(tmp_path / "sounds" / "b" / f"{number}.mp3", np.zeros(9_000), 16_000)
    own = data.load("audio_folder", root=tmp_path / "sounds", validation=0, test_fraction=0.5)
    assert own.classes == ("a", "b")


# ---- names ----------------------------------------------------------------------------------------------------------


def test_a_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    for part, form in ("train", "NFC"), ("test", "NFD"):
        touch(tmp_path / part, [unicodedata.normalize(form, name) for name in ("käse", "öl")])
    found = find(tmp_path)
    assert (found.classes, counts(found), found.notes) == (("käse", "öl"), (10, 0, 10), ())
    touch(tmp_path / "train", [unicodedata.normalize("NFD", "käse")], 3)
    merged = find(tmp_path)
    assert (merged.classes, counts(merged)) == (("käse", "öl"), (13, 0, 10))
    assert merged.notes == ("the name of käse is there in two Unicode forms, which are one class",)


def test_the_digest_does_not_depend_on_the_form_of_names() -> None:
    one, two = (Path("x") / f"{unicodedata.normalize(form, 'käse')}.wav" for form in ("NFC", "NFD"))
    assert one != two
    assert audio.digest([one], [b"1"]) == audio.digest([two], [b"1"])


CAFE = os.fsdecode(b"caf\xe9")


def test_names_that_are_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(f"{CAFE} käse") == "caf\\xe9 käse"
    assert str(SnnrunError(f"{CAFE}: damaged")) == "caf\\xe9: damaged"
    try:
        (tmp_path / CAFE).mkdir()
        (tmp_path / "b").mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    for name in "b", CAFE:
        for number in range(3):  # soundfile writes no such names
            record(tmp_path / "made.wav", number / 10, form="WAV").rename(tmp_path / name / f"{number}{CAFE}.wav")
    (tmp_path / "b" / f"{CAFE}.txt").touch()
    own = data.load("audio_folder", root=tmp_path, validation=0, test_fraction=0.5)
    assert own.classes == ("b", "caf\\xe9")
    assert own.notes == ("1 files that are no recordings are ignored (caf\\xe9.txt)",)
    assert cli.main(["data", "verify", "audio_folder", "--root", str(tmp_path)]) == 0
    assert f"digest: {data.load('audio_folder', root=tmp_path).digest}" in capsys.readouterr().out
    (tmp_path / "b" / f"1{CAFE}.wav").write_text("torn")
    assert cli.main(["data", "verify", "audio_folder", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"fault: {tmp_path}/b/1caf\\xe9.wav: " in out
    out.encode()


# ---- repeats --------------------------------------------------------------------------------------------------------


def test_files_that_are_there_twice_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures_of, sounds = tmp_path / "pictures", tmp_path / "sounds"
    generator = np.random.default_rng(0)
    for part, name, number in itertools.product(("train", "test"), ("cat", "dog"), range(3)):
        (pictures_of / part / name).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures_of / part / name / f"{number}.png")
        record(sounds / part / name / f"{number}.wav", pixels.mean() / 1000, form="WAV")
    assert not data.load("image_folder", root=pictures_of).notes
    for place, suffix in (pictures_of, "png"), (sounds, "wav"):
        shutil.copy(place / f"train/cat/0.{suffix}", place / f"test/cat/copy.{suffix}")
        shutil.copy(place / f"train/cat/1.{suffix}", place / f"train/dog/other.{suffix}")
        said = (
            "test: 1 of 7 files have the contents of one that is trained or validated on "
            f"({place}/test/cat/copy.{suffix})",
            f"2 files have the contents of one in another class ({place}/train/cat/1.{suffix}, "
            f"{place}/train/dog/other.{suffix})",
        )
        name = "image_folder" if suffix == "png" else "audio_folder"
        assert cli.main(["data", "verify", name, "--root", str(place)]) == 0
        out = capsys.readouterr().out.splitlines()
        assert [line for line in out if "have the contents" in line] == [f"note: {note}" for note in said]
    assert len(data.load("image_folder", root=pictures_of).notes) == 2


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_verify_prints_the_classes_with_their_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, count in ("train", 4), ("val", 2), ("test", 1):
        picture_tree(tmp_path / part, ("cat", "dog"), count=count)
    picture_tree(tmp_path / "train", ("a rather long name",), count=3)
    assert cli.main(["data", "verify", "image_folder", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "samples: 11 to train, 4 to validate, 2 to test" in lines
    table = [line.split() for line in lines if line.startswith("  ")]
    assert table == [
        ["class", "train", "validation", "test"],
        ["a", "rather", "long", "name", "3", "0", "0"],
        ["cat", "4", "2", "1"],
        ["dog", "4", "2", "1"],
    ]
    assert cli.main(["data", "verify", "image_folder", "--root", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["validation"] == {"samples": 4, "classes": {"a rather long name": 0, "cat": 2, "dog": 2}}


def test_the_validation_part_is_the_validation_split(tmp_path: Path) -> None:
    for part, count in ("train", 6), ("val", 3), ("test", 2):
        picture_tree(tmp_path / part, count=count)
    whole = image_folder.image_folder(tmp_path, False)
    assert whole.validation is not None
    for options in {}, {"validation": 0}, {"validation": 0.5, "seed": 3}, {"limit": 5}:
        cut = data.load("image_folder", root=tmp_path, **options)
        assert np.array_equal(cut.validation.index, whole.validation)
        assert len(cut.train) == options.get("limit", 12)
        assert not set(cut.train.index) & set(cut.validation.index)
        assert cut.digest == whole.digest()
    assert whole.digest() != replace(whole, validation=whole.validation[1:]).digest()


def test_verify_passes_nothing_that_has_no_test_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fsdd_tree(tmp_path, indices=(7,))
    assert cli.main(["data", "verify", "fsdd", "--root", str(tmp_path)]) == 1
    assert "fault: data=fsdd: nothing is left to test on" in capsys.readouterr().out


def test_roots_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture_tree(tmp_path / "Bücher")
    assert cli.main(["data", "prepare", "image_folder", "--root", str(tmp_path / "Bücher")]) == 0
    assert "8 to train, 2 to test" in capsys.readouterr().out
    assert cli.main(["data", "prepare", "image_folder", "--root", CAFE]) == 2
    assert "data.root=caf\\xe9: only UTF-8 can be recorded" in capsys.readouterr().err


@pytest.mark.parametrize("home", ["free-spoken-digit-dataset-master", "fsdd/free-spoken-digit-dataset-1.0.10"])
def test_the_archive_of_fsdd_as_it_unpacks(tmp_path: Path, home: str) -> None:
    fsdd_tree(tmp_path, home=home)
    own = data.load("fsdd", root=tmp_path)
    assert own.notes == ("240 of 3,000 recordings are there",)
    fsdd_tree(tmp_path)
    second = tmp_path / home / "recordings"
    assert (
        f"{second} is a second copy and is not used; {tmp_path / 'fsdd/recordings'} is"
        in data.load("fsdd", root=tmp_path).notes
    )
