"""What training and inference cost: time, memory, spikes and row additions. Takes plain values; knows no Hydra.

A network is trained briefly first, since a run pays for the firing rates of a trained network. Then its weights
stand still (the optimiser works at a learning rate of 0), so that every repeat does the same work. Each number of
threads is measured in a fresh process, whose peak memory is its own.

Row additions are the work that no event-driven simulation of a dense layer avoids: each spike of its input adds a row
of weights, one float for each neuron, once forward and once backward. In a convolution it adds a row of one float for
each kernel for each of the positions that see it. Recurrent synapses and pools are not counted.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun import collector, data, kernels
from snnrun.bench import peaks
from snnrun.bench.phases import in_turn, phases, wait
from snnrun.compiled import parallel
from snnrun.errors import SnnrunError
from snnrun.network import Layer, Network
from snnrun.network.model import Model
from snnrun.record import provenance
from snnrun.rules import RULES, Currents, LayerKind
from snnrun.run import build
from snnrun.train import hardware
from snnrun.train.batches import batches, shuffled, steps_of
from snnrun.train.options import Options
from snnrun.train.training import Training

# A repeat runs over so many samples, or over so many batches if these are more.
SAMPLES, BATCHES = 256, 8
# The measured samples are encoded as in this epoch; the warm-up counts up from it.
EPOCH = 1
# On one thread more time than so many times the processor's own means that others had the core.
BUSY = 1.1
MIB = 2**20


@dataclass(frozen=True)
class Job:
    """What one process measures: the training samples of `inputs`, in batches, with the weights of `state`."""

    values: Mapping[str, Any]
    inputs: build.Inputs
    state: Mapping[str, Tensor]
    threads: int
    repeats: int


def run(
    values: Mapping[str, Any], *, threads: Sequence[int], repeats: int, warm_up: int, note: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the training and the inference of one network.

    Args:
        values: the config as `snnrun.config.check.plain` gives it.
        threads: the numbers of threads to measure with.
        repeats: of each measurement; medians are reported.
        warm_up: samples to train on first.
        note: is told what is going on.

    Returns:
        What `snnrun bench --json` prints, but for workload and command; times in ms per sample, memory in MiB. The
        measurements stand under `by_threads` and those of the most threads at the top too.

    Raises:
        UsageError: the settings do not fit one another or this machine.
        SnnrunError: a corpus is missing, the training diverges, or a measuring process dies.
    """
    wanted = values["hardware"]
    device, backend = hardware.set_up(wanted["device"], max(threads), wanted["kernels"])
    inputs = build.load(values)
    training = _training(values, inputs, device)
    network, batch = training.network, training.options.batch_size
    if warm_up:
        note(f"training on {warm_up:,} samples ...")
        _warm_up(training, warm_up)
    else:
        _try(training)
    cut = _measured(values, inputs, batch * max(BATCHES, math.ceil(SAMPLES / batch)))
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    entries = {}
    for number in sorted(threads):
        note(f"measuring with {number} thread{'s' if number > 1 else ''} ...")
        entries[number] = entry = _in_own_process(Job(values, cut, state, number, repeats))
        waited = entry["training"]["ms_per_sample"] / entry["training"]["cpu_ms_per_sample"]
        if number == 1 and device.type == "cpu" and waited > BUSY:
            note(f"The machine was busy: {waited:.1f} times the processor time passed. Measure again.")
    return {
        "machine": _machine(),
        "model": values["model"]["name"],
        "network": network.chain,
        "data": inputs.dataset.label,
        "encoder": values["encoder"]["name"],
        "batch": batch,
        "kernels": backend,
        "device": "CPU" if device.type == "cpu" else hardware.describe(device),
        "warm_up": warm_up,
        "threads": max(threads),
        **entries[max(threads)],
        "by_threads": {str(number): entry for number, entry in entries.items()},
    }


def batch(values: Mapping[str, Any], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Dense input spikes (size, T, N) uint8 and labels (size,) int64, the first samples that `run` measures."""
    (dataset, encoder), order = _measured(values, build.load(values), size), np.arange(size)
    [(_, spikes, labels)] = batches(dataset.train, order, encoder, EPOCH, size, torch.device("cpu"), dataset.augment)
    assert not isinstance(spikes, Currents)
    return kernels.unpack(spikes, dataset.channels).numpy(), labels.numpy()


# ---- building -------------------------------------------------------------------------------------------------------


def _training(values: Mapping[str, Any], inputs: build.Inputs, device: torch.device) -> Training:
    model, inputs = build.learner(values, inputs, device)
    return Training(model, *inputs, Options(**values["train"]), seed=values["seed"], device=device)


def _warm_up(training: Training, samples: int) -> None:
    """Train on so many samples at the first learning rate of the schedule."""
    size, options = len(training.dataset.train), training.options
    order, left, epoch = np.arange(size), samples, EPOCH
    while left > 0:
        order = shuffled(order, options.shuffle, training.seed, epoch)
        for batch in training.batches(order[:left], epoch):
            if not training.gradients(*batch, epoch).finite:
                raise SnnrunError(f"The training before the measurement diverged. Lower train.lr (now {options.lr:g}).")
            training.update(options.lr)
        left, epoch = left - size, epoch + 1


def _try(training: Training) -> None:
    """Refuse a network whose first gradient is not finite: at any learning rate, its weights would be no numbers."""
    if not training.gradients(*next(training.batches(np.arange(training.options.batch_size), EPOCH)), EPOCH).finite:
        raise SnnrunError(
            "The gradient of the first batch is not finite, so no training could be measured. Errors grow too much "
            "from step to step or from layer to layer: change model.network, or the scale of the initial weights."
        )


def _measured(values: Mapping[str, Any], inputs: build.Inputs, size: int) -> build.Inputs:
    """The inputs cut to the samples to measure: `size` of the training samples in random order, again if too few."""
    split = inputs.dataset.train
    order = np.random.Generator(np.random.PCG64(values["seed"])).permutation(len(split))
    chosen, none = np.resize(order, size), order[:0]

    def part(positions: NDArray[np.int64]) -> data.Split:
        return data.Split(split.samples[positions], split.labels[positions], split.index[positions])

    return inputs._replace(dataset=replace(inputs.dataset, train=part(chosen), validation=part(none), test=part(none)))


def _machine() -> dict[str, Any]:
    tags = provenance.provenance([])
    try:
        memory: float | None = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):  # no POSIX system
        memory = None
    return {
        "cpu": tags["host.cpu"],
        "cores": hardware.cores(),
        "memory_gib": memory and round(memory, 1),
        "python": tags["python.version"],
        **{name: tags.get(f"{name}.version") for name in ("torch", "numba", "snnrun")},
        "commit": tags.get("snnrun.git.commit", tags["git.commit"]),
    }


# ---- one process for each number of threads -------------------------------------------------------------------------


def _in_own_process(job: Job) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import child; child()"],
        input=pickle.dumps((job.values["hardware"], job.threads)) + pickle.dumps(job),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or "without a word"
        killed = " (killed: out of memory?)" if done.returncode == -9 else ""
        raise SnnrunError(
            f"The process that measures {job.threads} threads ended with {done.returncode}{killed}: {last}"
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def child() -> None:
    """Measure the job on the standard input and print the result."""
    collector.seldom()  # as in a training: one look through all objects would stand as a millisecond of some phase
    options, threads = pickle.load(sys.stdin.buffer)
    device, backend = hardware.set_up(options["device"], threads, options["kernels"])
    imported = peaks.memory("VmRSS")
    print(json.dumps(measure(pickle.load(sys.stdin.buffer), device, backend, imported)))


def measure(job: Job, device: torch.device, backend: str, imported: int | None) -> dict[str, Any]:
    """Measure in this process, which had `imported` bytes of resident memory when all was imported."""
    build.plug_in(job.values)
    _load_code(job, device)
    loaded = peaks.memory("VmRSS")
    training = _training(job.values, job.inputs, device)
    training.network.load_state_dict(job.state)
    split = job.inputs.dataset.train
    order = np.arange(len(split))

    def train() -> None:
        for batch in training.batches(order, EPOCH):
            training.gradients(*batch, EPOCH)
            training.update(0.0)

    @torch.no_grad()
    def infer() -> None:
        size = training.options.batch_size
        for _, spikes, _ in batches(split, order, training.encoder, EPOCH, size, device):
            training.network(spikes.to(device)).scores.argmax(dim=1).cpu()

    knows_peak = peaks.reset(device)
    train()
    trained = _timed(train, job.repeats, device, len(order))
    peak = peaks.memory("VmHWM") if knows_peak else None
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    speed_up = _speed_up(train, job.threads, job.repeats) if job.threads > 1 and backend == "cpu" else None
    infer()
    inference = _timed(infer, job.repeats, device, len(order))
    spikes, steps = _spikes(training)
    return {
        "steps": steps,
        "training": trained,
        "inference": inference,
        "speed_up": speed_up,
        "peak_memory_mib": None if peak is None or loaded is None else (peak - loaded) / MIB,
        "compiled_code_mib": None if imported is None or loaded is None else (loaded - imported) / MIB,
        "peak_process_mib": peak and peak / MIB,
        "peak_device_memory_mib": on_device and on_device / MIB,
        "phases": {
            phase: 1e3 * seconds / len(order) for phase, seconds in phases(training, EPOCH, job.repeats).items()
        },
        "spikes_per_sample": spikes,
        "row_additions": _row_additions(training.network, spikes, trained["ms_per_sample"], job.threads, device),
    }


def _load_code(job: Job, device: torch.device) -> None:
    """A tiny network for two steps: what is imported, compiled or set up at a first call counts as import."""
    model = job.values["model"]
    if model["name"] not in RULES:
        training = _training(job.values, job.inputs, device)
        training.gradients(*next(in_turn(training, EPOCH)), EPOCH)
        training.update(0.0)
        return
    network = "2C2-P2-2C1-4-R4" if set(model["network"]) & {"C", "P"} else "4-R4"
    tiny = {**job.values, "model": {**model, "network": network, "v_th": list(model["v_th"])[:1]}}
    training = _training(tiny, job.inputs, device)
    split = job.inputs.dataset.train
    training.encoder.encode(split.samples[:1], split.index[:1], EPOCH)
    silent = torch.zeros(1, 2, kernels.words(training.network.inputs), dtype=torch.int64)
    training.gradients(np.arange(1), silent, torch.zeros(1, dtype=torch.int64))
    training.update(0.0)


def _timed(task: Callable[[], None], repeats: int, device: torch.device, samples: int) -> dict[str, float]:
    """Median and least time of a task, and the processor's time in all threads, ms per sample."""
    times, of_processor = [], []
    for _ in range(repeats):
        wait(device)
        started, processor = time.perf_counter(), time.process_time()
        task()
        wait(device)
        times.append(1e3 * (time.perf_counter() - started) / samples)
        of_processor.append(1e3 * (time.process_time() - processor) / samples)
    median = statistics.median(times)
    return {
        "ms_per_sample": median,
        "samples_per_s": 1e3 / median,
        "min_ms_per_sample": min(times),
        "cpu_ms_per_sample": statistics.median(of_processor),
    }


def _speed_up(task: Callable[[], None], threads: int, repeats: int) -> float:
    """How many times faster a task is on so many threads than on one: median of pairs of runs, one after the other.

    Other work on the machine slows both of a pair alike, which it does not with runs that are minutes apart.
    """
    ratios = []
    for _ in range(repeats):
        times = []
        for number in (1, threads):
            parallel.set_threads(number)
            started = time.perf_counter()
            task()
            times.append(time.perf_counter() - started)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)


# ---- spikes and the work they make ----------------------------------------------------------------------------------


def _spikes(training: Training) -> tuple[dict[str, float], int]:
    """Mean number of spikes of a sample, by layer, and T. Without `input` if it has currents; none if nothing fires."""
    network = training.network
    arriving, total = dict[str, float](), dict.fromkeys(network.spiking, 0.0)
    for positions, inputs, labels in in_turn(training, EPOCH):
        if not total:
            break
        if not isinstance(inputs, Currents):
            spikes = float(kernels.unpack(inputs, network.inputs).sum())
            arriving["input"] = arriving.get("input", 0.0) + spikes
        step = training.gradients(positions, inputs, labels)
        for name, counts in zip(network.spiking, step.counts, strict=True):
            total[name] += counts.sum().item()
    size = len(training.dataset.train)
    return {name: spikes / size for name, spikes in (arriving | total).items()}, steps_of(inputs)


def _row_additions(
    network: Model, spikes: Mapping[str, float], ms_per_sample: float, threads: int, device: torch.device
) -> dict[str, float | None] | None:
    """How many a sample takes, their rate, and the rate that so many cores reach on rows that are picked at random.

    None for a model without spikes.
    """
    if not isinstance(network, Network):
        return None
    work = []  # additions, and the rows and columns of the matrix that has the weights
    fed = list(network.layers)[0 if "input" in spikes else 1 :]  # by spikes
    for layer, count in zip(fed, spikes.values(), strict=False):
        assert isinstance(layer, Layer)
        if not layer.kind.pool:
            columns = len(layer.weight)
            work.append((2.0 * count * columns * _positions(layer.kind), layer.weight.numel() // columns, columns))
    total = sum(additions for additions, *_ in work)
    rate = total / (1e-3 * ms_per_sample)
    bound = None
    if device.type == "cpu" and total:
        bound = threads * total / sum(additions / row_rate(*shape) for additions, *shape in work)
    return {
        "per_sample": total,
        "rate_gadd_s": rate / 1e9,
        "bound_gadd_s": bound and bound / 1e9,
        "share": bound and rate / bound,
    }


def _positions(kind: LayerKind) -> float:
    """How many positions of a convolution see an input, in the mean; 1 of a dense layer."""
    window = kind.window
    if window is None:
        return 1.0
    seen = window._replace(kernels=1).neurons * window.height * window.width * window.pool**2
    return seen / (window.rows * window.columns)


def row_rate(inputs: int, neurons: int) -> float:
    """Float32 additions a second of one core that adds random rows of a matrix (inputs, neurons) to a vector."""
    from snnrun.kernels import cpu

    rate: float = cpu.row_addition_rate(inputs, neurons)
    return rate
