"""TI46 as it is read: names by position, both corpora, what is missing and what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import record, ti46_tree
from hypothesis import given
from hypothesis import strategies as st
from speech_corpora import failure, load

from snnrun import data
from snnrun.data import audio, ti46
from snnrun.errors import UsageError


def stems(split: data.Split) -> list[str]:
    return [path.stem.lower() for path in split.samples]


# ---- what is read ---------------------------------------------------------------------------------------------------


def test_the_letters_of_ti46(tmp_path: Path) -> None:
    ti46_tree(tmp_path / "ti46")
    alpha = load("ti46_alpha", tmp_path)
    assert (alpha.kind, alpha.shape, alpha.origin, alpha.label) == ("audio", (), "recorded", "ti46_alpha")
    assert alpha.classes == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert alpha.train.samples.dtype == object
    assert stems(alpha.train)[:3] == ["0af1set0", "0af1set9", "0bf1set0"]
    assert stems(alpha.test)[-2:] == ["0zm8s1t0", "0zm8s8t1"]
    assert alpha.train.labels.tolist() == alpha.test.labels.tolist() == [0, 0, 1, 1, 25, 25] * 2
    assert alpha.train.labels.dtype == np.int64
    assert all(audio.read(path, rate=12_500)[1] == 12_500 for path in alpha.train.samples)


def test_the_digits_of_ti46_leave_the_commands_out(tmp_path: Path) -> None:
    ti46_tree(tmp_path / "ti46", "ti20", ["00", "09", "en", "ys"])
    digits = load("ti46_digits", tmp_path)
    assert digits.classes == tuple("0123456789")
    assert digits.train.labels.tolist() == [0, 0, 9, 9] * 2
    assert not any("are ignored" in note for note in digits.notes)


@pytest.mark.parametrize("name", [str.upper, str.lower, str.title])
@pytest.mark.parametrize("home", [".", "ti46", "TI46", "LDC93S9/TI46", "ldc93s9"])
@pytest.mark.parametrize("suffix", [".wav", ".sph"])
def test_copies_differ_in_case_place_and_extension(
    tmp_path: Path, name: Callable[[str], str], home: str, suffix: str
) -> None:
    ti46_tree(tmp_path / home, name=name, suffix=suffix)
    alpha = load("ti46_alpha", tmp_path)
    assert len(alpha.train) == len(alpha.test) == 12
    assert stems(alpha.train)[0] == "0af1set0"


def test_the_digest_is_of_the_contents(tmp_path: Path) -> None:
    ti46_tree(tmp_path / "one" / "ti46")
    ti46_tree(tmp_path / "two" / "LDC93S9" / "TI46", name=str.upper)
    one, two = load("ti46_alpha", tmp_path / "one"), load("ti46_alpha", tmp_path / "two")
    assert one.digest == two.digest
    record(two.train.samples[3], 0.5)
    assert load("ti46_alpha", tmp_path / "two").digest != one.digest
    assert load("ti46_alpha", tmp_path / "one", seed=4, limit=3).digest == one.digest


def test_a_second_copy_is_told(tmp_path: Path) -> None:
    ti46_tree(tmp_path / "ti46")
    second = ti46_tree(tmp_path / "LDC93S9")
    assert any(note.startswith(f"{second} is a second copy") for note in load("ti46_alpha", tmp_path).notes)


def test_a_limit_of_the_test_files(tmp_path: Path) -> None:
    ti46_tree(tmp_path / "ti46", "ti20", ["03", "07"])
    whole = load("ti46_digits", tmp_path)
    cut = load("ti46_digits", tmp_path, test_limit=5)
    assert cut.test.samples.tolist() == whole.test.samples[:5].tolist()
    assert "test: only the first 5 files are used (data.test_limit)" in cut.notes
    assert cut.digest != whole.digest
    message = failure("ti46_digits", tmp_path, UsageError, test_limit=9)
    assert message == "data.test_limit=9: from 1 to 8, the test files that are there"
    message = failure("ti46_digits", tmp_path, UsageError, test_limit=0)
    assert message == "data.test_limit: 0 is out of range. Allowed: at least 1."


@given(
    st.sampled_from([*ti46.ALPHA.words, *ti46.DIGITS.words, *ti46.COMMANDS]),
    st.sampled_from(ti46.SPEAKERS),
    st.sampled_from(sorted(ti46.TOKENS["train"] | ti46.TOKENS["test"])),
    st.booleans(),
)
def test_names_are_read_by_position(word: str, speaker: str, token: tuple[str, str], upper: bool) -> None:
    stem = word + speaker + "".join(token)
    assert ti46.parse(stem.upper() if upper else stem) == (word, speaker, *token)


@given(st.text(max_size=10) | st.from_regex(r"0[a-z][fm][0-9]s[e0-9]t[0-9]", fullmatch=True))
def test_a_name_is_read_or_refused(stem: str) -> None:
    grid = {
        f"{speaker}{session}{token}"
        for speaker in ti46.SPEAKERS
        for session, token in ti46.TOKENS["train"] | ti46.TOKENS["test"]
    }
    fits = len(stem.lower()) == 8 and stem.lower().isascii() and stem.lower()[2:] in grid
    try:
        token = ti46.parse(stem)
    except ValueError:
        assert not fits
    else:
        assert fits
        assert "".join(token) == stem.lower()


# ---- what is missing ------------------------------------------------------------------------------------------------


def test_nothing_is_there(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        message = failure("ti46_alpha", root)
        assert f"data=ti46_alpha: there are no training recordings in {root}" in message
        assert "https://catalog.ldc.upenn.edu/LDC93S9" in message
        assert "ti46/ti_alpha/train/f1/0af1set0.wav" in message
        assert "data.root=FOLDER or the environment variable SNNRUN_DATA" in message
        assert "make_ti46_surrogate.py" in message
    assert "ti46/ti20/test/m8/09m8s8t1.wav" in failure("ti46_digits", tmp_path)


def test_no_training_folder(tmp_path: Path) -> None:
    place = ti46_tree(tmp_path / "ti46")
    shutil.rmtree(place / "train")
    assert f"no training recordings in {place / 'train'}, which is empty or absent" in failure("ti46_alpha", tmp_path)


def test_no_test_folder(tmp_path: Path) -> None:
    place = ti46_tree(tmp_path / "ti46")
    shutil.rmtree(place / "test")
    assert "test: there are no tokens" in ti46.ti46_alpha(tmp_path, False).notes
    message = failure("ti46_alpha", tmp_path)
    assert "nothing is left to test on" in message
    assert "  test: there are no tokens" in message


def test_half_of_the_files(tmp_path: Path) -> None:
    tokens = {"train": [f"set{n}" for n in range(10)], "test": [f"s{s}t{t}" for s in range(1, 9) for t in range(2)]}
    place = ti46_tree(tmp_path / "ti46", "ti20", ["00", "01"], **tokens)
    notes = load("ti46_digits", tmp_path).notes
    assert notes[0] == "train: 40 of 1,600 tokens are there, and the papers had 1,594"
    for path in [path for part in ("train", "test") for path in sorted(place.rglob(f"{part}/*/*"))[::2]]:
        path.unlink()
    half = load("ti46_digits", tmp_path)
    assert (len(half.train), len(half.test)) == (20, 32)
    assert half.notes[:2] == (
        "train: 20 of 1,600 tokens are there, and the papers had 1,594",
        "test: 32 of 2,560 tokens are there, and the papers had 2,542",
    )


def test_a_speaker_and_a_word_are_missing(tmp_path: Path) -> None:
    place = ti46_tree(tmp_path / "ti46", "ti20", ti46.DIGITS.words, ti46.SPEAKERS, ["set0"], ["s1t0"])
    shutil.rmtree(place / "train" / "f3")
    for path in place.glob("test/*/04*"):
        path.unlink()
    notes = load("ti46_digits", tmp_path).notes
    assert "train: there is nothing of speakers f3" in notes
    assert "test: there is nothing of classes 4" in notes
    assert len(notes) == 4


def test_the_counts_of_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ti46_tree(tmp_path / "ti46", "ti20")
    small = ti46.Task("ti20", ("0a", "0b", "0z"), tuple("ABZ"), (), {"train": 12, "test": 13})
    monkeypatch.setattr(ti46, "DIGITS", small)
    assert load("ti46_digits", tmp_path).notes[:2] == (
        "train: 12 of 480 tokens are there, as in the papers",
        "test: 12 of 768 tokens are there, and the papers had 13",
    )


def test_other_files_are_ignored_and_counted(tmp_path: Path) -> None:
    place = ti46_tree(tmp_path / "ti46")
    for name in ("README.TXT", "._0af1set0.wav", "index.html"):
        (place / "train" / "f1" / name).write_text("no audio")
    [note] = [note for note in load("ti46_alpha", tmp_path).notes if "ignored" in note]
    assert note.startswith("2 files that are no recordings are ignored (")
    assert "README.TXT" in note


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name", "words"),
    [
        ("train/f1", "0?f1set0.wav", "ti_alpha has no word '0?': its words are 0a to 0z"),
        ("train/f1", "00f1set0.wav", "ti_alpha has no word '00'"),
        ("train/f1", "letter_a.wav", "there is no speaker 'tt'"),
        ("train/f1", "0af1set.wav", "a name of eight characters is wanted"),
        ("train/f9", "0af9set0.wav", "there is no speaker 'f9'"),
        ("test/f1", "0af1s9t0.wav", "there is no token 's9t0'"),
        ("train/f1", "0af1s1t0.wav", "the token 's1t0' does not belong in the train folder"),
        ("test/f1", "0af1set5.wav", "the token 'set5' does not belong in the test folder"),
        ("test/m1", "0af1s1t1.wav", "it lies in the folder of m1 and its name says f1"),
        ("train/f1", "0af1set0.sph", "0af1set0.sph is the same token"),
    ],
)
def test_a_name_that_says_nothing_is_refused(tmp_path: Path, part: str, name: str, words: str) -> None:
    place = ti46_tree(tmp_path / "ti46")
    path = record(place / part / name)
    message = failure("ti46_alpha", tmp_path)
    assert message.startswith("data=ti46_alpha: a file cannot be used:\n")
    assert words in message
    assert str(place / part) in message
    assert "rename, move or remove it" in message
    path.unlink()
    load("ti46_alpha", tmp_path)


def test_an_unknown_word_among_the_digits(tmp_path: Path) -> None:
    place = ti46_tree(tmp_path / "ti46", "ti20", ["00"])
    record(place / "train" / "f1" / "zzf1set0.wav")
    message = failure("ti46_digits", tmp_path)
    assert "ti20 has no word 'zz': its words are 00 to 09 and en er go" in message


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    place = ti46_tree(tmp_path / "ti46")
    files = sorted(place.rglob("*.wav"))
    for path in files[:8]:
        path.write_bytes(path.read_bytes()[:-10])
    record(files[9], rate=16_000)
    record(place / "train" / "f1" / "0?f1set0.wav")
    message = failure("ti46_alpha", tmp_path)
    lines = message.splitlines()
    assert lines[0] == "data=ti46_alpha: 10 files cannot be used:"
    assert "no word '0?'" in lines[1]
    assert "cut short" in lines[2]
    assert lines[-1] == "  and 5 more"
    assert len(lines) == 7


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ti46_tree(tmp_path / "ti46")
    if os.geteuid():
        (place / "train" / "f1").chmod(0)
    else:  # root may look into everything
        scandir = os.scandir

        def refuse(path: Any) -> Any:
            if Path(path).name == "f1":
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
    message = failure("ti46_alpha", tmp_path)
    (place / "train" / "f1").chmod(0o755)
    assert message.startswith(f"cannot look into {place / 'train' / 'f1'}: Permission denied; check its permissions")
