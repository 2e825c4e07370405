#!/usr/bin/env python3
"""How many images and series a second become spikes or currents, and how much faster than real time recordings do.

    .venv/bin/python scripts/encoding_speed.py                              # FSDD below SNNRUN_DATA, else data/
    .venv/bin/python scripts/encoding_speed.py --root TI46/ti_alpha --limit 500
    .venv/bin/python scripts/encoding_speed.py --only samples               # no recordings

Of images and series of random values it prints samples per second for each encoder, in batches of 64, which the threads
share. Of recordings it prints seconds of sound per second for resampling, Lyon's ear and Ben's Spiker Algorithm, and
for the encoders as a whole. On one thread and on all cores: medians of repeats, and the best, which shows how busy the
machine was. Reading the files is not in them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from snnrun.compiled import parallel
from snnrun.encoders import ENCODERS, build
from snnrun.encoders.bsa import bsa_encode
from snnrun.encoders.lyon import passive_ear
from snnrun.encoders.lyon_bsa import LyonBsa
from snnrun.encoders.mel import Mel
from snnrun.record.provenance import processor
from snnrun.train.hardware import cores


def options() -> argparse.Namespace:
    about, _, examples = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fsdd = Path(os.environ.get("SNNRUN_DATA") or "data") / "fsdd"
    parser.add_argument("--root", type=Path, default=fsdd, help="folder of .wav files, searched in depth (%(default)s)")
    parser.add_argument("--limit", type=int, default=600, help="so many files, evenly taken (%(default)s)")
    parser.add_argument("--only", choices=("samples", "recordings"), help="one of the two tables")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each figure (%(default)s)")
    return parser.parse_args()


def seconds(task: Callable[[int], Any], count: int, repeats: int) -> list[float]:
    """Time of the task for all items, in each repeat; a first pass, which compiles, is not in them."""
    task(0)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        parallel.each(count, task)
        times.append(time.perf_counter() - started)
    return times


IMAGES, SERIES, BATCH = (640, 784), (640, 100, 32), 64


def of_samples(repeats: int) -> Table:
    """Samples per second of the encoders of images and series."""
    rng = np.random.default_rng(0)
    images = np.where(rng.random(IMAGES) < 0.5, 0, rng.integers(0, 256, IMAGES)).astype(np.uint8)  # half of it black
    series = rng.random(SERIES, np.float32)
    title = f"images of {IMAGES[1]} pixels, series of {SERIES[1]} points of {SERIES[2]} channels"
    table = Table("encoder", "of", "steps", "threads", "samples a second", "best", title=title)
    for column in table.columns[2:]:
        column.justify = "right"
    index = np.arange(len(images))
    for threads, (name, cls) in itertools.product(sorted({1, cores()}), ENCODERS.items()):
        kinds = getattr(cls, "kinds", ())
        for kind, samples in (("image", images), ("series", series)):
            if kind not in kinds or name in ("none", "auto"):
                continue
            encoder: Any = build(name, seed=0, **({"steps": 400} if name != "bernoulli" else {"steps": 100}))

            def task(k: int, encoder: Any = encoder, samples: Any = samples) -> None:
                encoder.encode(samples[k : k + BATCH], index[k : k + BATCH], 1)

            parallel.set_threads(threads)
            task(0)
            times = []
            for _ in range(repeats):
                started = time.perf_counter()
                for k in range(0, len(samples), BATCH):
                    task(k)
                times.append(time.perf_counter() - started)
            each = [len(samples) / seconds for seconds in (statistics.median(times), min(times))]
            table.add_row(name, kind, str(encoder.steps), str(threads), *(f"{rate:,.0f}" for rate in each))
    return table


def main() -> None:
    chosen, console = options(), Console()
    if chosen.only != "recordings":
        console.print(of_samples(chosen.repeats))
    if chosen.only != "samples":
        console.print(of_recordings(chosen))
    console.print(
        f"{processor()}, {cores()} cores, load {os.getloadavg()[0]:.1f}; "
        f"numba {version('numba')}, numpy {version('numpy')}; medians of {chosen.repeats}",
        highlight=False,
    )


def of_recordings(chosen: argparse.Namespace) -> Table:
    """Seconds of sound per second of the parts of the encoders of recordings."""
    files = sorted(chosen.root.rglob("*.wav"))
    if not files or chosen.limit < 1 or chosen.repeats < 1:
        sys.exit(
            f"{len(files)} .wav files in {chosen.root}: name a folder of recordings by --root or SNNRUN_DATA, with "
            "--limit and --repeats from 1 up"
        )
    files = files[:: -(-len(files) // chosen.limit)]
    recordings = [soundfile.read(file, dtype="float64") for file in files]
    encoder, mel = LyonBsa(), Mel()
    waves = [encoder.resampled(wave, rate) for wave, rate in recordings]
    rates = [passive_ear(wave, encoder.sample_rate) for wave in waves]
    sound = sum(map(len, waves)) / encoder.sample_rate
    parts: dict[str, Callable[[int], Any]] = {
        "resampling": lambda k: encoder.resampled(*recordings[k]),
        "Lyon ear": lambda k: passive_ear(waves[k], encoder.sample_rate),
        "BSA": lambda k: bsa_encode(rates[k], encoder.steps),
        "ear + BSA": lambda k: encoder.encode_recording(waves[k], encoder.sample_rate),
        "all": lambda k: encoder.encode_recording(*recordings[k]),
        "mel": lambda k: mel.encode_recording(*recordings[k]),
    }
    table = Table(
        "part", "threads", "times real time", "best", title=f"{len(files)} recordings, {sound:.0f} s of sound"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for threads in sorted({1, cores()}):
        parallel.set_threads(threads)
        for name, task in parts.items():
            times = seconds(task, len(files), chosen.repeats)
            table.add_row(name, str(threads), f"{sound / statistics.median(times):.0f}", f"{sound / min(times):.0f}")
    return table


if __name__ == "__main__":
    main()
