"""The rooms of the house and the direction of imports between them, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import snnrun

ROOT = Path(snnrun.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# The rooms from the door to the cellar, and what each may import of those below it; the last two anybody may.
ROOMS = {
    "cli": {"beside", "collector", "commands", "config", "display", "signals", "tracking"},
    "commands": {
        *("bench", "compiled", "config", "data", "display", "encoders", "kernels", "network", "nir", "paper"),
        *("portable", "record", "reproduce", "run", "runs", "sweep", "tracking", "train", "tune"),
    },
    "plugins": {"config"},  # the names that plugins of users import
    "tune": {"config", "record", "runs", "sweep"},
    "reproduce": {"bench", "config", "data", "paper", "record", "run", "runs", "tracking"},
    "paper": {"runs"},
    "sweep": {"beside", "config", "display", "locks", "record", "run", "tracking", "train"},
    "runs": {"config", "display", "record", "run", "tracking", "train"},
    "bench": {"collector", "compiled", "data", "kernels", "network", "record", "rules", "run", "train"},
    "nir": {"kernels", "network", "record", "rules"},
    "portable": {"ann", "data", "encoders", "kernels", "models", "network", "rules", "run", "train"},
    "run": {
        *("beside", "compiled", "config", "data", "display", "encoders", "kernels", "liquid", "models", "network"),
        *("record", "rules", "tracking", "train"),
    },
    "config": {"data", "encoders", "kernels", "models", "network", "record", "rules", "train"},
    "models": {"ann", "liquid", "network"},
    "ann": {"kernels", "network"},
    "liquid": {"kernels", "network", "rules"},
    "train": {"compiled", "data", "encoders", "kernels", "network", "rules", "signals"},
    "tracking": {"beside", "locks", "record"},
    "network": {"kernels", "rules"},
    "rules": {"kernels"},
    "data": {"compiled", "display", "locks"},
    "encoders": {"compiled"},
    "kernels": {"compiled"},
    "compiled": {"locks"},
    "record": {"locks"},
    "beside": {"collector", "signals"},
    "collector": set(),
    "display": set(),
    "locks": set(),
    "signals": set(),
    "declared": set(),
    "errors": set(),
    "metric_names": set(),
}
# Heavy or opinionated packages, and the only rooms that may import them.
ONLY_IN = {
    "mlflow": {"tracking"},
    "hydra": {"commands", "config", "sweep"},
    "optuna": {"sweep"},
    "omegaconf": {"commands", "config", "record", "sweep"},
    "torch": {"ann", "bench", "commands", "kernels", "liquid", "network", "nir", "portable", "rules", "run", "train"},
    "matplotlib": {"display", "paper", "sweep"},
    "rich": {"commands", "data", "display", "runs"},
    "scipy": {"data", "runs"},
    "sklearn": {"data"},
    "PIL": {"data"},
    "soundfile": {"data"},
    "h5py": {"data"},
    "tonic": {"data"},
    "torchvision": {"data"},
    "librosa": {"encoders"},
    "nir": {"commands", "nir"},
    "spikingjelly": {"nir"},
    "onnx": {"portable"},
    "onnxruntime": {"portable"},
    "numba": {"compiled"},
    "llvmlite": {"compiled"},
    "triton": {"kernels"},
    "fcntl": {"locks"},
}


def room_of(path: Path) -> str:
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
    room, found = room_of(path), []
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package == "snnrun":
            allowed = rest.partition(".")[0] in ROOMS[room] | {room, "declared", "errors", "metric_names"}
        else:
            allowed = room in ONLY_IN.get(package, {room})
        found += [] if allowed else [f"{path.relative_to(ROOT)} imports {name}"]
    return found


DOORS = {"__init__", "__main__"}


def test_imports_point_one_way():
    inside = [path for path in MODULES if room_of(path) not in DOORS]
    assert [stray for path in inside for stray in strays(path)] == []


def test_every_room_is_in_the_table_and_imports_from_those_below_it():
    assert {room_of(path) for path in MODULES} == {*ROOMS, *DOORS}
    above = []
    for room, below in ROOMS.items():
        assert not below & {room, *above}, room
        above.append(room)


def test_no_rule_imports_its_sibling():
    """`authors` alone builds on a rule, on the one whose paper it departs from."""
    rules = {"authors": {"strsbp"}, "strsbp": set(), "hm2bp": set(), "stbp": set(), "slayer": set(), "lee": set()}
    for rule, below in rules.items():
        found = {name.split(".")[2] for name in imported(ROOT / "rules" / f"{rule}.py") if "snnrun.rules." in name}
        assert found & {*rules} == below, rule


@pytest.mark.launches
def test_the_command_line_imports_nothing_heavy():
    """Completion and --help must not wait for PyTorch."""
    code = "import sys, snnrun.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "mlflow", "hydra", "omegaconf", "numpy", "rich"} & set(result.stdout.split())
