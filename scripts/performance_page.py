"""The sections of docs/performance.md and its figure, from what scripts/performance.py measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DOUBLINGS = (100, 200, 400, 800, 1600)

Result = dict[str, Any]


def of_width(width: int) -> list[str]:
    """Thresholds grow with the root of the fan-in, so that neurons fire as often at every width."""
    grown = math.sqrt(width / 400)
    return [f"model.network={width}-R{width}", f"model.v_th=[20,{20 * grown:.4g},{15 * grown:.4g}]"]


@dataclass(frozen=True)
class Sweep:
    """Measurements of the fashion workload along one quantity, and how to read it from a result."""

    title: str
    quantity: str
    unit: str
    points: dict[str, list[str]]
    read: Callable[[Result], float]


SWEEPS = {
    "steps": Sweep(
        "Steps",
        "T",
        "steps",
        {str(steps): [f"encoder.steps={steps}"] for steps in DOUBLINGS},
        lambda result: float(result["steps"]),
    ),
    "width": Sweep(
        "Width",
        "neurons of a hidden layer",
        "neurons",
        {str(width): of_width(width) for width in DOUBLINGS},
        lambda result: float(result["network"].split("-")[1]),
    ),
    "rate": Sweep(
        "Firing rate",
        "input spikes of a sample",
        "input spikes",
        {str(factor): [f"encoder.attenuation={factor}"] for factor in (22, 11, 5.5, 2.75, 1.375)},
        lambda result: float(result["spikes_per_sample"]["input"]),
    ),
}


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The power p of y ~ x^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def number(value: float | None, form: str = "#.3g") -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if form == "#.3g" and value >= 100 else format(value, form)


def introduction(result: Result) -> list[str]:
    machine = result["machine"]
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    return [
        "# Performance",
        "",
        "Made by `scripts/performance.py`; not edited by hand. Times are of whole training steps (encoding, forward,",
        "loss, backward, optimiser) and of inference (encoding, forward), per sample, medians of repeats over 256",
        "samples or more. The weights are those after a short training, so that neurons fire as in a real run. Memory",
        "is the peak of a fresh process that trains, above what it held once everything was imported.",
        "",
        f"Machine: {machine['cpu']}, {cores}, {number(machine['memory_gib'], 'g')} GiB of memory. "
        f"Python {machine['python']}, PyTorch {machine['torch']}, Numba {machine['numba']}, "
        f"snnrun {machine['snnrun']} ({machine['commit'][:7]}), {result['kernels']} kernels on {result['device']}.",
        "",
    ]


def workload_section(results: dict[str, Result]) -> list[str]:
    head = ["workload", "network", "T", "batch", "threads", "training ms", "samples/s", "inference ms", "peak MiB"]
    rows = []
    for name, result in results.items():
        what = [f"`{name}`", f"{result['model']} {result['network']}", str(result["steps"]), str(result["batch"])]
        for threads, entry in result["by_threads"].items():
            times = [entry["training"]["ms_per_sample"], entry["training"]["samples_per_s"]]
            times.append(entry["inference"]["ms_per_sample"])
            rows.append([*what, threads, *map(number, times), number(entry["peak_memory_mib"], ".0f")])
    return ["## Workloads", "", *table(head, rows), "", *work(results), "", *where_the_time_goes(results)]


def work(results: dict[str, Result]) -> list[str]:
    head = [
        "workload",
        "data",
        "spikes of a sample, from the input on",
        "row additions",
        "Gadd/s",
        "reachable",
        "share",
    ]
    rows = []
    for name, result in results.items():
        first = next(iter(result["by_threads"].values()))
        additions = first["row_additions"]
        rows.append(
            [
                *(f"`{name}`", result["data"]),
                " / ".join(f"{spikes:,.0f}" for spikes in first["spikes_per_sample"].values()),
                f"{additions['per_sample'] / 1e6:.2f} M",
                number(additions["rate_gadd_s"]),
                number(additions["bound_gadd_s"]),
                number(additions["share"], ".0%"),
            ]
        )
    return [
        "A spike of a dense layer's input adds a row of weights, a float for each neuron, once forward and once back;",
        "in a convolution a float for each kernel, for each of the positions that see it. The rate of these additions",
        "over a whole training step stands beside that at which one core adds random rows of the same matrices and",
        "does nothing else. More are counted than made: backward, neurons silent in a sample are left out. One thread:",
        "",
        *table(head, rows),
    ]


def where_the_time_goes(results: dict[str, Result]) -> list[str]:
    lines = ["Where the time of a training step goes, ms per sample, one thread:", ""]
    for name, result in results.items():
        phases = next(iter(result["by_threads"].values()))["phases"]
        lines += [f"- `{name}`: " + ", ".join(f"{phase} {value:.3f}" for phase, value in phases.items())]
    return [*lines, "", "Commands:", "", *(f"    {result['command']}" for result in results.values()), ""]


def batch_section(results: list[Result]) -> list[str]:
    """What the size of a batch does to the time of a sample, on one thread and on all."""
    rows = []
    for result in results:
        one, all_ = (result["by_threads"][threads] for threads in (min(result["by_threads"]), str(result["threads"])))
        times = [entry["training"]["ms_per_sample"] for entry in (one, all_)]
        outside = [sum(entry["phases"][phase] for phase in ("rest", "optimiser")) for entry in (one, all_)]
        shares = [part / sum(entry["phases"].values()) for part, entry in zip(outside, (one, all_), strict=True)]
        rows.append(
            [
                *(str(result["batch"]), *map(number, times), number(all_["speed_up"], ".2f")),
                *(f"{share:.1%}" for share in shares),
                number(all_["peak_memory_mib"], ".0f"),
            ]
        )
    threads = results[0]["threads"]
    head = ["batch", "training ms, 1 thread", f"{threads} threads", "speed-up", "not kernels", f"{threads} threads"]
    return [
        "## Batches",
        "",
        "The `fashion` workload by the size of its batches. Speed-up: of a training step on all threads, median of",
        "pairs of runs, one thread and all in turn. Not kernels: the share of a step that goes to the optimiser, and",
        "to PyTorch and Python between the kernels.",
        "",
        *table([*head, "peak MiB"], rows),
        "",
    ]


def scaling_section(results: dict[str, list[Result]], figure: Path) -> list[str]:
    lines = [
        "## Scaling",
        "",
        "The `fashion` workload along one quantity, one thread, at the initial weights, where neurons fire as often at",
        "every number of steps; with the width, thresholds grow by the root of the fan-in, for the same reason.",
        "Exponents are slopes of log(y) by log(x), least squares.",
        "",
        f"![Time and memory against steps, width and firing rate]({figure.name})",
        "",
    ]
    for name, points in results.items():
        sweep = SWEEPS[name]
        x = [sweep.read(result) for result in points]
        powers = [f"{what} {exponent(x, y):z.2f}" for what, y in curves(points).items() if None not in y]
        lines += [f"### {sweep.title}", "", f"Exponents: {', '.join(powers)}.{growth(x, points, sweep.unit)}", ""]
        rows = [[f"{at:,.0f}", *point_cells(result)] for at, result in zip(x, points, strict=True)]
        head = [sweep.quantity, "spikes, from the input on", "row additions", "training ms", "inference ms", "peak MiB"]
        lines += [*table(head, rows), ""]
    return lines


def point_cells(result: Result) -> list[str]:
    return [
        " / ".join(f"{spikes:,.0f}" for spikes in result["spikes_per_sample"].values()),
        f"{result['row_additions']['per_sample'] / 1e6:.2f} M",
        number(result["training"]["ms_per_sample"]),
        number(result["inference"]["ms_per_sample"]),
        number(result["peak_memory_mib"], ".0f"),
    ]


def growth(x: Sequence[float], points: list[Result], unit: str) -> str:
    """The memory's slope, for most of a peak is there whatever the point."""
    peaks = [result["peak_memory_mib"] for result in points]
    return "" if None in peaks else f" Memory grows by {100 * np.polyfit(x, peaks, 1)[0]:.2g} MiB for 100 more {unit}."


def curves(points: list[Result]) -> dict[str, list[Any]]:
    return {
        "row additions": [result["row_additions"]["per_sample"] for result in points],
        "training": [result["training"]["ms_per_sample"] for result in points],
        "inference": [result["inference"]["ms_per_sample"] for result in points],
        "memory": [result["peak_memory_mib"] for result in points],
    }


def peers_section(peers: Result) -> list[str]:
    """What scripts/bench_peers.py found, with the ratio to snnrun in brackets."""
    rows = []
    for workload, libraries in peers["results"].items():
        own = libraries["snnrun"]
        for library, found in libraries.items():
            name = f"{library} {found.get('version') or ''}".strip()
            if "error" in found:
                rows.append([f"`{workload}`", name, found["error"], "", ""])
                continue
            values = [(found[key], own.get(key)) for key in ("training", "inference", "memory")]
            cells = [f"{number(value)} ({value / base:.1f})" if base else number(value) for value, base in values]
            rows.append([f"`{workload}`", name, *cells])
    settings = peers["settings"]
    return [
        "## Other libraries",
        "",
        "By `scripts/bench_peers.py`, which says what is compared: the same networks and batches on the same machine,",
        f"{settings['threads']} thread{'s' * (settings['threads'] > 1)}, batches of {settings['batch']}, medians of "
        f"{settings['rounds']} rounds.",
        "In brackets the ratio to snnrun's.",
        "",
        *table(["workload", "library", "training ms", "inference ms", "peak MiB"], rows),
    ]


def gpu_section(found: Result) -> list[str]:
    """What scripts/gpu_check.py found on a machine with a GPU."""
    machine, rows = found["machine"], []
    for name, result in found.items():
        workload, _, place = name.rpartition("_")
        if place in ("gpu", "cpu") and "error" not in result:
            times = (result[kind]["ms_per_sample"] for kind in ("training", "inference"))
            rows.append([f"`{workload}`", f"snnrun, {result['device']}", *map(number, times)])
        elif workload == "spikingjelly" and "error" not in result:
            rows.append(
                ["`feed_forward`", f"spikingjelly, {place}", *map(number, (result["training"], result["inference"]))]
            )
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    verdict = "passed" if found["doctor"].get("code") == 0 else "failed"
    return [
        "## On a GPU",
        "",
        f"By `scripts/gpu_check` on one {machine['gpu']} ({machine['memory_gib']:g} GiB; {machine['cores']} cores),",
        f"batches of {found['batch']}; {packages}. `snnrun doctor --kernels` {verdict} there.",
        "`feed_forward` is 784-400-400-10 over 400 steps: ST-RSBP here, LIFNode trained through time there.",
        "",
        *table(["workload", "by", "training ms", "inference ms"], rows),
        "",
    ]


def draw(results: dict[str, list[Result]], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    matplotlib.rcParams["svg.hashsalt"] = "snnrun"  # the same figure is the same file
    figure = Figure(figsize=(3.6 * len(results), 5.6), layout="constrained")
    axes = figure.subplots(2, len(results), squeeze=False, sharex="col")
    for column, (name, points) in enumerate(results.items()):
        x = [SWEEPS[name].read(result) for result in points]
        for what, values in curves(points).items():
            if what == "row additions" or None in values:
                continue
            panel = axes[int(what == "memory"), column]
            label = f"{what}, exponent {exponent(x, values):z.2f}"
            panel.plot(x, values, marker="o", markersize=3.5, label=label)
        for panel in axes[:, column]:
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())  # less than a decade would have a label at each
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
            if panel.lines:
                panel.legend(frameon=False, fontsize=8)
        axes[1, column].set_xlabel(SWEEPS[name].quantity)
    axes[0, 0].set_ylabel("ms per sample")
    axes[1, 0].set_ylabel("peak MiB")
    figure.savefig(path, metadata={"Date": None})
