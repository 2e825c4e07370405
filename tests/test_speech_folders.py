"""Folders of one's own recordings: parts, classes, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import record
from speech_corpora import failure, load

from snnrun.data import folders
from snnrun.errors import UsageError


def classes(place: Path, names: Iterable[str] = ("no", "yes", "Maybe"), files: int = 10) -> Path:
    value = itertools.count(1)
    for name, number in itertools.product(names, range(files)):
        record(place / name / f"{number}.wav", next(value) / 1000, 16_000, "WAV")
    return place


def test_a_fraction_of_a_folder_is_tested(tmp_path: Path) -> None:
    classes(tmp_path)
    record(tmp_path / "no" / "deeper" / "x.flac", form="FLAC")
    own = load("audio_folder", tmp_path, seed=1)
    assert own.classes == ("Maybe", "no", "yes")
    assert (len(own.train), len(own.test)) == (25, 6)
    assert np.bincount(own.test.labels).tolist() == [2, 2, 2]
    assert not set(own.train.samples) & set(own.test.samples)
    for split in (own.train, own.test):
        relative = [path.relative_to(tmp_path).parts[0] for path in split.samples]
        assert [own.classes[label] for label in split.labels] == relative
    again = load("audio_folder", tmp_path, seed=2)
    assert again.test.samples.tolist() == own.test.samples.tolist()
    assert load("audio_folder", tmp_path, split_seed=1).test.samples.tolist() != own.test.samples.tolist()
    assert len(load("audio_folder", tmp_path, test_fraction=0.5).test) == 16


def test_train_and_test_folders_are_used(tmp_path: Path) -> None:
    classes(tmp_path / "Train")
    classes(tmp_path / "test", ["no", "yes"], 3)
    own = load("audio_folder", tmp_path)
    assert (len(own.train), len(own.test)) == (30, 6)
    assert own.classes == ("Maybe", "no", "yes")
    assert own.notes == ("test: there is nothing of classes Maybe",)
    classes(tmp_path / "test", ["perhaps"], 1)
    assert "has classes that" in failure("audio_folder", tmp_path)
    assert "perhaps" in failure("audio_folder", tmp_path)


def test_a_folder_without_classes(tmp_path: Path) -> None:
    assert "no class has recordings" in failure("audio_folder", tmp_path)
    classes(tmp_path, ["one"])
    (tmp_path / "empty").mkdir()
    message = failure("audio_folder", tmp_path)
    assert "only one class has recordings, one" in message
    assert "data.root=FOLDER" in message


def test_numbers_of_a_folder_out_of_range(tmp_path: Path) -> None:
    classes(tmp_path)
    for fraction in (0, 1, -1, float("nan")):
        assert "data.test_fraction" in failure("audio_folder", tmp_path, UsageError, test_fraction=fraction)
    assert "leaves 0 of 30" in failure("audio_folder", tmp_path, UsageError, test_fraction=0.001)
    assert "data.split_seed: -1" in failure("audio_folder", tmp_path, UsageError, split_seed=-1)


@pytest.mark.launches
def test_strays_and_surrogates_among_ones_own(tmp_path: Path) -> None:
    classes(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "yes" / "cover.png").touch()
    (tmp_path / folders.MARKER).touch()
    own = load("audio_folder", tmp_path)
    assert own.label == "audio_folder (surrogate)"
    assert own.notes == ("2 files that are no recordings are ignored (notes.txt, cover.png)",)


def test_stereo_among_ones_own(tmp_path: Path) -> None:
    classes(tmp_path)
    soundfile.write(tmp_path / "yes" / "3.wav", np.zeros((50, 2)), 16_000)
    assert "2 channels and one is wanted" in failure("audio_folder", tmp_path)
