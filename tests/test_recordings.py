"""From files of sound to the spikes of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
from corpora import fsdd_tree, record, ti46_tree
from numpy.typing import NDArray

from snnrun import cli, data
from snnrun.data import catalogue, speech
from snnrun.data.corpus import Corpus, Mapped, UnfitError, pick
from snnrun.errors import SnnrunError, UsageError
from snnrun.run import build, recordings


@dataclass(frozen=True)
class Level:
    """Two words a step, the first of which tells the level of the first sample; counts its calls."""

    kinds: ClassVar[tuple[str, ...]] = ("audio",)

    steps: int = 3
    scale: float = 1000.0
    channels: int = 70
    calls: list[int] = field(default_factory=list, compare=False)

    def key(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def encode_recording(self, wave: NDArray[np.float64], sample_rate: int) -> NDArray[np.int64]:
        self.calls.append(sample_rate)
        if wave[0] > 0.9:
            raise ValueError("too loud")
        return np.full((self.steps, 2), round(wave[0] * self.scale), np.int64)


def encoded(corpus: Corpus, encoder: Level, folder: Path) -> Corpus:
    return recordings.encoded(corpus, encoder, folder, "fsdd")


def levels(samples: Any) -> list[int]:
    return [int(sample[0, 0]) for sample in samples[:]]


def written(paths: list[Path]) -> list[int]:
    """The levels that `fsdd_tree` gave the files, 1, 2, ... in its order."""
    order = sorted(
        paths[0].parent.iterdir(),
        key=lambda p: (
            p.stem.split("_")[0],
            speech.FSDD_SPEAKERS.index(p.stem.split("_")[1]),
            int(p.stem.split("_")[2]),
        ),
    )
    return [order.index(path) + 1 for path in paths]


def test_each_sample_has_the_spikes_of_its_file(tmp_path: Path) -> None:
    fsdd_tree(tmp_path)
    corpus = speech.fsdd(tmp_path, False)
    spikes = encoded(corpus, Level(), tmp_path / "cache")
    assert (spikes.kind, spikes.shape) == ("spikes", (70,))
    assert levels(spikes.train_samples) == written(list(corpus.train_samples))
    assert levels(spikes.test_samples) == written(list(corpus.test_samples))
    assert spikes.train_samples.shape == (120, 3, 2)
    np.testing.assert_array_equal(spikes.train_labels, corpus.train_labels)


def test_recordings_are_encoded_once_whatever_the_split(tmp_path: Path) -> None:
    fsdd_tree(tmp_path)
    first, second, third = Level(), Level(), Level(scale=500.0)
    encoded(speech.fsdd(tmp_path, False), first, tmp_path / "cache")
    corpus = speech.fsdd(tmp_path, False, split="speaker")
    other = encoded(corpus, second, tmp_path / "cache")
    assert first.calls == [8000] * 240
    assert second.calls == []
    assert levels(other.test_samples) == written(list(corpus.test_samples))
    encoded(corpus, third, tmp_path / "cache")
    assert len(third.calls) == 240
    assert len(list((tmp_path / "cache").glob("fsdd-*.spikes"))) == 2


def test_a_changed_file_is_encoded_anew(tmp_path: Path) -> None:
    place = fsdd_tree(tmp_path)
    before = encoded(speech.fsdd(tmp_path, False), Level(), tmp_path / "cache")
    record(place / "0_george_0.wav", 0.7, 8000, "WAV")
    after = encoded(speech.fsdd(tmp_path, False), Level(), tmp_path / "cache")
    assert levels(before.test_samples)[0] == 1
    assert levels(after.test_samples)[0] == 700
    assert before.digest() != after.digest()


def test_the_digest_is_that_of_the_files(tmp_path: Path) -> None:
    fsdd_tree(tmp_path)
    corpus = speech.fsdd(tmp_path, False)
    assert encoded(corpus, Level(), tmp_path / "cache").digest() == corpus.digest()
    assert speech.fsdd(tmp_path, False, split="speaker").digest() != corpus.digest()


def sounds(root: Path) -> Path:
    """Two classes of four recordings of 8 kHz: 2 s, 0.5 s, silence, and less than a frame."""
    tone = 0.3 * np.sin(np.arange(16_000) * 0.5)
    for loudness, name in (1, "a"), (0.9, "b"):
        (root / name).mkdir(parents=True)
        for n, wave in enumerate((tone, tone[:4000], np.zeros(int(4000 * loudness)), tone[:100])):
            soundfile.write(root / name / f"{n}.wav", loudness * wave, 8000)
    return root


def test_cut_and_silent_recordings_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By `verify` and by a run, whether it encodes or takes the spikes from the store."""
    root = sounds(tmp_path / "own")
    settings = {"name": "audio_folder", "root": root, "test_fraction": 0.25, "validation": 0}
    wanted = {**values(tmp_path, data=settings), "encoder": {"name": "lyon_bsa", "steps": 700}}
    for encoding in (True, False):
        dataset = build.load(wanted).dataset
        cut, silent = dataset.notes
        assert cut.startswith("2 of 8 recordings are longer than 1.12 s (encoder.steps=700) and are cut there (")
        assert {f"{root / name / '0.wav'}" in cut for name in "ab"} == {True}
        assert "; the longest takes 1250 steps; " in cut  # 25,000 samples at 12.5 kHz, 200 a frame of 10 steps
        assert silent.startswith("4 of 8 samples have no input spike (")
        assert ("encoding" in capsys.readouterr().err) == encoding
    command = ["data", "verify", "--root", str(root), "audio_folder", "data.test_fraction=0.25"]
    assert cli.main(command) == 0
    assert f"note: {cut}\nnote: {silent}\n" in capsys.readouterr().out
    assert cli.main([*command, "encoder.steps=1250"]) == 0
    assert "are cut there" not in capsys.readouterr().out
    assert build.load({**wanted, "encoder": {"name": "lyon_bsa", "steps": 1250}}).dataset.notes == (silent,)


def test_verify_finds_what_the_encoder_refuses(tmp_path: Path) -> None:
    for name in "ab":
        record(tmp_path / name / "0.wav", 0.95 if name == "a" else 0.5, 8000, "WAV")
        record(tmp_path / name / "1.wav", 0.5, 8000, "WAV")
    report = catalogue.verify("audio_folder", tmp_path, recordings.Ear(Level()), {"test_fraction": 0.5})
    assert report["faults"] == [f"{tmp_path / 'a' / '0.wav'}: too loud"]


def test_what_cannot_be_encoded_is_named(tmp_path: Path) -> None:
    place = fsdd_tree(tmp_path)
    record(place / "3_theo_4.wav", 0.95, 8000, "WAV")
    corpus = speech.fsdd(tmp_path, False)
    with pytest.raises(UnfitError, match=r"3_theo_4\.wav: too loud"):
        encoded(corpus, Level(), tmp_path / "cache")
    (place / "3_theo_4.wav").write_bytes(b"")
    (place / "4_theo_4.wav").write_text("not sound")
    with pytest.raises(UnfitError, match=r"it is empty|it is no audio file"):
        encoded(corpus, Level(), tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*.spikes")) == []


def test_a_mapped_part_reads_what_is_asked_for() -> None:
    array = np.arange(24).reshape(6, 2, 2)
    array.setflags(write=False)
    part = Mapped(array, np.array([5, 0, 3]))
    assert part.shape == (3, 2, 2)
    assert len(part) == 3
    taken = part[np.array([0, 2])]
    np.testing.assert_array_equal(taken, array[[5, 3]])
    taken[:] = 0  # a copy
    assert array[5].any()
    fewer = pick(part, np.array([2, 1]))
    assert isinstance(fewer, Mapped)
    assert fewer.array is array
    np.testing.assert_array_equal(fewer[:], array[[3, 0]])
    np.testing.assert_array_equal(pick(array, np.array([1])), array[[1]])


# ---- through a run --------------------------------------------------------------------------------------------------


def values(root: Path, **changes: Any) -> dict[str, Any]:
    return {
        "seed": 0,
        "outputs": str(root / "outputs"),
        "data": {"name": "fsdd", "root": root, "validation": 0.25},
        "encoder": {"name": "lyon_bsa", "steps": 40},
    } | changes


def test_a_run_gets_spikes_and_nothing_left_to_encode(tmp_path: Path) -> None:
    fsdd_tree(tmp_path)
    dataset, encoder = build.load(values(tmp_path))
    assert (dataset.kind, dataset.channels, dataset.steps) == ("spikes", 78, 40)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [90, 30, 120]
    positions = np.array([2, 0])
    bits = encoder.encode(dataset.train.samples[positions], dataset.train.index[positions], 1)
    np.testing.assert_array_equal(bits, dataset.train.samples[positions])
    assert len(list((tmp_path / "outputs" / "cache").glob("fsdd-*.spikes"))) == 1


def test_an_encoder_and_a_corpus_that_do_not_fit(tmp_path: Path) -> None:
    fsdd_tree(tmp_path)
    with pytest.raises(UsageError, match="encoder: lyon_bsa takes audio data, and data=digits has the kind 'image'"):
        build.load(values(tmp_path, data={"name": "digits"}))
    with pytest.raises(
        UsageError, match="encoder: poisson takes image or vector or series data, and data=fsdd has the kind 'audio'"
    ):
        build.load(values(tmp_path, encoder={"name": "poisson"}))


def test_all_bad_files_are_told_at_once(tmp_path: Path) -> None:
    place = fsdd_tree(tmp_path)
    (place / "3_theo_4.wav").write_bytes(b"")
    (place / "7_lucas_49.wav").write_text("not sound")
    with pytest.raises(SnnrunError, match="data=fsdd: 2 files cannot be used") as error:
        build.load(values(tmp_path))
    assert "3_theo_4.wav: it is empty" in str(error.value)
    assert "7_lucas_49.wav: it is no audio file" in str(error.value)


def test_a_surrogate_is_one_in_the_store_too(tmp_path: Path) -> None:
    ti46_tree(tmp_path / "ti46")
    (tmp_path / "ti46" / "SURROGATE").touch()
    dataset = build.load(values(tmp_path, data={"name": "ti46_alpha", "root": tmp_path, "validation": 0})).dataset
    assert dataset.label == "ti46_alpha (surrogate)"
    assert len(list((tmp_path / "outputs" / "cache").glob("ti46_alpha_surrogate-*.spikes"))) == 1


def test_prepare_encodes_what_the_first_run_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fsdd_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["data", "prepare", "fsdd", "encoder.steps=40", "data.split=speaker", "--root", str(tmp_path)]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "fsdd: 160 to train, 80 to test, ready in" in out
    assert "note: 240 of 3,000 recordings are there" in out
    corpus = data.load("fsdd", root=tmp_path, split="speaker")
    assert f"digest: {corpus.digest}" in out
    assert len(list((tmp_path / "outputs" / "cache").glob("fsdd-*.spikes"))) == 1


def test_prepare_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "prepare", "fsd"]) == 2
    assert "fsd: no such corpus" in capsys.readouterr().err
    assert cli.main(["data", "prepare", "fsdd", "encoder.step=40"]) == 2
    assert "Did you mean encoder.steps?" in capsys.readouterr().err
    assert cli.main(["data", "prepare", "fsdd", "--root", str(tmp_path)]) == 1
    assert "git clone" in capsys.readouterr().err
