from __future__ import annotations

import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from snnrun.display import console

pytestmark = pytest.mark.figures

METRICS = {
    "epoch": 1.0,
    "train/loss": 1.25,
    "train/accuracy": 0.9012,
    "validation/accuracy": 0.8801,
    "test/accuracy": 0.8723,
    "rate/hidden1": 3.2,
    "rate/output": 1.45,
    "lr": 0.004,
    "grad/norm": 2.0,
    "time/epoch_s": 12.34,
    "samples_per_s": 812.0,
}
RATES = {"hidden1": 3.2, "output": 1.45}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def terminal(width: int = 110) -> Console:
    return Console(file=StringIO(), force_terminal=True, width=width, color_system="standard")


def pipe() -> Console:
    return Console(file=StringIO(), force_terminal=False, width=80)


def text(screen: Console) -> str:
    assert isinstance(screen.file, StringIO)
    return screen.file.getvalue()


def bare(screen: Console) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text(screen))


def test_without_a_terminal_an_epoch_is_one_plain_line() -> None:
    screen = pipe()
    with console.Display(screen) as display:
        display.epoch_start(1, 20, 1000)
        display.batch(500, 2.0, 0.5, RATES)
        display.epoch_end(METRICS)
    assert text(screen) == (
        "epoch 1/20  loss 1.250  train 90.12  validation 88.01  test 87.23  s/epoch 12.3"
        "  rates hidden1 3.20  output 1.45\n"
    )


def test_without_a_terminal_a_long_epoch_speaks_every_thirty_seconds() -> None:
    screen, clock = pipe(), Clock()
    with console.Display(screen, clock=clock) as display:
        display.epoch_start(1, 2, 1000)
        for done in range(10, 1001, 10):
            clock.now += 1.0
            display.batch(done, 2.0, 0.5, RATES)
        for done in range(0, 101, 10):
            clock.now += 10.0
            display.evaluating("validation", done, 100)
    lines = text(screen).splitlines()
    assert (
        lines[0] == "epoch 1/2  300/1,000  10 samples/s  loss 2.000  accuracy 50.00 %  left 1:10 min, in all 2:50 min"
    )
    assert [line.split()[2] for line in lines[:3]] == ["300/1,000", "600/1,000", "900/1,000"]
    assert lines[3] == "epoch 1/2  evaluating validation  10/100"
    assert len(lines) == 7
    assert "\x1b" not in text(screen)


def test_on_a_terminal_every_epoch_leaves_a_row_under_one_head() -> None:
    screen = terminal()
    with console.Display(screen) as display:
        for epoch in (1, 2, 3):
            display.epoch_start(epoch, 3, 1000)
            display.batch(500, 2.0, 0.5, RATES)
            display.epoch_end(METRICS | {"validation/accuracy": [0.88, 0.91, 0.9][epoch - 1]})
    rows = [line for line in bare(screen).replace("\r", "\n").splitlines() if re.match(r" +(epoch|\d) ", line)]
    assert [row.split()[0] for row in rows] == ["epoch", "1", "2", "3"]
    assert rows[0].rstrip().endswith("test %  s/epoch   spikes per neuron, by layer")
    assert rows[1].split() == ["1", "1.250", "90.12", "88.00", "87.23", "12.3", "3.20", "1.45"]
    assert "\x1b[1;32m         91.00" in text(screen)  # the best validation so far stands out
    assert "\x1b[1;32m         90.00" not in text(screen)


def test_on_a_terminal_the_running_epoch_is_live() -> None:
    screen, clock = terminal(), Clock()
    with console.Display(screen, clock=clock) as display:
        display.epoch_start(2, 4, 1000)
        clock.now = 5.0
        display.batch(250, 0.5, 0.875, RATES)
        screen.print(display._render())
        display.evaluating("test", 30, 360)
        screen.print(display._render())
    shown = bare(screen)
    assert re.search(r"epoch 2/4 .*50 samples/s  loss 0.5000  acc 87.5 %  left 15 s, in all 55 s", shown)
    assert "spikes per neuron: hidden1 3.20  output 1.45" in shown
    assert "evaluating test  30/360" in shown


def test_time_left_counts_what_an_epoch_really_took() -> None:
    clock = Clock()
    display = console.Display(pipe(), clock=clock)
    display.epoch_start(1, 3, 100)
    assert display._left() == "?"
    clock.now = 10.0
    display.batch(100, 1.0, 0.5, RATES)
    clock.now = 40.0  # the evaluation took half a minute
    display.epoch_start(2, 3, 100)
    clock.now = 45.0
    display.batch(50, 1.0, 0.5, RATES)
    assert display._left() == "5 s, in all 45 s"


def test_time_left_after_going_on_in_the_middle_of_an_epoch() -> None:
    clock = Clock()
    display = console.Display(pipe(), clock=clock)
    display.epoch_start(1, 3, 100, 60)
    assert display._left() == "?"
    clock.now = 2.0
    display.batch(80, 1.0, 0.5, RATES)  # 0.1 s a sample
    assert display._speed() == 10.0
    assert display._left() == "2 s, in all 22 s"
    clock.now = 8.0  # 0.4 of an epoch and its evaluation
    display.epoch_start(2, 3, 100)
    clock.now = 13.0
    display.batch(50, 1.0, 0.5, RATES)
    assert display._left() == "5 s, in all 25 s"


def test_without_validation_there_is_no_such_column() -> None:
    screen = terminal()
    console.Display(screen).epoch_end({key: METRICS[key] for key in ("train/loss", "test/accuracy")})
    assert "validation" not in text(screen)
    assert "87.23" in text(screen)


def test_quiet_leaves_warnings() -> None:
    for screen in (terminal(), pipe()):
        with console.Display(screen, quiet=True) as display:
            display.epoch_start(1, 1, 100)
            display.batch(100, 1.0, 0.5, RATES)
            display.evaluating("test", 1, 1)
            display.epoch_end(METRICS)
            display.warn("layer hidden1 is silent: lower model.v_th")
        assert bare(screen) == "warning: layer hidden1 is silent: lower model.v_th\n"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = terminal()
    console.Display(screen).warn("silent")
    assert "33" not in re.sub(r"[^0-9;m]", "", text(screen))


HEADER: dict[str, Any] = {
    "model": "strsbp",
    "network": "784-400-R400-10",
    "neurons": 810,
    "weights": 637600,
    "dataset": "fashion_mnist",
    "sizes": {"train": 54000, "validation": 0, "test": 10000},
    "encoder": "poisson",
    "steps": 400,
    "training": "20 epochs, batches of 16",
    "device": "cpu",
    "threads": 1,
    "kernels": "reference",
    "run_dir": Path("/a" + "/long" * 30 + "/folder[1]"),
}


def test_header_names_what_runs_and_breaks_no_path() -> None:
    screen = pipe()
    console.header(**HEADER, tracking="bold-fox-12 (4f3a)", console=screen)
    shown = text(screen)
    assert "strsbp  784-400-R400-10  (810 neurons, 637,600 weights)" in shown
    assert "fashion_mnist  (54,000 train, 10,000 test)" in shown
    assert "poisson  (400 steps)" in shown
    assert "cpu, 1 thread, reference kernels" in shown
    assert str(HEADER["run_dir"]) in shown
    assert "bold-fox-12 (4f3a)" in shown
    screen = pipe()
    console.header(**HEADER, console=screen)
    assert re.search(r"MLflow +off", text(screen))


def test_summary_labels_the_three_accuracies() -> None:
    screen = pipe()
    metrics = {
        "test/accuracy_last": 0.9722,
        "test/accuracy_best_validation": 0.9694,
        "test/accuracy_max_over_epochs": 0.975,
        "validation/accuracy_best": 0.9861,
        "best_epoch": 7.0,
    }
    console.summary(
        metrics,
        epochs=20,
        seconds=3725,
        weights=Path("w.safetensors"),
        figures=Path("run"),
        tracking="bold-fox",
        ui_command="snnrun ui",
        console=screen,
    )
    shown = text(screen)
    assert "20 epochs in 1:02:05" in shown
    assert re.search(r"last epoch +97\.22 %\n", shown)
    assert re.search(r"best validation +96\.94 %  \(epoch 7, validation 98\.61 %\)", shown)
    assert re.search(r"max over epochs +97\.50 %  \(chosen on the test set", shown)
    assert all(word in shown for word in ("w.safetensors", "bold-fox", "snnrun ui", "done"))


def test_summary_of_a_run_that_was_not_tested_names_its_best_epoch() -> None:
    screen = pipe()
    metrics = {"validation/accuracy_best": 0.9861, "best_epoch": 7.0}
    console.summary(metrics, epochs=9, seconds=3.2, ended="pruned: it is behind", console=screen)
    assert re.search(r"best validation +98\.61 %  \(epoch 7\)", text(screen))
    assert "test" not in text(screen)
    assert text(screen).strip().startswith("pruned")
    assert "9 epochs in 3 s, then pruned: it is behind" in text(screen)
    console.summary(metrics, epochs=9, before=7, seconds=3.2, console=screen)
    assert "9 epochs, the last 2 in 3 s" in text(screen)


def test_summary_of_an_interrupted_run_without_an_epoch() -> None:
    screen = pipe()
    console.summary({}, epochs=0, seconds=3.2, ended="interrupted: what was reached is kept", console=screen)
    assert "0 epochs in 3 s, then interrupted: what was reached is kept" in text(screen)
    assert "test" not in text(screen)


def test_sweep_table_shows_what_is_swept_and_the_test_accuracy() -> None:
    screen = pipe()
    rows = [
        {"point": "0", "status": "FINISHED", "model.name": "strsbp", "objective": "0.98", "test/accuracy_last": "0.97"},
        {"point": "1", "status": "FAILED", "model.name": "stbp", "objective": "", "test/accuracy_last": ""},
    ]
    console.sweep_table(rows, ["model.name", "train.epochs"], screen)
    lines = [line.split() for line in text(screen).splitlines() if line.strip()]
    assert lines[0] == ["point", "status", "model.name", "objective", "%", "test", "last", "%"]
    assert lines[2:] == [["0", "FINISHED", "strsbp", "98.00", "97.00"], ["1", "FAILED", "stbp"]]
    screen = pipe()
    console.sweep_table([], ["model.name"], screen)
    assert text(screen) == ""


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    image = imread(path)
    assert image.shape[0] > 250
    assert image.std() > 0.01  # something is drawn
    return image


@pytest.mark.parametrize("epochs", [1, 2, 60])
def test_curves(epochs: int, tmp_path: Path) -> None:
    history = [METRICS | {"epoch": float(epoch), "train/loss": 1.0 / epoch} for epoch in range(1, epochs + 1)]
    console.plot_curves(history, tmp_path / "new" / "curves.png")
    image = pixels(tmp_path / "new" / "curves.png")
    for colour in ("#8c8c8c", "#1f77b4", "#d95f02"):  # a curve, or at least a point, of each split
        wanted = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        assert (np.abs(image[..., :3] - wanted).max(axis=-1) < 0.02).sum() > 30


def test_curves_without_validation_and_with_a_number_that_is_none(tmp_path: Path) -> None:
    history = [{"epoch": 1.0, "train/loss": float("nan"), "train/accuracy": 0.1, "test/accuracy": 0.1}]
    console.plot_curves(history, tmp_path / "curves.png")
    image = pixels(tmp_path / "curves.png")
    for colour, drawn in (("#d95f02", True), ("#1f77b4", False)):  # test accuracy, and no validation
        wanted = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        assert bool((np.abs(image[..., :3] - wanted).max(axis=-1) < 0.02).sum() > 30) is drawn


@pytest.mark.parametrize("size", [2, 10, 61])
def test_confusion(size: int, tmp_path: Path) -> None:
    matrix = np.eye(size, dtype=np.int64) * 5
    matrix[0] = 0  # a class without samples
    console.plot_confusion(matrix, [f"class {index}" for index in range(size)], tmp_path / "confusion.png")
    image = pixels(tmp_path / "confusion.png")
    assert (image[..., :3].max(axis=-1) < 0.5).sum() > 500  # the diagonal is dark


def test_raster(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    layers = {
        "hidden1": (generator.random((50, 40)) < 0.1).astype(np.uint8),
        "output": np.zeros((50, 10), np.uint8),  # a silent layer has its panel too
    }
    console.plot_raster(layers, "label 3, prediction 5", tmp_path / "raster.png")
    image = pixels(tmp_path / "raster.png")
    colour = np.array([0x1F, 0x3B, 0x63]) / 255
    drawn = (np.abs(image[..., :3] - colour).max(axis=-1) < 0.05).any(axis=1)
    upper, lower = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    assert upper.sum() > 20
    assert not lower[10:].any()


@pytest.mark.launches
def test_matplotlib_is_imported_with_the_first_figure() -> None:
    code = "import sys, snnrun.display.console; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_first_run_says_what_it_compiles() -> None:
    shown = Console(file=StringIO(), width=80)
    with console.Display(shown, quiet=False) as display:
        display.compiling("lif_forward")
    assert shown.file.getvalue() == "compiling lif_forward\n"  # type: ignore[attr-defined]
    silent = Console(file=StringIO(), width=80)
    with console.Display(silent, quiet=True) as display:
        display.compiling("lif_forward")
    assert not silent.file.getvalue()  # type: ignore[attr-defined]
