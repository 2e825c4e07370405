"""`snnrun doctor`: what this installation can run on, and whether its kernels compute what the reference does."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Column, Table

from snnrun import hardware, kernels, provenance
from snnrun.errors import UsageError
from snnrun.kernels import checks

PACKAGES = ("torch", "numba", "triton", "hydra-core", "mlflow")
DEVICES = {"reference": ("cpu", "cuda"), "cpu": ("cpu",), "gpu": ("cuda",)}


def describe(console: Console | None = None) -> None:
    """Print versions, devices and the backends of the kernels."""
    table = Table(box=None, show_header=False)
    rows = [
        ("snnrun", version("snnrun")),
        ("Python", platform.python_version()),
        *((name, _version(name)) for name in PACKAGES),
        ("processor", f"{provenance.processor()}, {hardware.cores()} cores"),
        ("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none that PyTorch can use"),
        *((f"kernels on {device}", ", ".join(_backends(device))) for device in _devices()),
    ]
    for row in rows:
        table.add_row(*row)
    (console or Console()).print(table)


def check_kernels(console: Console | None = None) -> bool:
    """Check every backend on every device that is there against the reference; returns whether all agree."""
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
