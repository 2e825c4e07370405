"""FSDD as it is read: the official split, speakers held out, what is missing or foreign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpora import fsdd_tree, record
from hypothesis import given
from hypothesis import strategies as st
from speech_corpora import failure, load

from snnrun.data import speech
from snnrun.errors import UsageError


@pytest.mark.parametrize("home", ["fsdd", "free-spoken-digit-dataset"])
def test_the_official_split_of_fsdd(tmp_path: Path, home: str) -> None:
    fsdd_tree(tmp_path, home=home)
    fsdd = load("fsdd", tmp_path)
    assert (fsdd.kind, fsdd.classes) == ("audio", tuple("0123456789"))
    assert {path.stem.split("_")[2] for path in fsdd.test.samples} == {"0", "4"}
    assert {path.stem.split("_")[2] for path in fsdd.train.samples} == {"5", "49"}
    assert fsdd.train.labels.tolist() == [int(path.stem[0]) for path in fsdd.train.samples]
    assert fsdd.notes == ("240 of 3,000 recordings are there",)


def test_speakers_that_are_held_out(tmp_path: Path) -> None:
    fsdd_tree(tmp_path)
    fsdd = load("fsdd", tmp_path, split="speaker", held_out=["Theo"])
    assert {path.stem.split("_")[1] for path in fsdd.test.samples} == {"theo"}
    assert len(fsdd.test) == 40
    assert len(fsdd.train) == 200
    assert fsdd.digest != load("fsdd", tmp_path).digest
    every = list(speech.FSDD_SPEAKERS)
    for wrong, words in (["georg"], "there is no speaker georg; there are george"), ([], "some of"), (every, "not all"):
        assert words in failure("fsdd", tmp_path, UsageError, split="speaker", held_out=wrong)
    assert "data.split: 'both' is not allowed. Allowed: official, speaker" in failure(
        "fsdd", tmp_path, UsageError, split="both"
    )


def test_fsdd_is_missing_or_foreign(tmp_path: Path) -> None:
    message = failure("fsdd", tmp_path)
    assert str(tmp_path / "fsdd" / "recordings") in message
    assert "git clone https://github.com/Jakobovski/free-spoken-digit-dataset" in message
    assert "CC BY-SA 4.0" in message
    place = fsdd_tree(tmp_path)
    record(place / "ten_george_1.wav", rate=8000, form="WAV")
    record(place / "3_theo_5.wav", rate=16_000, form="WAV")
    message = failure("fsdd", tmp_path)
    assert "2 files cannot be used" in message
    assert "ten_george_1.wav: a name such as 7_jackson_32.wav is wanted" in message
    assert "16,000 Hz and this corpus has 8,000 Hz" in message


def test_a_speaker_of_fsdd_is_missing(tmp_path: Path) -> None:
    for path in fsdd_tree(tmp_path).glob("*_theo_*"):
        path.unlink()
    assert "all: there is nothing of speakers theo" in load("fsdd", tmp_path).notes


@given(st.integers(0, 9), st.from_regex(r"[a-z]+", fullmatch=True), st.integers(0, 10**6))
def test_names_of_fsdd(digit: int, speaker: str, index: int) -> None:
    assert speech.parse_fsdd(f"{digit}_{speaker}_{index}") == (digit, speaker, index)


@given(st.text())
def test_other_names_are_none_of_fsdd(stem: str) -> None:
    try:
        digit, speaker, index = speech.parse_fsdd(stem)
    except ValueError:
        return
    first, second, third = stem.split("_")
    assert (str(digit), speaker, index) == (first, second.lower(), int(third))


def test_the_real_fsdd(shared: Path) -> None:
    fsdd = load("fsdd", shared / "data")
    assert (len(fsdd.train), len(fsdd.test), fsdd.notes, fsdd.origin) == (2700, 300, (), "recorded")
    assert np.bincount(fsdd.test.labels).tolist() == [30] * 10
    assert np.bincount(fsdd.train.labels).tolist() == [270] * 10
