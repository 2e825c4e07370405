"""The surrogate of TI46: how it is known, and what its generator writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import ti46_tree
from speech_corpora import load

from snnrun.data import audio, folders, ti46

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_ti46_surrogate.py"


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
