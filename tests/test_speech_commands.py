"""Speech Commands: words and lists, the twelve classes, silence cut from the noise, and every fault."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import commands_tree

from snnrun import cli, data
from snnrun.config.compose import compose
from snnrun.data import audio
from snnrun.errors import SnnrunError, UsageError
from snnrun.run import build

HOME = "speech_commands"


def load(root: Path, **options: Any) -> data.Dataset:
    return data.load("speech_commands", root=root, **{"download": False, "validation": 0.3, **options})


def failure(root: Path, kind: type[SnnrunError] = SnnrunError, **options: Any) -> str:
    with pytest.raises(kind) as error:
        load(root, **options)
    return str(error.value)


def names(split: data.Split) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in split.samples}


# ---- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", [HOME, "speech_commands_v0.02", f"{HOME}/speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02"]
)
def test_every_word_is_a_class_and_the_lists_are_respected(tmp_path: Path, place: str) -> None:
    home = commands_tree(tmp_path / place)
    corpus = load(tmp_path)
    assert (corpus.kind, corpus.classes) == ("audio", ("bed", "cat", "no", "visual", "yes"))
    assert corpus.sizes == {"train": 30, "validation": 10, "test": 10}
    for part, stem in ("validation", "validation"), ("test", "testing"):
        assert names(getattr(corpus, part)) == set((home / f"{stem}_list.txt").read_text().split())
    for part in (corpus.train, corpus.validation, corpus.test):
        assert [corpus.classes[label] for label in part.labels] == [path.parent.name for path in part.samples]
    notes = " ".join(corpus.notes)
    assert "_background_noise_ is no class" in notes
    assert "all: there is nothing of words up, down, left" in notes
    assert "50 of 105,829 recordings are there" in notes


def test_a_word_of_the_other_version(tmp_path: Path) -> None:
    commands_tree(tmp_path / HOME)
    assert failure(tmp_path, version="v1").endswith(
        "speech_commands: visual/ is no word of Speech Commands v1. data.version=v2 has it."
    )
    commands_tree(tmp_path / "speech_commands_v0.01", words=("yes", "bed"))
    assert load(tmp_path, version="v1").classes == ("bed", "yes")
    (tmp_path / HOME / "visual").rename(tmp_path / HOME / "sheep")
    for stem in ("validation", "testing"):
        path = tmp_path / HOME / f"{stem}_list.txt"
        path.write_text(path.read_text().replace("visual", "sheep"))
    assert failure(tmp_path).endswith("sheep/ is no word of Speech Commands v2. Move it away.")


# ---- twelve classes -------------------------------------------------------------------------------------------------

TWELVE = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "silence", "unknown")


def test_silence_and_unknown_words_are_a_tenth_of_the_commands(tmp_path: Path) -> None:
    home = commands_tree(tmp_path / HOME, words=("yes", "go", "bed", "cat", "dog"), each=40)
    corpus = load(tmp_path, task="twelve")
    assert corpus.classes == TWELVE
    for part, wanted in ("train", 72), ("validation", 4), ("test", 4):
        split = getattr(corpus, part)
        counts = np.bincount(split.labels, minlength=12)
        few = math.ceil(wanted / 10)
        assert counts.tolist() == [wanted // 2, *[0] * 8, wanted // 2, few, few]
        words = [TWELVE[label] for label in split.labels]
        for path, word in zip(split.samples, words, strict=True):
            assert isinstance(path, audio.Cut) == (word == "silence")
            if word == "unknown":
                assert path.parent.name in ("bed", "cat", "dog")
            elif word != "silence":
                assert path.parent.name == word
    listed = set((home / "testing_list.txt").read_text().split())
    assert {f"{path.parent.name}/{path.name}" for path in corpus.test.samples if isinstance(path, Path)} <= listed
    said = "silence: 8, 1, 1 pieces of _background_noise_ to train, validate and test; unknown: 8, 1, 1 recordings"
    assert any(note.startswith(said) for note in corpus.notes)
    assert not any("is no class" in note for note in corpus.notes)
    unknown = [str(path) for path, label in zip(corpus.train.samples, corpus.train.labels, strict=True) if label == 11]
    other = load(tmp_path, task="twelve", split_seed=1)
    assert unknown != [
        str(path) for path, label in zip(other.train.samples, other.train.labels, strict=True) if label == 11
    ]


def test_silence_is_the_same_every_time_and_no_part_hears_anothers(tmp_path: Path) -> None:
    home = commands_tree(tmp_path / HOME, words=("yes", "go", "bed"), each=60)
    first, second = load(tmp_path, task="twelve"), load(tmp_path, task="twelve", seed=5)
    stretches: dict[str, set[tuple[str, int]]] = {}
    for part in ("train", "validation", "test"):
        cuts = [path for path in getattr(first, part).samples if isinstance(path, audio.Cut)]
        assert cuts == [path for path in getattr(second, part).samples if isinstance(path, audio.Cut)]
        assert len({cut.name for cut in cuts}) == len(cuts) == (12 if part == "train" else 1)
        stretches[part] = {(cut.path.name, cut.start + k) for cut in cuts for k in (0, cut.samples - 1)}
        for cut in cuts:
            whole, _ = soundfile.read(home / "_background_noise_" / cut.path.name)
            wave, rate = audio.read(cut, rate=16_000)
            assert (rate, len(wave)) == (16_000, 16_000)
            assert np.array_equal(wave, whole[cut.start : cut.start + 16_000])
    for name in ("pink_noise.wav", "running_tap.wav"):
        ends = {part: [at for own, at in span if own == name] for part, span in stretches.items()}
        assert max(ends["train"]) < min(ends["validation"] + ends["test"] + [192_000])
    assert first.digest == second.digest
    path = home / "_background_noise_/pink_noise.wav"
    soundfile.write(path, np.zeros(192_000), 16_000)
    assert load(tmp_path, task="twelve").digest != first.digest


@pytest.mark.slow
def test_silence_reaches_a_run_as_spikes(tmp_path: Path) -> None:
    commands_tree(tmp_path / HOME, words=("yes", "go", "bed"), each=12)
    section = {"name": "speech_commands", "root": str(tmp_path), "download": False, "task": "twelve"}
    ear = {"name": "lyon_bsa", "steps": 100}
    dataset, _ = build.load({"seed": 0, "outputs": str(tmp_path / "out"), "data": section, "encoder": ear})
    assert (dataset.kind, dataset.steps) == ("spikes", 100)
    silent = dataset.train.samples[np.flatnonzero(dataset.train.labels == 10)]
    assert silent.shape[0] == 2
    assert silent.any(axis=(1, 2)).all()
    assert not np.array_equal(silent[0], silent[1])


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_told_with_every_way_to_get_it(tmp_path: Path) -> None:
    message = failure(tmp_path)
    assert f"data=speech_commands: v2 of Speech Commands is not in {tmp_path / HOME}" in message
    assert "speech_commands_v0.02.tar.gz | tar xz -C" in message
    home = commands_tree(tmp_path / HOME)
    (home / "testing_list.txt").unlink()
    assert f"{home} has words, and not both of validation_list.txt and testing_list.txt." in failure(tmp_path)


def test_lists_and_noise_that_do_not_fit(tmp_path: Path) -> None:
    home = commands_tree(tmp_path / HOME, noise_s=3.0)
    assert f"{home / '_background_noise_'}: data.task=twelve cuts its silence from recordings of 10 s or" in failure(
        tmp_path, task="twelve"
    )
    noise = home / "_background_noise_/pink_noise.wav"
    noise.write_bytes(noise.read_bytes()[:-100])
    assert f"{noise}: it is cut short: its header announces" in failure(tmp_path, task="twelve")
    (home / "testing_list.txt").write_text("yes/none.wav\n")
    assert "none of the 1 files that it names is there" in failure(tmp_path)
    assert "data.task: 'ten' is not allowed. Allowed: words, twelve." in failure(tmp_path, UsageError, task="ten")


def test_a_recording_of_another_rate_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = commands_tree(tmp_path / HOME)
    soundfile.write(home / "cat/00000007_nohash_0.wav", np.zeros(20), 8_000)
    words = ["data", "verify", "speech_commands", "--root", str(tmp_path), "--json"]
    assert cli.main(words) == 1
    report = json.loads(capsys.readouterr().out)
    assert len(report["faults"]) == 1
    assert "its sample rate is 8,000 Hz and this corpus has 16,000 Hz" in report["faults"][0]
    (home / "cat/00000007_nohash_0.wav").unlink()
    assert cli.main([*words[:-1], "data.task=twelve"]) == 0
    out = capsys.readouterr().out
    assert "samples: 16 to train, 6 to validate, 6 to test (papers: 84,843 to train, 11,005 to test)" in out


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["lyon_bsa", "mel"])
def test_a_run_may_choose_its_ear(tmp_path: Path, encoder: str) -> None:
    commands_tree(tmp_path / HOME, words=("yes", "bed"))
    values = compose([f"data={HOME}", f"encoder={encoder}", f"data.root={tmp_path}", f"outputs={tmp_path / 'out'}"])
    dataset, _ = build.load(values)
    assert (dataset.kind, dataset.sizes) == ("spikes", {"train": 12, "validation": 4, "test": 4})
