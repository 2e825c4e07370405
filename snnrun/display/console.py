"""What a user reads: the header, the progress of the training, the summary, the table of a sweep.

On a terminal two live lines show the running epoch, and every finished epoch leaves one line. Elsewhere there are plain
lines without control codes: one for each epoch, and within an epoch at most one in thirty seconds. rich respects
``NO_COLOR``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from snnrun.display.accuracies import final_accuracies
from snnrun.display.plots import plot_confusion, plot_cost, plot_curves, plot_raster, plot_rates, plot_weights
from snnrun.display.verbosity import verbosity
from snnrun.metric_names import EPOCH_SECONDS, TEST_ACCURACY, TRAIN_ACCURACY, TRAIN_LOSS, VALIDATION_ACCURACY

__all__ = ["Display", "header", "print_rows", "summary", "sweep_table"]
__all__ += ["plot_confusion", "plot_cost", "plot_curves", "plot_raster", "plot_rates", "plot_weights"]

PLAIN_SECONDS = 30.0
COLUMNS = (  # of the table that grows by a line an epoch: title, metric, width, factor, format
    ("loss", TRAIN_LOSS, 10, 1.0, "#.4g"),
    ("train %", TRAIN_ACCURACY, 9, 100.0, ".2f"),
    ("validation %", VALIDATION_ACCURACY, 14, 100.0, ".2f"),
    ("test %", TEST_ACCURACY, 9, 100.0, ".2f"),
    ("s/epoch", EPOCH_SECONDS, 9, 1.0, ".1f"),
)


class Display:
    """The engine's observer, and a context manager (on leaving, the live lines vanish).

    ``quiet`` (by default what -q or -v say) shows warnings alone; --verbose adds every metric of an epoch. Accuracies
    come as fractions and are shown in percent; rates are spikes per neuron and sample.
    """

    def __init__(
        self,
        console: Console | None = None,
        quiet: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self._quiet = verbosity() == "quiet" if quiet is None else quiet
        self._verbose = verbosity() == "verbose" and not self._quiet
        self._clock = clock
        self._live: Live | None = None
        self._epoch = self._epochs = self._samples = self._done = self._skipped = 0
        self._loss = self._accuracy = math.nan
        self._rates: dict[str, float] = {}
        self._evaluation = self._loop = ""
        self._begun = self._epoch_begun = self._said = clock()
        self._elapsed = 0.0  # since the epoch began, at the last batch
        self._first: float | None = None
        self._columns: list[str] | None = None
        self._best = -math.inf

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self._quiet:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def epoch_start(self, epoch: int, epochs: int, samples: int, done: int = 0) -> None:
        """Epoch ``epoch`` (1-based) of ``epochs`` begins over so many training samples, or goes on after ``done``."""
        self._epoch, self._epochs, self._samples, self._done, self._skipped = epoch, epochs, samples, done, done
        self._loss = self._accuracy = math.nan
        self._evaluation = ""
        self._epoch_begun = self._said = self._clock()
        self._elapsed = 0.0
        if self._first is None:  # where in the run this process has begun, in epochs
            self._first, self._begun = epoch + done / max(samples, 1), self._epoch_begun

    def batch(self, done: int, loss: float, accuracy: float, rates: dict[str, float]) -> None:
        """So many samples of the epoch are done; loss, accuracy and rates are means over them."""
        self._done, self._loss, self._accuracy, self._rates = done, loss, accuracy, rates
        self._elapsed = self._clock() - self._epoch_begun
        if self._time_for_a_line():
            self._line(
                f"epoch {self._epoch}/{self._epochs}  {done:,}/{self._samples:,}  {self._speed():,.0f} samples/s"
                f"  {'' if math.isnan(loss) else f'loss {loss:#.4g}  '}accuracy {100 * accuracy:.2f} %"
                f"  left {self._left()}"
            )

    def evaluating(self, split: str, done: int, total: int) -> None:
        """So many samples of a split have been classified."""
        self._evaluation = f"evaluating {split}  {done:,}/{total:,}"
        if self._time_for_a_line():
            self._line(f"epoch {self._epoch}/{self._epochs}  {self._evaluation}")

    def epoch_end(self, metrics: dict[str, float]) -> None:
        """The epoch's metrics are known: one line that stays."""
        if self._quiet:
            return
        validation = metrics.get(VALIDATION_ACCURACY, -math.inf)
        better = math.isfinite(validation) and validation >= self._best
        self._best = max(self._best, validation)
        rates = {key.removeprefix("rate/"): value for key, value in metrics.items() if key.startswith("rate/")}
        if self.console.is_terminal:
            self._row(metrics, rates, better)
        else:
            fields = [f"{title.removesuffix(' %')} {_field(metrics, title)}" for title in _titles(metrics)]
            told = [f"rates {_rates(rates)}"] if rates else []
            self._line("  ".join([f"epoch {self._epoch}/{self._epochs}", *fields, *told]))
        if self._verbose:
            values = "  ".join(f"{key} {value:.6g}" for key, value in metrics.items())
            self.console.print(Text(f"  {values}", style="dim"), soft_wrap=not self.console.is_terminal)

    def compiling(self, loop: str) -> None:
        """A loop of the kernels is being compiled, before the first batch can go on."""
        self._loop = loop
        if not (self._quiet or self.console.is_terminal):
            self._line(f"compiling {loop}")

    def note(self, message: str) -> None:
        """Say something in passing."""
        if not self._quiet:
            self.console.print(Text(message, style="dim"), soft_wrap=not self.console.is_terminal)

    def warn(self, message: str) -> None:
        """Say what the user should know, quiet or not."""
        text = Text.assemble(("warning: ", "bold yellow"), message)
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def _row(self, metrics: Mapping[str, float], rates: Mapping[str, float], better: bool) -> None:
        titles = _titles(metrics)
        widths = {title: width for title, _, width, *_ in COLUMNS}
        if self._columns != titles:
            self._columns = titles
            head = "epoch".rjust(7) + "".join(title.rjust(widths[title]) for title in titles)
            more = "   spikes per neuron, by layer" if rates else ""
            self.console.print(Text(head + more, style="bold"), no_wrap=True, overflow="ellipsis")
        row = Text(f"{self._epoch:>7}")
        for title in titles:
            marked = better and title == "validation %"
            row.append(_field(metrics, title).rjust(widths[title]), style="bold green" if marked else "")
        row.append("   " + "  ".join(f"{rate:.2f}" for rate in rates.values()), style="dim")
        self.console.print(row, no_wrap=True, overflow="ellipsis")

    def _render(self) -> RenderableType:
        if not self._epoch:
            return Text(f"compiling {self._loop} ..." if self._loop else "preparing ...", style="dim")
        if self._evaluation:
            facts = self._evaluation
        elif self._done > self._skipped:
            loss = "" if math.isnan(self._loss) else f"loss {self._loss:#.4g}  "
            measures = f"{loss}acc {100 * self._accuracy:.1f} %"
            facts = f"{self._speed():,.0f} samples/s  {measures}  left {self._left()}"
        else:
            facts = f"compiling {self._loop} ..." if self._loop else "first batch ..."
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1, min_width=6)
        grid.add_column(no_wrap=True)
        bar = ProgressBar(total=max(self._samples, 1), completed=self._done, complete_style="cyan")
        grid.add_row(Text(f"epoch {self._epoch}/{self._epochs}", style="bold"), bar, Text(facts))
        rates = f"spikes per neuron: {_rates(self._rates)}" if self._rates else ""
        return Group(grid, Text(rates, style="dim", no_wrap=True, overflow="ellipsis"))

    def _speed(self) -> float:
        return (self._done - self._skipped) / self._elapsed if self._elapsed > 0 else 0.0

    def _left(self) -> str:
        """Time to the end of the epoch's training and, with more epochs to come, to the end of all."""
        if self._done <= self._skipped:
            return "?"
        sample = self._elapsed / (self._done - self._skipped)
        epoch = sample * (self._samples - self._done)
        before = self._epoch - (self._first or self._epoch)
        # Past epochs tell what one costs with its evaluation; in the first there is only the training to go by.
        whole = (self._epoch_begun - self._begun) / before if before > 0 else sample * self._samples
        rest = whole * (self._epochs - self._epoch)
        return _duration(epoch) if not rest else f"{_duration(epoch)}, in all {_duration(epoch + rest)}"

    def _time_for_a_line(self) -> bool:
        if self._quiet or self.console.is_terminal or self._clock() - self._said < PLAIN_SECONDS:
            return False
        self._said = self._clock()
        return True

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def header(
    *,
    model: str,
    network: str,
    neurons: int,
    weights: int,
    dataset: str,
    sizes: Mapping[str, int],
    encoder: str,
    steps: int,
    training: str,
    settings: str | None = None,
    device: str,
    threads: int,
    kernels: str,
    run_dir: Path,
    tracking: str | None = None,
    console: Console | None = None,
) -> None:
    """Say what is about to run.

    ``network`` is the whole chain (``784-400-R400-10``), ``sizes`` the samples of each split, ``training`` a phrase
    (``20 epochs, batches of 16, learning rate 0.004 (cosine)``), ``settings`` what they rest on, if that is known,
    ``tracking`` the MLflow run's name and id or None.
    """
    samples = ", ".join(f"{size:,} {split}" for split, size in sizes.items() if size)
    rows = {
        "model": f"{model}  {network}  ({neurons:,} neurons, {weights:,} weights)",
        "data": f"{dataset}  ({samples})",
        "encoder": f"{encoder}  ({steps} steps)" if steps else encoder,
        "training": training,
        "settings": settings or "",
        "hardware": f"{device}, {threads} thread{'s' if threads != 1 else ''}, {kernels} kernels",
        "folder": _short(run_dir),
        "MLflow": tracking or "off",
    }
    print_rows(console or Console(), "snnrun train", {title: text for title, text in rows.items() if text})


def summary(
    metrics: Mapping[str, float],
    *,
    epochs: int,
    before: int = 0,
    seconds: float,
    ended: str | None = None,
    go_on: str | None = None,
    cost: str | None = None,
    weights: Path | None = None,
    figures: Path | None = None,
    tracking: str | None = None,
    ui_command: str | None = None,
    console: Console | None = None,
) -> None:
    """Say what came out; ``metrics`` is the engine's ``Result.summary``, ``epochs`` those that were completed,
    ``before`` of them before the run went on, and ``seconds`` what the others took.

    ``ended`` says why the training did not come to its end, first in one word.
    """
    done = f"{epochs} epoch{'s' if epochs != 1 else ''}{f', the last {epochs - before}' if before else ''}"
    done += f" in {_duration(seconds)}"
    rows = {"time": done + (f", then {ended}" if ended else "")} | final_accuracies(metrics)
    if cost is not None:
        rows["cost of an inference"] = cost
    places = {"go on": go_on, "weights": weights, "figures": figures, "MLflow": tracking, "compare runs": ui_command}
    rows |= {title: _short(place) for title, place in places.items() if place is not None}
    print_rows(console or Console(), ended.partition(":")[0] if ended else "done", rows)


def sweep_table(rows: Sequence[Mapping[str, str]], swept: Sequence[str], console: Console | None = None) -> None:
    """Print the rows of ``sweep.table.rows``: point, the ``swept`` parameters, objective and test accuracies in %.

    The other parameters in which the points differ, which follow from the swept ones, stand in ``sweep.csv``.
    """
    if verbosity() == "quiet":
        return
    console = console or Console()
    if not rows:
        return
    shares = ["objective", *(key for key in rows[0] if key.startswith("test/accuracy_"))]
    shown = ["point", "status", *(key for key in swept if key in rows[0]), *shares]
    best = max((float(row["objective"]) for row in rows if row["objective"]), default=None)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for key in shown:
        title = key.replace("/accuracy", "").replace("_", " ") + " %" if key in shares else key
        table.add_column(title, justify="left" if key in ("point", "status") else "right", no_wrap=True)
    for row in rows:
        done = row["status"] in ("FINISHED", "PRUNED")
        style = "" if done else "red"
        if row["objective"] and float(row["objective"]) == best:
            style = "bold"
        table.add_row(
            *(f"{100 * float(row[key]):.2f}" if key in shares and row[key] else row[key] for key in shown), style=style
        )
    if not console.is_terminal:  # a pipe has no width that a table would have to fit
        console = Console(file=console.file, width=400)
    console.print(table)


def print_rows(console: Console, title: str, rows: Mapping[str, str]) -> None:
    """Print a title and named values below it."""
    if verbosity() == "quiet":
        return
    width = max(map(len, rows))
    console.print()
    console.print(Text(title, style="bold cyan"))
    for name, value in rows.items():
        # Folders are copied by hand: a terminal may wrap them, but no line break is put into them.
        console.print(Text.assemble((f"  {name:<{width}}  ", "dim"), value), soft_wrap=True)
    console.print()


def _short(place: Path | str) -> str:
    """A path as seen from the working directory, where it lies below it."""
    if isinstance(place, Path) and place.is_relative_to(Path.cwd()):
        return str(place.relative_to(Path.cwd()))
    return str(place)


def _titles(metrics: Mapping[str, float]) -> list[str]:
    return [title for title, key, *_ in COLUMNS if key in metrics]


def _field(metrics: Mapping[str, float], wanted: str) -> str:
    key, factor, form = next((key, factor, form) for title, key, _, factor, form in COLUMNS if title == wanted)
    return format(factor * metrics[key], form)


def _rates(rates: Mapping[str, float]) -> str:
    return "  ".join(f"{layer} {rate:.2f}" for layer, rate in rates.items())


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"
