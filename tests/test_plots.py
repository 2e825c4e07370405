"""The figures of weights, rates and cost: something is drawn, whatever the values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from snnrun.display import plots

pytestmark = pytest.mark.figures

BLUE = np.array([0x1F, 0x77, 0xB4]) / 255


def coloured(path: Path, colour: np.ndarray) -> int:
    return int((np.abs(imread(path)[..., :3] - colour).max(axis=-1) < 0.03).sum())


@pytest.mark.parametrize("panels", [1, 5])
def test_weights(panels: int, tmp_path: Path) -> None:
    draws = np.random.default_rng(0).normal(size=(2, 500))
    plots.plot_weights({f"layer{k} weight": list(draws) for k in range(panels)}, tmp_path / "w.png")
    assert coloured(tmp_path / "w.png", BLUE) > 100 * panels


def test_weights_that_are_no_numbers_or_all_the_same(tmp_path: Path) -> None:
    nothing, same = np.full(4, np.nan), np.zeros(4)
    plots.plot_weights({"what it began with is not known": [same]}, tmp_path / "one.png")
    plots.plot_weights({"a": [same, nothing], "b": [same, same]}, tmp_path / "w.png")
    assert (tmp_path / "w.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("ending", "first"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_a_figure_is_what_its_name_says(ending: str, first: bytes, tmp_path: Path) -> None:
    plots.plot_rates({"hidden1": np.arange(5.0)}, "title", tmp_path / f"rates{ending}")
    assert (tmp_path / f"rates{ending}").read_bytes().startswith(first)


def test_rates_and_silence(tmp_path: Path) -> None:
    plots.plot_rates({"hidden1": np.arange(50.0), "output": np.zeros(10)}, "title", tmp_path / "r.png")
    assert coloured(tmp_path / "r.png", BLUE) > 500


def test_cost(tmp_path: Path) -> None:
    plots.plot_cost({"input": (9.0, 0.0), "output": (0.5, 90.0)}, {"a": 1.0, "b": 0.0}, "title", tmp_path / "c.png")
    assert coloured(tmp_path / "c.png", BLUE) > 1000


def test_weights_of_a_training_that_diverges_are_drawn_without_a_warning(tmp_path: Path) -> None:
    huge = np.array([3e38, -3e38, 3e38, np.inf, np.nan], np.float32)
    plots.plot_weights({"hidden1": (np.zeros(5, np.float32), huge)}, tmp_path / "weights.png")
    assert (tmp_path / "weights.png").is_file()
