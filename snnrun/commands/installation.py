"""What `snnrun doctor` finds out about this installation: devices, kernels, disk, store, corpora."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from snnrun import kernels, tracking
from snnrun.data import catalogue, data_root
from snnrun.errors import UsageError
from snnrun.kernels import checks
from snnrun.record import provenance
from snnrun.train import hardware

PACKAGES = ("torch", "numba", "triton", "hydra-core", "mlflow")
SCARCE_GIB = 1.0  # with less free disk than this, a problem is reported
DEVICES = {"reference": ("cpu", "cuda"), "cpu": ("cpu",), "gpu": ("cuda",)}


def examine(
    root: str | None, outputs: Path, uri: str | None, *, as_json: bool = False, console: Console | None = None
) -> bool:
    """Print what is here. Returns False if something would make a run fail.

    Args:
        root: Folder of the corpora, as `data.root`.
        outputs: Folder that runs write to, as `outputs`.
        uri: The store, as `tracking.uri`.
        as_json: As JSON instead of a table.
        console: Where the table goes.
    """
    facts = {
        "versions": {"snnrun": version("snnrun"), "Python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES},
        "processor": {"name": provenance.processor(), "cores": hardware.cores()},
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "kernels": {device: _backends(device) for device in _devices()},
        "disk": _disk(outputs),
        "store": tracking.reach(outputs, uri),
        "data": {"root": str(data_root(root).absolute()), "corpora": catalogue.survey(data_root(root))},
    }
    facts["problems"] = problems = _problems(facts)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _describe(facts, console or Console())
    return not problems


def _problems(facts: Mapping[str, Any]) -> list[str]:
    disk, store = facts["disk"], facts["store"]
    found = [] if disk["writable"] else [f"{disk['folder']} cannot be written to: give runs another outputs=FOLDER"]
    if disk["free_gib"] < SCARCE_GIB:
        found.append(f"{disk['folder']} has {disk['free_gib']:.1f} GiB left: a run that fills the disk loses files")
    if not store["reachable"]:
        found.append(
            f"the store {store['uri']} cannot be used ({store['message']}): see tracking.uri, or tracking=none"
        )
    damaged = [entry["name"] for entry in facts["data"]["corpora"] if entry["state"] == "damaged"]
    return found + [f"data={name} is damaged: see snnrun data verify {name}" for name in damaged]


def _describe(facts: Mapping[str, Any], console: Console) -> None:
    table = Table(box=None, show_header=False)
    corpora, disk, store = facts["data"]["corpora"], facts["disk"], facts["store"]
    states = {
        state: ", ".join(entry["name"] for entry in corpora if entry["state"] == state)
        for state in ("at hand", "found", "damaged", "missing")
    }
    rows = [
        *facts["versions"].items(),
        ("processor", f"{facts['processor']['name']}, {facts['processor']['cores']} cores"),
        ("GPU", ", ".join(facts["gpus"]) or "none that PyTorch can use"),
        *((f"kernels on {device}", ", ".join(names)) for device, names in facts["kernels"].items()),
        ("runs go to", f"{disk['folder']}, {disk['free_gib']:.0f} GiB free"),
        ("MLflow store", f"{store['uri']}: {store['message']}"),
        ("corpora in", facts["data"]["root"]),
        *((f"  {state}", names) for state, names in states.items() if names),
    ]
    for name, value in rows:
        table.add_row(name, Text(str(value), overflow="fold"))
    console.print(table)
    for problem in facts["problems"]:
        console.print(Text.assemble(("problem: ", "bold red"), problem), soft_wrap=True)


def _disk(outputs: Path) -> dict[str, Any]:
    """The disk of the folder of all outputs. If that folder does not exist: of the nearest folder above it."""
    folder = outputs.absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free / 2**30
    return {"folder": str(folder), "writable": there.is_dir() and os.access(there, os.W_OK), "free_gib": round(free, 2)}


def check_kernels(console: Console | None = None) -> bool:
    """Compare every backend on every device of this machine with the reference. Returns whether all agree."""
    console = console or Console()
    passed = True
    for device in _devices():
        for name in _backends(device):
            kernels.use(name, device)
            table = Table(
                Column("kernel", no_wrap=True), "agrees", "largest error", "spikes apart", "near threshold", box=None
            )
            with console.status(f"checking the {name} kernels on {device}"):
                results = checks.run_checks(kernels.active(), device)
            for result in results:
                verdict = "[green]yes[/]" if result.passed else "[red]no[/]"
                counts = (str(result.differing), str(result.near))
                table.add_row(result.name, verdict, f"{result.error:.1e}", *counts)
            table.title = f"{name} kernels on {device}, against the reference in float64"
            console.print(table)
            for result in results:
                if result.note:
                    console.print(f"{result.name}: {result.note}", markup=False)
            passed = passed and all(result.passed for result in results)
    kernels.use("reference")
    console.print(
        "Errors are shares of the largest entry, at most 1e-5. Spikes may be apart only where the reference's own "
        "membrane stands within 1e-4 mV of the threshold."
    )
    return passed


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _backends(device: str) -> list[str]:
    """The backends that work on a device here."""
    found = []
    for name in kernels.NAMES:
        if device in DEVICES[name]:
            try:
                kernels.use(name, device)
            except UsageError:
                continue
            found.append(name)
    kernels.use("reference")
    return found
