"""`snnrun bench`: `bench.measure` measures a workload, which is a list of overrides of the config."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnrun.commands.flags import add_number
from snnrun.config import compose as config
from snnrun.errors import UsageError, did_you_mean

DEFAULT = "fashion"


class Workload(NamedTuple):
    """What it is, the overrides that make it, and the settings of its own model; another model takes its pair's."""

    about: str
    words: list[str]
    settings: list[str]


# Their settings do not come from tuned files, so that a tuning changes no workload.
WORKLOADS = {
    "fashion": Workload(
        "ST-RSBP on Fashion-MNIST, 784-400-R400-10, 400 steps",
        ["data=fashion_mnist", "model=strsbp", "model.network=400-R400", "encoder.steps=400"],
        ["model.v_th=[20,20,15]", "model.tau_m=64", "train.batch_size=32", "train.lr=0.006"],
    ),
    "alpha": Workload(
        "ST-RSBP on synthetic utterances as dense as TI46-Alpha's, 78-R800-26, 700 steps",
        ["data=utterances", "model=strsbp", "model.network=R800"],
        ["model.v_th=[8]", "model.tau_m=128", "train.batch_size=16", "train.lr=0.01"],
    ),
    "alpha3": Workload(
        "the same with the paper's 78-400-R400-400-26",
        ["data=utterances", "model=strsbp", "model.network=400-R400-400", "model.v_th=[10,8,8,8]"],
        ["model.tau_m=128", "train.batch_size=16", "train.lr=0.01"],
    ),
    "mnist": Workload(
        "STBP on MNIST, 784-400-10, 20 steps",
        ["data=mnist", "model=stbp", "model.network=400", "encoder.steps=20"],
        ["model.v_th=[0.5]", "train.batch_size=100", "train.lr=0.001"],
    ),
    "cnn": Workload(
        "ST-RSBP on MNIST, the papers' CNN 15C5-P2-40C5-P2-300, 400 steps",
        [
            *("data=mnist", "model=strsbp", "model.network=15C5-P2-40C5-P2-300", "model.v_th=[5,2,10,4,10,5]"),
            *("encoder.steps=400", "train.lr=0.001"),
        ],
        ["model.tau_m=64", "train.batch_size=16"],
    ),
    "stbp_cnn": Workload(
        "STBP on MNIST, 15C5-P2-40C5-P2-300 with averages as pools, 20 steps",
        [
            *("data=mnist", "model=stbp", "model.network=15C5-P2-40C5-P2-300", "encoder.steps=20"),
            *("train.batch_size=20", "train.lr=0.002"),
        ],
        ["model.v_th=[0.5]"],
    ),
}
EPILOG = """\
workloads (the first is the default):
{}

An override changes any key or group of `snnrun train`: model=hm2bp, model.network=R200, encoder.steps=100.
The network trains on --warm-up samples first, so that it fires as a trained one does."""


def main(arguments: list[str]) -> int:
    """Run `snnrun bench` with these arguments; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    words = list(options.words)
    workload = DEFAULT if not words or "=" in words[0] or words[0].startswith("~") else words.pop(0)
    values = compose(workload, words + ([f"train.batch_size={options.batch}"] if options.batch is not None else []))
    from snnrun.bench import measure
    from snnrun.display import bench_tables
    from snnrun.train import hardware

    result = measure.run(
        values,
        threads=_threads(options.threads or values["hardware"]["threads"], hardware.cores()),
        repeats=options.repeats,
        warm_up=options.warm_up,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    result = {"workload": workload, "command": shlex.join(["snnrun", "bench", *arguments]), **result}
    if options.json:
        print(json.dumps(result))
    else:
        bench_tables.show(result)
    return 0


def batch(workload: str, size: int, overrides: Sequence[str] = ()) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Dense input spikes (size, T, N) uint8 and labels (size,) int64 that a workload is measured with."""
    from snnrun.bench import measure

    return measure.batch(compose(workload, overrides), size)


def compose(workload: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The plain config of a workload; later overrides win.

    Raises:
        UsageError: there is no such workload, or an override is wrong.
    """
    if workload not in WORKLOADS:
        raise UsageError(
            f"{workload}: no such workload. Allowed: {', '.join(WORKLOADS)}.{did_you_mean(workload, WORKLOADS)}"
        )
    made = WORKLOADS[workload]
    others = any(word.startswith(("model=", "data=", "tuned=")) for word in overrides)
    own = [] if others else ["tuned=none", *made.settings]
    return config.compose([*made.words, *own, *overrides])


def _parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<8} {about}" for name, (about, *_) in WORKLOADS.items())
    parser = argparse.ArgumentParser(
        "snnrun bench",
        usage="snnrun bench [WORKLOAD] [override ...] [options]",
        description="Measure what training and inference cost: time, memory, phases, spikes.",
        epilog=EPILOG.format(listing),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="WORKLOAD, override", help="see below")
    add_number(parser, "--threads", help="default: once 1, once all cores")
    add_number(parser, "--batch", metavar="B", help="samples to a batch (default: the tuned size)")
    add_number(parser, "--repeats", metavar="R", default=5, help="default: %(default)s")
    add_number(
        parser, "--warm-up", least=0, metavar="SAMPLES", default=4000, help="to train on first (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def _threads(wanted: int | None, cores: int) -> list[int]:
    if wanted is None:
        return sorted({1, cores})
    if wanted > cores:
        raise UsageError(f"--threads: {wanted} is more than the {cores} cores that this process may use.")
    return [wanted]
