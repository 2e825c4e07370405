"""The house's direction of imports, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import snnrun

ROOT = Path(snnrun.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# What each part may import of the package, beside `errors` and its own modules. Arrows point one way:
# cli > app > experiment > engine > (network, data, encoders) > rules > kernels, with tracking and report on their own.
MAY_IMPORT = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "parallel": set(),
    "vector": set(),
    "jit": {"vector"},
    "kernels": {"jit", "parallel", "vector"},
    "rules": {"kernels"},
    "network": {"kernels", "rules"},
    "encoders": {"jit", "parallel", "vector"},
    "arguments": set(),
    "data": {"arguments", "parallel"},
    "data_command": {"app", "build", "data", "hardware", "parallel"},
    "batches": {"data", "encoders"},
    "hardware": {"parallel"},
    "recordings": {"data", "encoders"},
    "distributed": set(),
    "engine": {"batches", "data", "distributed", "encoders", "kernels", "network"},
    "plots": set(),
    "report": {"arguments", "plots"},
    "provenance": set(),
    "ui": set(),
    "tracking": {"provenance", "ui"},
    "sweeps": {"tracking"},
    "plugins": {"data", "encoders", "rules", "schemas"},
    "build": {"data", "encoders", "network", "plugins", "recordings", "rules"},
    "products": {"data", "encoders", "engine", "network", "report", "tracking"},
    "experiment": {
        *("build", "data", "distributed", "encoders", "engine", "hardware", "kernels", "network", "parallel"),
        *("products", "report", "tracking"),
    },
    "run_folder": set(),
    "options": set(),
    "schemas": set(),
    "config": {"hardware", "kernels", "network", "plugins", "schemas"},
    "config_errors": {"config", "options", "schemas"},
    "app": {
        "arguments",
        "config",
        "config_errors",
        "distributed",
        "experiment",
        "options",
        "report",
        "schemas",
        "sweeps",
        "tracking",
    },
    "phases": {"batches", "engine", "kernels"},
    "measure": {
        *("batches", "build", "data", "engine", "hardware", "kernels", "network", "phases", "provenance"),
        "report",
    },
    "bench": {"app", "config", "config_errors", "hardware", "measure", "report"},
    "doctor": {"data", "hardware", "kernels", "provenance", "tracking"},
    "config_command": {"options"},
    "completion": {"options", "schemas"},
    "cli": {"app", "arguments", "bench", "completion", "config_command", "data_command", "doctor", "tracking"},
}
# Heavy or opinionated packages, and the only parts that may import them.
ONLY_IN = {
    "hydra": {"app", "bench", "config", "config_errors"},
    "omegaconf": {"app", "config", "config_errors", "plugins", "run_folder", "schemas"},
    "mlflow": {"tracking", "sweeps"},
    "torch": {
        *("kernels", "rules", "network", "hardware", "batches", "engine", "experiment", "products", "distributed"),
        *("phases", "measure", "doctor"),
    },
    "matplotlib": {"plots"},
    "rich": {"report", "data", "data_command", "doctor"},
    "sklearn": {"data"},
    "soundfile": {"data"},
    "h5py": {"data"},
    "librosa": {"encoders"},
    "numba": {"jit", "vector"},
    "llvmlite": {"vector"},
    "triton": {"kernels"},
}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of all that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = part_of(path)
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package == "snnrun":
            target = rest.partition(".")[0]
            assert target in MAY_IMPORT[part] | {part, "errors"}, f"{path.name} imports {name}"
        elif package in ONLY_IN:
            assert part in ONLY_IN[package], f"{path.name} imports {name}"


def test_every_part_is_in_the_table():
    assert {part_of(path) for path in MODULES} == set(MAY_IMPORT)


def test_the_command_line_imports_nothing_heavy():
    """Completion and --help must not wait for PyTorch."""
    code = "import sys, snnrun.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "mlflow", "hydra", "omegaconf", "numpy", "rich"} & set(result.stdout.split())
