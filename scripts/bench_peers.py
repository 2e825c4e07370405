"""Time and memory of one training step and of inference: snnrun against snnTorch, SpikingJelly and Norse.

    pip install '.[peers]'
    python scripts/bench_peers.py                            # all workloads, one thread, batches of 32
    python scripts/bench_peers.py --workload mnist --peers norse --json peers.json --random-input

A training step is zero_grad, forward, cross-entropy of the summed output spikes, backward and Adam; `peers` has the
networks. Every measurement is a process of its own, libraries take turns, and the figures are medians. Memory is the
peak of the resident set during training, less what the process held after its imports and a first call; it includes
the input as the libraries want it (float32). Linux only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import LAYERS, WORKLOADS, Layer, build
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn
from torch.nn import functional

from snnrun.errors import SnnrunError

MINIMAL_RATE = 0.03
# So small that the network which was seen to fire and to have gradients is the one that every step times.
LEARNING_RATE = 1e-7


@torch.no_grad()
def wake(layers: list[Layer], spikes: Tensor) -> None:
    """Scales the weights, layer by layer, until each fires: the libraries' units differ, so no one scale suits all."""
    spikes = spikes[:100, ::4]  # enough, and fast
    for layer in layers:
        # Input weights that excite keep potentials positive and recurrent ones are small, for gradients overflow over
        # hundreds of steps otherwise. The time of a step does not depend on it: all products are dense.
        layer.linear.weight.uniform_(0, 1e-5)
        if layer.recurrent is not None:
            layer.recurrent.weight.zero_()
        while layer(spikes).mean() < MINIMAL_RATE:
            layer.linear.weight.mul_(1.2)
        if layer.recurrent is not None:
            layer.recurrent.weight.normal_(0, 0.1 * layer.linear.weight.std().item())
        spikes = layer(spikes)


@torch.no_grad()
def firing_rates(layers: list[Layer], spikes: Tensor) -> list[float]:
    """Spikes per neuron and step, for each layer."""
    rates = []
    for layer in layers:
        spikes = layer(spikes)
        rates.append(spikes.mean().item())
    return rates


def save_batch(file: Path, name: str, size: int, random_input: bool) -> None:
    """Writes spikes (B, T, N) uint8 and labels (B,) of a workload, for every library the same."""
    workload = WORKLOADS[name]
    if random_input:
        first, *_, last = (int(width.removeprefix("R")) for width in workload.network.split("-"))
        generator = np.random.default_rng(0)
        uniform = generator.random((size, workload.steps, first), dtype=np.float32)
        spikes, labels = (uniform < workload.rate).astype(np.uint8), generator.integers(last, size=size)
    else:
        from snnrun.commands.bench import batch

        spikes, labels = batch(name, size)
    np.savez(file, spikes=spikes, labels=labels)


def load_batch(file: Path) -> tuple[Tensor, Tensor]:
    """Spikes (T, B, N) as float32, which the libraries take, and labels (B,)."""
    with np.load(file) as arrays:
        spikes = torch.from_numpy(arrays["spikes"]).transpose(0, 1).contiguous().float()
        return spikes, torch.from_numpy(arrays["labels"])


def memory(key: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def timed(call: Callable[[], None], repeats: int, samples: int) -> dict[str, float]:
    """Median ms per sample, by the clock and of processor time, after one call to warm up."""
    call()
    clock, processor = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        call()
        clock.append((time.perf_counter() - start[0]) * 1e3 / samples)
        processor.append((time.process_time() - start[1]) * 1e3 / samples)
    return {
        "ms_per_sample": statistics.median(clock),
        "min_ms_per_sample": min(clock),
        "cpu_ms_per_sample": statistics.median(processor),
    }


def work(peer: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one library on one workload, in this process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layers = build(peer, WORKLOADS[name])  # imports the library
    network = nn.Sequential(*layers)
    small = nn.Linear(2, 2)  # so that what PyTorch sets up at a first call counts as import, as it does for snnrun
    small(torch.zeros(1, 2)).sum().backward()
    torch.optim.Adam(small.parameters()).step()
    imported = memory("VmRSS")
    spikes, labels = load_batch(options.input)
    wake(layers, spikes)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def train() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(network(spikes).sum(0), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.inference_mode()
    def infer() -> None:
        network(spikes).sum(0)

    Path("/proc/self/clear_refs").write_text("5")  # the peak, from here on
    training = timed(train, options.repeats, options.batch)
    peak = memory("VmHWM")
    norms = {}
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {key}"
        norms[key] = parameter.grad.norm().item()
        assert 0 < norms[key] < float("inf"), f"the gradient of {key} has norm {norms[key]}"
    network.eval()
    inference = timed(infer, options.repeats, options.batch)
    rates = firing_rates(layers, spikes)
    assert min(rates) > 0.001, f"a layer does not fire: {rates}"
    return {
        "version": importlib.metadata.version(peer),
        "training": training,
        "inference": inference,
        "peak_memory_mib": peak - imported,
        "firing_rates": rates,
        "gradient_norms": norms,
    }


def run(library: str, name: str, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one library on one workload in a process of its own: what it found, or {"error": a line}."""
    shared = ["--threads", str(options.threads), "--batch", str(options.batch)]
    if library == "snnrun":
        command = [sys.executable, "-m", "snnrun", "bench", name, *shared, "--json"]
    else:
        command = [sys.executable, __file__, "--worker", library, "--workload", name, "--input", str(file), *shared]
        command += ["--repeats", str(options.repeats)]
    threads = {key: str(options.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads, check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        if done.returncode < 0 or not lines:
            return {"error": f"exit status {done.returncode}"}  # a signal leaves no message
        return {"error": next((line for line in lines if line.startswith("snnrun: ")), lines[-1])}
    try:
        found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError as error:
        return {"error": f"no JSON in the output: {error}"}
    return found


def median(runs: Sequence[dict[str, Any]], *keys: str) -> float | None:
    """The median over rounds of a figure, None where there is none."""
    figures = []
    for found in runs:
        value: Any = found
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            figures.append(float(value))
    return statistics.median(figures) if figures else None


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One library on one workload: medians over rounds, or the error that stopped it."""
    errors = [found["error"] for found in runs if "error" in found]
    if errors:
        return {"error": errors[0]}
    return {
        "version": runs[0].get("version") or runs[0].get("machine", {}).get("snnrun"),
        "firing_rates": runs[0].get("firing_rates"),
        "training": median(runs, "training", "ms_per_sample"),
        "training_cpu": median(runs, "training", "cpu_ms_per_sample"),
        "inference": median(runs, "inference", "ms_per_sample"),
        "inference_cpu": median(runs, "inference", "cpu_ms_per_sample"),
        "memory": median(runs, "peak_memory_mib"),
    }


def cell(found: dict[str, Any], own: dict[str, Any], key: str) -> str:
    """A figure and its ratio to snnrun's."""
    value, base = found.get(key), own.get(key)
    if value is None:
        return "–"
    digits = 0 if key == "memory" else 3 if value < 1 else 2
    ratio = f"  ({value / base:.1f}x)" if base and found is not own else ""
    return f"{value:.{digits}f}{ratio}"


def table(results: dict[str, dict[str, dict[str, Any]]], options: argparse.Namespace) -> Table:
    """Rows: workloads and libraries."""
    threads = "one thread" if options.threads == 1 else f"{options.threads} threads"
    title = f"{threads}, batch {options.batch}, medians of {options.rounds} rounds (in brackets: ratio to snnrun)"
    every = {library: found for group in results.values() for library, found in group.items() if "error" not in found}
    caption = ", ".join(f"{library} {found['version']}" for library, found in every.items())
    shown = Table("workload", "library", title=title, caption=caption)
    for column in ("training, ms/sample", "inference, ms/sample", "memory, MiB", "firing, %"):
        shown.add_column(column, justify="right")
    for name, libraries in results.items():
        shown.add_section()
        for library, found in libraries.items():
            if "error" in found:
                shown.add_row(name, library, Text(found["error"], style="red"))
                continue
            cells = [cell(found, libraries["snnrun"], key) for key in ("training", "inference", "memory")]
            hidden = [f"{100 * rate:.1f}" for rate in (found["firing_rates"] or [])[:-1]]
            shown.add_row(name, library, *cells, " ".join(hidden) or "–")
    return shown


def names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names."""

    def parse(text: str) -> list[str]:
        chosen = [name for name in text.split(",") if name]
        for name in chosen:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
        return chosen

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description="Times snnrun against other libraries on the same networks.")
    parser.add_argument("--workload", type=names(list(WORKLOADS)), default=list(WORKLOADS), help="default: all")
    parser.add_argument("--peers", type=names(LAYERS), default=list(LAYERS), help="default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="timed calls in a process, after one to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each library and workload, taking turns")
    parser.add_argument("--random-input", action="store_true", help="peers: random spikes, for want of the corpora")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--worker", choices=LAYERS, help=argparse.SUPPRESS)
    parser.add_argument("--input", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.worker, options.workload[0], options)))
        return

    console = Console(width=max(110, Console().width))  # the table whole, in a file too
    libraries = ["snnrun", *options.peers]
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {library: [] for library in libraries} for name in options.workload
    }
    with tempfile.TemporaryDirectory() as folder, console.status("preparing the input") as status:
        files = {name: Path(folder) / f"{name}.npz" for name in options.workload}
        try:
            for name, file in files.items():
                save_batch(file, name, options.batch, options.random_input)
        except SnnrunError as error:
            sys.exit(f"{error}\nOr measure with --random-input, which needs no corpora for the other libraries.")
        for turn in range(options.rounds):
            for name, file in files.items():
                for library, found in runs[name].items():
                    if any("error" in earlier for earlier in found):
                        continue
                    status.update(f"round {turn + 1} of {options.rounds}: {name}, {library}")
                    found.append(run(library, name, file, options))
    results = {name: {library: summary(found) for library, found in group.items()} for name, group in runs.items()}
    console.print(table(results, options))
    measured = [found for group in results.values() for found in group.values() if found.get("training_cpu")]
    waited = max((found["training"] / found["training_cpu"] for found in measured), default=1.0)
    if options.threads == 1 and waited > 1.1:
        console.print(f"The machine was busy: up to {waited:.1f} times the processor time passed. Measure again.")
    if options.json:
        settings = {key: getattr(options, key) for key in ("threads", "batch", "repeats", "rounds", "random_input")}
        options.json.write_text(json.dumps({"settings": settings, "results": results, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
