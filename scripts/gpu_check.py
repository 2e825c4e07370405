#!/usr/bin/env python3
"""Checks snnrun's kernels on a GPU and measures them, beside SpikingJelly's: one file of results to send.

    scripts/gpu_check                          # sets everything up first
    python scripts/gpu_check.py --minutes 8    # in an environment that has snnrun, Triton and, if wanted, SpikingJelly

First comes `snnrun doctor --kernels`: every kernel against the reference. Then `snnrun bench` of each workload, on the
GPU and on all cores of the processor. Then SpikingJelly's LIFNode over whole sequences, with each of its backends that
works here, on the feed-forward network of the `fashion` workload at T = 400, and snnrun on the same. Workloads without
their corpus are left out. Each result is in the file as soon as it is known: one that is cut short says what it has.
`scripts/performance.py --gpu FILE` puts it into docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WORKLOADS = ("fashion", "alpha", "alpha3", "mnist", "cnn", "stbp_cnn")
PLACES = ("gpu", "cpu")
BATCH = 128
NETWORK, STEPS, RATE = (784, 400, 400, 10), 400, 0.05  # as scripts/peers.py has them for `fashion`, without recurrence
BACKENDS = ("torch", "cupy", "triton", "inductor")
REPEATS = 5
Result = dict[str, Any]


class Report:
    """The file of results, and the time that is left."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.end, self.found = path, time.monotonic() + 60 * minutes, Result()

    def add(self, name: str, value: Any) -> None:
        self.found[name] = value
        self.path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def run(self, name: str, arguments: list[str], keep: str) -> None:
        """Run Python with these arguments, and add what it prints, or why it failed."""
        left = self.end - time.monotonic()
        if left < 5:
            print(f"{name}: left out, the time is up", flush=True)
            self.add(name, {"error": "the time was up"})
            return
        print(f"{name}: {' '.join(['python', *arguments])}", flush=True)
        try:
            done = subprocess.run(
                [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=left
            )
        except subprocess.TimeoutExpired:
            self.add(name, {"error": "the time was up"})
            return
        if done.returncode and keep == "json":
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            said = next((line for line in lines if line.startswith("snnrun: ")), lines[-1] if lines else "no message")
            print(f"  {said}", flush=True)
            self.add(name, {"error": said})
        elif keep == "json":
            self.add(name, json.loads(done.stdout[done.stdout.index("{") :]))
        else:
            print(done.stdout, end="", flush=True)
            self.add(name, {"code": done.returncode, "output": done.stdout + done.stderr})


def machine() -> Result:
    """The GPU and the packages. Ends the script where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        sys.exit(f"gpu_check: PyTorch {torch.__version__} sees no CUDA device here. `snnrun doctor` says more.")
    properties = torch.cuda.get_device_properties(0)
    packages = {}
    for name in ("snnrun", "torch", "triton", "numba", "spikingjelly", "cupy-cuda12x"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "gpu": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "packages": packages,
    }


def spikingjelly(backend: str, batch: int) -> Result:
    """ms a sample of SpikingJelly's LIFNode with this backend, medians: training step and inference."""
    import torch
    from spikingjelly.activation_based import neuron, surrogate  # type: ignore[import-not-found, unused-ignore]
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(NETWORK):
        lif = neuron.LIFNode(
            tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m", backend=backend
        )
        layers += [nn.Linear(inputs, outputs, bias=False), lif]
    network = nn.Sequential(*layers).cuda()
    spikes = (torch.rand(STEPS, batch, NETWORK[0], device="cuda") < RATE).float()
    labels = torch.randint(NETWORK[-1], (batch,), device="cuda")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-7)

    def forward() -> Any:
        for layer in layers[1::2]:
            layer.reset()
        return network(spikes).sum(0)

    def train() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(forward(), labels).backward()
        optimizer.step()

    def timed(call: Any) -> float:
        seconds = []
        for _ in range(REPEATS + 2):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return 1000 * statistics.median(seconds[2:]) / batch

    training = timed(train)
    with torch.inference_mode():
        inference = timed(forward)
    return {"training": training, "inference": inference, "peak_mib": torch.cuda.max_memory_allocated() / 2**20}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="the file of results")
    parser.add_argument("--minutes", type=float, default=30.0, help="what has not begun by then is left out")
    parser.add_argument("--batch", type=int, default=BATCH, help="samples of a batch on the GPU")
    parser.add_argument("--worker", choices=BACKENDS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(spikingjelly(options.worker, options.batch)))
        return 0
    report = Report(options.out, options.minutes)
    report.add("machine", machine())
    report.add("batch", options.batch)
    print(json.dumps(report.found["machine"], indent=1), flush=True)
    report.run("doctor", ["-m", "snnrun", "doctor", "--kernels"], "text")
    bench = ["-m", "snnrun", "bench"]
    sizes = ["--batch", str(options.batch), "--json"]
    for workload in WORKLOADS:
        for place in PLACES:
            report.run(f"{workload}_{place}", [*bench, workload, f"hardware={place}", *sizes], "json")
    plain = "-".join(map(str, NETWORK[1:-1]))
    report.run("feed_forward_gpu", [*bench, "fashion", "hardware=gpu", f"model.network={plain}", *sizes], "json")
    if importlib.util.find_spec("spikingjelly") is None:
        report.add("spikingjelly", {"error": "not installed (pip install '.[peers]')"})
    else:
        for backend in BACKENDS:
            worker = [__file__, "--worker", backend, "--batch", str(options.batch)]
            report.run(f"spikingjelly_{backend}", worker, "json")
    print(f"{options.out} is written: please send it with an issue.")
    return int(report.found["doctor"].get("code", 1) != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
