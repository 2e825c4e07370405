"""What reaches a user: the wheel's contents, the repository's files, the pinned versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_the_wheel_has_every_package():
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "snnrun").rglob("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"snnrun.conf"}


def test_the_configs_ship_as_a_package():
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"snnrun.conf": "conf"}
    assert PROJECT["tool"]["setuptools"]["package-data"]["snnrun.conf"] == ["**/*.yaml"]
    files = [path for path in (ROOT / "conf").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in files} == {".yaml", ".py"}
    assert (resources.files("snnrun.conf") / "train.yaml").is_file()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist, and of the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "outputs", "build", "*.egg-info")
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "source")]
    result = subprocess.run(build, capture_output=True, text=True)
    if result.returncode and "setuptools" in result.stdout + result.stderr:
        pytest.skip("no setuptools that can build this")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.launches
def test_a_registry_takes_sdist_and_wheel(built: Path) -> None:
    files = [str(file) for file in built.iterdir() if file.is_file()]
    assert {Path(file).suffix for file in files} == {".gz", ".whl"}
    twine = [sys.executable, "-m", "twine", "check", "--strict", *files]
    answer = subprocess.run(twine, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.launches
def test_the_wheel_runs_from_an_empty_folder(built, tmp_path):
    target, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    [file] = built.glob("*.whl")
    zipfile.ZipFile(file).extractall(target)  # as pip does with a wheel of pure Python
    run = [
        "-m",
        "snnrun",
        "train",
        "data.limit=16",
        "train.epochs=1",
        "encoder.steps=8",
        "model.network=5",
        "hardware.kernels=reference",
        "tracking=none",
    ]
    environment = os.environ | {"PYTHONPATH": str(target)}
    answer = subprocess.run([sys.executable, *run], cwd=empty, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    where = [sys.executable, "-c", "import snnrun, snnrun.conf; print(snnrun.__file__, snnrun.conf.__path__)"]
    answer = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.count(str(target)) == 2


def test_no_file_of_the_project_is_ignored_by_git():
    """A clone would lack it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = [path for folder in ("snnrun", "conf", "tests", "scripts", "docs") for path in (ROOT / folder).rglob("*")]
    names = [str(path) for path in files if path.is_file() and "__pycache__" not in path.parts]
    result = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == ""


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert newest[1] == version


def test_every_dependency_is_pinned():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    for requirement in PROJECT["project"]["dependencies"] + EXTRAS["dev"] + EXTRAS["docs"]:
        name = re.match(r"[\w-]+", requirement)[0].lower()
        assert name in pinned, f"{name} is not in constraints.txt"


def test_every_extra_that_a_message_names_is_there():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "snnrun").rglob("*.py"))
    named = set(re.findall(r"snnrun\[([a-z]+)\]", source))
    assert {"gpu", "sweep"} <= named <= set(PROJECT["project"]["optional-dependencies"])


@pytest.mark.parametrize("extra", ["sweep", "slurm", "ray"])
def test_extras_with_hydra_plugins_repeat_hydras_range(extra):
    """The plugins alone would let pip choose a pre-release of Hydra."""
    core = next(entry for entry in PROJECT["project"]["dependencies"] if entry.startswith("hydra-core"))
    assert core in PROJECT["project"]["optional-dependencies"][extra]
