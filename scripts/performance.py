#!/usr/bin/env python3
"""Makes docs/performance.md and its figure from `snnrun bench`: the workloads, the scaling sweeps, other libraries.

    pip install '.[peers]'                             # the other libraries; without them their table is left out
    python scripts/performance.py                      # everything: half an hour on two cores, most of it the others'
    python scripts/performance.py --only fashion,steps # some measurements anew, the others as they were
    python scripts/performance.py --gpu gpu_check.json # with what scripts/gpu_check found on a machine with a GPU

Each measurement is kept in outputs/performance/NAME.json; one that is there is not repeated unless --only names it or
--fresh asks for all. Overrides such as hardware.kernels=reference go to every measurement.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import performance_page as page
from performance_page import SWEEPS, Result

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "outputs" / "performance"
PEERS = ("snntorch", "spikingjelly", "norse")
PAGE = ROOT / "docs" / "performance.md"
FIGURE = ROOT / "docs" / "performance.svg"
WORKLOADS = ("fashion", "alpha", "alpha3", "mnist", "cnn", "stbp_cnn")
BATCHES = {8: "batch_8", 32: "fashion", 128: "batch_128", 256: "batch_256"}  # by size, the measurement that has it


def measurements() -> dict[str, list[str]]:
    """Arguments of `snnrun bench` by the name of each measurement."""
    runs = {name: [name] for name in WORKLOADS}
    runs |= {name: ["fashion", "--batch", str(size)] for size, name in BATCHES.items() if name not in runs}
    for name, sweep in SWEEPS.items():
        for point, overrides in sweep.points.items():
            # Initial weights fire at the same rates whatever the number of steps; trained ones would not.
            options = ["--threads", "1", "--warm-up", "0", "--repeats", "3"]
            runs[f"{name}_{point}"] = ["fashion", *overrides, *options]
    return runs


def measured(name: str, arguments: list[str], extra: list[str], fresh: bool) -> Result:
    kept = KEPT / f"{name}.json"
    command = ["snnrun", "bench", *arguments, *extra, "--json"]
    if not fresh and kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    print(" ".join(command), flush=True)
    done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(done.stdout, encoding="utf-8")
    return json.loads(done.stdout)


def compared(fresh: bool) -> Result | None:
    """What scripts/bench_peers.py finds; None where no other library is installed."""
    kept = KEPT / "peers.json"
    if fresh or not kept.exists():
        if not any(importlib.util.find_spec(peer) for peer in PEERS):
            print("no other library is installed (pip install '.[peers]'): their table is left out", flush=True)
            return None
        kept.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(ROOT / "scripts" / "bench_peers.py"), "--json", str(kept)]
        print(" ".join(["python", "scripts/bench_peers.py"]), flush=True)
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)
    found: Result = json.loads(kept.read_text(encoding="utf-8"))
    return found


def main(arguments: list[str]) -> None:
    runs = measurements()
    groups = [*WORKLOADS, "batch", *SWEEPS, "peers"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="for every measurement, such as hardware.kernels=reference")
    parser.add_argument("--only", default="", metavar="NAME,...", help=f"of {', '.join(groups)}")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    parser.add_argument("--gpu", type=Path, metavar="FILE", help="show what scripts/gpu_check found, from now on")
    options = parser.parse_intermixed_args(arguments)
    only = options.only.split(",") if options.only else []
    for name in only:
        if name not in groups:
            parser.error(f"--only: {name} is none of {', '.join(groups)}")
    results = {}
    for name, run in runs.items():
        wanted = name in only or name.partition("_")[0] in only
        if wanted or not only or (KEPT / f"{name}.json").exists():
            results[name] = measured(name, run, options.overrides, fresh=wanted or options.fresh)
    if not results:
        parser.error("--only peers: nothing else is measured yet that the page could show; measure a workload first")
    workloads = {name: results[name] for name in WORKLOADS if name in results}
    sweeps = {
        name: [results[f"{name}_{point}"] for point in sweep.points]
        for name, sweep in SWEEPS.items()
        if all(f"{name}_{point}" in results for point in sweep.points)
    }
    peers = None
    if "peers" in only or not only or (KEPT / "peers.json").exists():
        peers = compared(fresh="peers" in only or options.fresh)
    lines = page.introduction(next(iter(results.values())))
    if workloads:
        lines += page.workload_section(workloads)
    if all(name in results for name in BATCHES.values()):
        lines += page.batch_section([results[name] for name in BATCHES.values()])
    if sweeps:
        page.draw(sweeps, FIGURE)
        lines += page.scaling_section(sweeps, FIGURE)
    if peers:
        lines += page.peers_section(peers)
    if options.gpu:
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / "gpu.json").write_text(options.gpu.read_text(encoding="utf-8"), encoding="utf-8")
    if (KEPT / "gpu.json").exists():
        lines += ["", *page.gpu_section(json.loads((KEPT / "gpu.json").read_text(encoding="utf-8")))]
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"{PAGE} is written")


if __name__ == "__main__":
    main(sys.argv[1:])
