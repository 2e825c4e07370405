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
    "output": set(),
    "parallel": set(),
    "vector": set(),
    "jit": {"vector"},
    "turns": {"jit"},
    "team": {"jit", "parallel", "turns"},
    "kernels": {"jit", "parallel", "team", "turns", "vector"},
    "rules": {"kernels"},
    "topology": {"kernels", "rules"},
    "network": {"kernels", "rules", "topology"},
    "encoders": {"jit", "team", "turns", "vector"},
    "data": {"arguments", "jit", "parallel", "team", "turns"},
    "data_command": {"app", "arguments", "build", "data", "encoders", "hardware", "parallel", "recordings"},
    "batches": {"data", "encoders"},
    "hardware": {"parallel"},
    "recordings": {"data", "encoders"},
    "optimiser": set(),
    "schedule": set(),
    "tally": set(),
    "evaluation": {"batches", "data", "distributed", "encoders", "kernels", "network"},
    "engine": {
        *("batches", "boosting", "data", "distributed", "encoders", "evaluation", "network", "optimiser", "schedule"),
        "tally",
    },
    "boosting": set(),
    "atomic": set(),
    "checkpoint": {"atomic", "engine"},
    "run_lock": set(),
    "signals": set(),
    "journal": {"atomic"},
    "mlflow_run": {"journal"},
    "memory": {"topology"},
    "resume_command": {"arguments", "experiment", "failures", "resume", "run_folder", "run_lock", "worker"},
    "resume": {
        *("checkpoint", "config_overrides", "engine", "experiment", "journal", "points", "run_folder", "runs"),
        "tracking",
    },
    "runs_import": {"checkpoint", "run_folder", "run_lock", "runs", "tracking"},
    "plots": set(),
    "report": {"arguments", "plots"},
    "provenance": set(),
    "ui": set(),
    "ui_command": {"runs", "runs_command", "runs_compare", "tracking"},
    "tracking": {"journal", "mlflow_run", "provenance", "ui"},
    "sweeps": {"tracking"},
    "build": {"data", "description", "encoders", "network", "plugins", "recordings", "rules", "topology"},
    "firing": {"batches", "data", "encoders", "evaluation", "kernels", "network"},
    "cost": {"firing", "kernels", "network", "rules"},
    "description": set(),
    "trained": {"build", "description", "kernels", "network"},
    "samples": {"build", "data", "description", "encoders"},
    "evaluate": {
        "arguments",
        *("build", "config_overrides", "cost", "firing", "hardware", "kernels", "products", "report"),
        *("run_folder", "trained"),
    },
    "points": {"atomic"},
    "space": set(),
    "study": {"points", "space"},
    "sweep_plot": set(),
    "sweep_table": {"points", "sweep_plot"},
    "failures": {"config_errors"},
    "worker": {"failures", "output", "points", "sweeps", "tracking"},
    "sweeper": {"config", "failures", "hardware", "points", "schemas", "space", "study"},
    "lifecycle": {
        *("arguments", "config", "failures", "launcher", "points", "report", "run_folder", "run_lock", "study"),
        *("sweep_table", "sweeper", "sweeps", "tracking"),
    },
    "predict": {"arguments", "hardware", "kernels", "report", "run_folder", "samples", "trained"},
    "nir_graph": {"description", "kernels", "network", "rules"},
    "nir_check": {"kernels", "network", "nir_graph"},
    "export": {
        "arguments",
        "build",
        "firing",
        "hardware",
        "kernels",
        "network",
        "nir_check",
        "nir_graph",
        "run_folder",
        "trained",
    },
    "products": {
        "atomic",
        "build",
        "cost",
        "data",
        "encoders",
        "engine",
        "evaluation",
        "firing",
        "network",
        "report",
        "tracking",
    },
    "experiment": {
        *("build", "checkpoint", "cost", "data", "distributed", "encoders", "engine", "hardware", "journal"),
        *("kernels", "memory", "network", "output", "parallel", "products", "report", "run_folder"),
        *("run_lock", "tracking"),
    },
    "run_folder": {"atomic", "journal"},
    "options": set(),
    "schemas": set(),
    "config": {"arguments", "hardware", "kernels", "network", "plugins", "rules", "schemas", "topology"},
    "config_errors": {"config", "options", "schemas"},
    "config_overrides": {"arguments", "config", "plugins", "schemas"},
    "app": {
        *("arguments", "config", "config_errors", "distributed", "engine", "experiment", "failures"),
        *("hardware", "lifecycle", "options", "output", "points", "report", "resume", "schemas", "sweeper", "sweeps"),
        *("checkpoint", "run_folder", "tracking", "worker"),
    },
    "phases": {"batches", "engine", "kernels"},
    "measure": {
        *("batches", "build", "data", "engine", "hardware", "kernels", "network", "parallel", "phases"),
        *("provenance", "report", "rules"),
    },
    "bench": {"app", "config", "config_errors", "hardware", "measure", "report"},
    "doctor": {"data", "hardware", "kernels", "provenance", "tracking"},
    "runs": {"journal", "run_folder", "run_lock", "tracking"},
    "significance": set(),
    "runs_filter": {"runs"},
    "runs_compare": {"runs", "runs_filter", "significance"},
    "runs_tables": {"runs", "runs_compare", "runs_filter"},
    "runs_show": {"run_lock", "runs", "runs_compare", "runs_tables"},
    "runs_command": {"arguments", "runs", "runs_compare", "runs_filter", "runs_import", "runs_show", "runs_tables"},
    "published": set(),
    "paper_report": {"published", "runs", "runs_compare", "significance"},
    "paper_figures": {"paper_report", "published"},
    "paper_pages": {"paper_report", "published", "runs"},
    "report_command": {"arguments", "paper_figures", "paper_pages", "paper_report", "runs", "runs_command"},
    "cli": {
        *("app", "arguments", "bench", "completion", "config_command", "data_command", "doctor", "evaluate"),
        *("export", "options", "output", "predict", "report_command", "resume_command", "runs_command", "signals"),
        *("tracking", "ui_command"),
    },
    "arguments": set(),
    "distributed": {"launcher", "signals"},
    "launcher": set(),
    "plugins": {"data", "encoders", "rules", "schemas"},
    "config_command": {"arguments", "options"},
    "completion": {"options", "schemas"},
}
# Heavy or opinionated packages, and the only parts that may import them.
ONLY_IN = {
    "mlflow": {"mlflow_run", "sweeps", "tracking"},
    "hydra": {"app", "bench", "config", "config_errors", "lifecycle", "sweeper"},
    "optuna": {"study"},
    "omegaconf": {
        *("app", "config", "config_errors", "config_overrides", "lifecycle", "plugins", "run_folder"),
        *("schemas", "sweeper"),
    },
    "torch": {
        *(
            "batches",
            "cost",
            "distributed",
            "doctor",
            "engine",
            "evaluation",
            "experiment",
            "export",
            "firing",
            "hardware",
            "launcher",
        ),
        *("kernels", "measure", "memory", "network", "nir_check", "nir_graph", "optimiser", "phases", "products"),
        *("rules", "tally", "trained"),
    },
    "matplotlib": {"paper_figures", "plots", "sweep_plot"},
    "rich": {"data", "data_command", "doctor", "report", "runs_show", "runs_tables"},
    "scipy": {"significance"},
    "sklearn": {"data"},
    "PIL": {"data", "samples"},
    "soundfile": {"data"},
    "h5py": {"data"},
    "librosa": {"encoders"},
    "nir": {"export", "nir_graph"},
    "spikingjelly": {"nir_check"},
    "numba": {"jit", "turns", "vector"},
    "llvmlite": {"turns", "vector"},
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


def strays(path: Path) -> list[str]:
    """What a module imports and may not."""
    part, found = part_of(path), []
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package == "snnrun":
            allowed = rest.partition(".")[0] in MAY_IMPORT[part] | {part, "errors"}
        else:
            allowed = part in ONLY_IN.get(package, {part})
        found += [] if allowed else [f"{path.relative_to(ROOT)} imports {name}"]
    return found


def test_imports_point_one_way():
    assert [stray for path in MODULES for stray in strays(path)] == []


def test_every_part_is_in_the_table():
    assert {part_of(path) for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.launches
def test_the_command_line_imports_nothing_heavy():
    """Completion and --help must not wait for PyTorch."""
    code = "import sys, snnrun.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "mlflow", "hydra", "omegaconf", "numpy", "rich"} & set(result.stdout.split())
