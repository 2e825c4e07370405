from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import fsdd_tree, record, ti46_tree
from hypothesis import given
from hypothesis import strategies as st

from snnrun import data
from snnrun.data import audio, folders, speech, ti46
from snnrun.errors import SnnrunError, UsageError

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_ti46_surrogate.py"


def load(name: str, root: Path, **options: Any) -> data.Dataset:
    return data.load(name, root=root, download=False, **{"validation": 0, **options})


def failure(name: str, root: Path, kind: type[SnnrunError] = SnnrunError, **options: Any) -> str:
    with pytest.raises(kind) as error:
        load(name, root, **options)
    assert type(error.value) is kind or kind is SnnrunError
    return str(error.value)


def stems(split: data.Split) -> list[str]:
    return [path.stem.lower() for path in split.samples]


# ---- TI46: what is read ---------------------------------------------------------------------------------------------


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


# ---- TI46: what is missing ------------------------------------------------------------------------------------------


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


# ---- TI46: what is refused ------------------------------------------------------------------------------------------


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


# ---- surrogates -----------------------------------------------------------------------------------------------------


@pytest.mark.launches
@pytest.mark.parametrize("where", ["ti46", "ti46/ti_alpha"])
def test_a_marker_makes_a_surrogate(tmp_path: Path, where: str) -> None:
    ti46_tree(tmp_path / "ti46")
    (tmp_path / where / folders.MARKER).touch()
    alpha = load("ti46_alpha", tmp_path)
    assert (alpha.origin, alpha.label) == ("surrogate", "ti46_alpha (surrogate)")


def test_a_corpus_beside_a_surrogate_is_none(tmp_path: Path) -> None:
    ti46_tree(tmp_path / "ti46")
    (tmp_path / folders.MARKER).touch()
    assert load("ti46_alpha", tmp_path).origin == "recorded"


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few files by espeak-ng."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    root = tmp_path_factory.mktemp("surrogate")
    options = ["--speakers", "f6", "m2", "--train", "1", "--sessions", "1", "--jobs", "1"]
    answer = make(root / "ti46", *options)
    assert answer.returncode == 0, answer.stderr
    assert "216 files in" in answer.stdout
    return root


def make(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.launches
def test_the_generated_corpus_has_the_tree_and_says_what_it_is(surrogate: Path, tmp_path: Path) -> None:
    alpha, digits = load("ti46_alpha", surrogate), load("ti46_digits", surrogate)
    assert (len(alpha.train), len(alpha.test), len(digits.train), len(digits.test)) == (52, 104, 20, 40)
    assert alpha.label == "ti46_alpha (surrogate)"
    shutil.copytree(surrogate / "ti46" / "ti20", tmp_path / "ti20")  # without its marker
    assert load("ti46_digits", tmp_path).label == "ti46_digits (surrogate)"


@pytest.mark.launches
def test_the_generated_files_are_ti46s(surrogate: Path) -> None:
    for path in load("ti46_digits", surrogate).train.samples:
        fields = audio.sphere_header(path)
        assert (fields["sample_rate"], fields["sample_sig_bits"], fields["utterance_id"]) == ("12500", "12", path.stem)
        wave, _ = audio.read(path, rate=12_500)
        assert 0.3 < len(wave) / 12_500 < 2
        whole = wave * 32768
        assert np.array_equal(whole, np.rint(whole))
        assert 100 < np.abs(whole).max() <= 2048
        assert 0.5 < np.std(whole[:900]) < 4  # the room before the word


@pytest.mark.launches
def test_the_generator_is_reproducible_and_keeps_its_hands_off_a_real_corpus(surrogate: Path, tmp_path: Path) -> None:
    few = ["--sets", "digits", "--speakers", "f6", "--train", "1", "--sessions", "1"]
    for seed, same in (46, True), (47, False):
        answer = make(tmp_path / str(seed), *few, "--seed", seed)
        assert answer.returncode == 0, answer.stderr
        for path in (tmp_path / str(seed)).rglob("*.wav"):
            other = surrogate / "ti46" / path.relative_to(tmp_path / str(seed))
            assert (path.read_bytes() == other.read_bytes()) == same
    real = ti46_tree(tmp_path / "real")
    answer = make(tmp_path / "real", *few)
    assert answer.returncode == 2
    assert "holds something else than a surrogate" in answer.stderr
    assert not list(real.rglob(folders.MARKER))


def test_the_counts_of_the_whole_generated_corpus() -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import make_ti46_surrogate as script
    finally:
        sys.path.remove(str(SCRIPT.parent))
    every = script.items(["alpha", "digits"], list(script.VOICES), 10, 8)
    assert len(every) == 4160 + 6656 + 1600 + 2560
    exact = script.as_many_as_published(every, 46)
    counts = [sum(item.task is task and item.part == part for item in exact) for task, part in GRID]
    assert counts == [4142, 6628, 1594, 2542]
    assert len({item.path for item in exact}) == len(exact)


GRID = [(task, part) for task in (ti46.ALPHA, ti46.DIGITS) for part in ("train", "test")]


# ---- FSDD -----------------------------------------------------------------------------------------------------------


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


# ---- folders of one's own -------------------------------------------------------------------------------------------


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
