"""What users bring themselves: the worked example of the documentation, and each mistake as one message."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from omegaconf import MISSING

from snnrun import cli, data
from snnrun.ann import Mlp
from snnrun.config import compose, plugins, schemas
from snnrun.data import DATASETS
from snnrun.encoders import ENCODERS
from snnrun.errors import SnnrunError, UsageError
from snnrun.models import MODELS
from snnrun.rules import RULES, StbpRule
from snnrun.run import build

DOCUMENT = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(python|sh)\n(.*?)^```", DOCUMENT, re.M | re.S))


TABLES: list[dict[Any, Any]] = [RULES, MODELS, ENCODERS, DATASETS, schemas.PLUGINS, *schemas.SCHEMAS.values()]
BEFORE = [dict(table) for table in TABLES]


def forget() -> None:
    """Know of no plugin, as a process that has just begun."""
    for table, old in zip(TABLES, BEFORE, strict=True):
        table.clear()
        table.update(old)
    for name in [name for name in sys.modules if name.startswith(("my_plugin", "my_rules", "plugin_"))]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget()


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun train` beside the example: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Path("my_plugin.py").write_text(BLOCKS["python"])
    *files, _ = BLOCKS["sh"].splitlines()
    subprocess.run(["sh", "-e", "-c", "\n".join(files)], check=True)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["train", *arguments])
        return code, *capsys.readouterr()

    return call


# ---- the worked example ----------------------------------------------------------------------------------------------


def test_the_example_is_short() -> None:
    assert len((BLOCKS["python"] + BLOCKS["sh"]).splitlines()) < 40


def test_the_example_of_the_documentation_runs(train: Any, tmp_path: Path) -> None:
    program, command, *arguments = BLOCKS["sh"].splitlines()[-1].split()
    assert (program, command) == ("snnrun", "train")
    code, out, err = train(*arguments, "train.epochs=2", "tracking=none")
    assert (code, err) == (0, "")
    assert "frugal  36-20-2" in out
    [folder] = (tmp_path / "outputs" / "runs").iterdir()
    values = yaml.safe_load((folder / "config.yaml").read_text())
    assert values["model"] | {"cost": 0.001, "surrogate": "rectangle", "network": "20"} == values["model"]
    assert values["encoder"] == {"name": "soonest", "steps": 20}
    assert values["data"] | {"name": "stripes", "size": 36, "validation": 0.1} == values["data"]


@pytest.mark.slow
def test_the_tutorial_on_rules_runs(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "tutorials" / "rule.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^```(python|yaml)\n(.*?)^```", page, re.M | re.S))
    Path("my_rules.py").write_text(parts["python"])
    Path("my_conf/model").mkdir(parents=True)
    Path("my_conf/model/calm.yaml").write_text(parts["yaml"])
    short = ["train.epochs=1", "data.limit=64", "model.network=10", "tracking=none"]
    [trains] = re.findall(r"^    snnrun (train plugin=.*)$", page, re.M)
    assert cli.main([*trains.split(), *short]) == 0
    [refused] = re.findall(r"^    \$ snnrun (.*)$", page, re.M)
    capsys.readouterr()
    assert cli.main(refused.split()) == 2
    assert f"    {capsys.readouterr().err}" in page


@pytest.mark.slow
def test_every_command_knows_the_keys_of_a_run_with_plugins(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(*BLOCKS["sh"].splitlines()[-1].split()[2:], "train.epochs=1", "tracking=none")[0] == 0
    for command, code, said in (
        (["evaluate", "last", "encoder.steps=15"], 0, "50 samples"),
        (["evaluate", "last", "data.size=36", "--split", "validation"], 0, "15 samples"),
        (["evaluate", "last", "encoder.stepz=15"], 2, "encoder.stepz: no such key. Allowed: steps. Did you mean"),
        (["predict", "last", "test:3"], 0, "test:3: "),
        (["export", "last", "--format", "safetensors"], 0, "as safetensors"),
        (["resume", "last", "model.cost=9"], 2, "model.cost: 0.001 -> 9"),
        (["runs", "list", "model=frugal", "model.cost=0.001"], 0, "1 run."),
        (
            ["data", "prepare", "stripes", "plugin=my_plugin", "+data.size=20", "--config-dir", "my_conf"],
            0,
            "150 to train",
        ),
        (["config", "show", "model/frugal", "--config-dir", "my_conf"], 0, "cost: 0.02"),
        (["config", "list", "encoder", "--config-dir", "my_conf"], 0, "  soonest "),
    ):
        forget()
        assert cli.main(command) == code, capsys.readouterr()
        assert said in "".join(capsys.readouterr())


@pytest.mark.launches
def test_it_runs_in_a_sweep_over_processes_too(train: Any, tmp_path: Path) -> None:
    """Of other processes only what they are given is known: followers and workers import the plugin themselves."""
    arguments = [*BLOCKS["sh"].splitlines()[-1].split()[2:], "train.epochs=1", "tracking=none", "-m", "seed=0,1"]
    command = [sys.executable, "-m", "snnrun", "train", *arguments, "hardware.processes=2"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.count("2 processes, each: CPU") == 2


EXAMPLE = ["plugin=my_plugin", "--config-dir", "my_conf", "model=frugal"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.cost=abc", "model.cost: 'abc' is not allowed. Allowed: a number."),
        ("+model.bias=3.5", "model.bias: 3.5 is not allowed. Allowed: true or false."),
        (
            "model.decay=0.3",
            "model.decay: model=frugal has no such key. Allowed: name, network, v_th, cost. A key that ",
        ),
        (
            "+model.dekay=0.3",
            "model.dekay: model=frugal has no such key. Allowed: name, network, v_th, frozen, weights, ",
        ),
        ("model.v_th=-1", "model.v_th: -1 is out of range"),
        ("plugin=null", "model: this option has no schema"),
    ],
)
def test_the_keys_of_a_plugin_are_checked(override: str, message: str, train: Any, tmp_path: Path) -> None:
    code, _, err = train(*EXAMPLE, override)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "outputs").exists()


def test_an_experiment_may_name_the_plugin(train: Any) -> None:
    Path("my_conf/experiment").mkdir()
    text = "# @package _global_\ndefaults: [{override /model: frugal}]\nplugin: [my_plugin]\n"
    Path("my_conf/experiment/own.yaml").write_text(text)
    code, out, _ = train(
        "--config-dir", "my_conf", "experiment=own", "tracking=none", "train.epochs=1", "data.limit=20"
    )
    assert code == 0
    assert "frugal" in out


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plugin_absent", None, "there is no module 'plugin_absent' among the installed ones, in .* PYTHONPATH"),
        ("plugin_absent.part", None, "there is no module 'plugin_absent.part'"),
        ("plugin_needy", "import plugin_of_nobody", "plugin_needy imports 'plugin_of_nobody', which is not installed"),
        ("plugin_broken", "1 / 0", "importing plugin_broken raised ZeroDivisionError: division by zero"),
        ("not-a-name", None, "'not-a-name' is not the name of a module"),
        ("3", None, "3 is not the name of a module"),
    ],
)
def test_a_module_that_cannot_be_imported(
    name: str, text: str | None, message: str, train: Any, tmp_path: Path
) -> None:
    if text is not None:
        Path(f"{name}.py").write_text(text)
    code, _, err = train(f"plugin={name}")
    assert code in (1, 2)
    assert err.count("\n") == 1
    assert re.search(f"^snnrun: plugin: {message}", err)


def test_wrong_classes_and_taken_names_are_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(StbpRule):
        pass

    @dataclass(frozen=True, kw_only=True)
    class Narrow(Mlp):
        network: str = "8"

    class Bare:
        pass

    for register, thing, message in (
        (plugins.register_rule("x"), Bare, "the rule 'x', .*Bare, is not a dataclass that derives from Rule"),
        (plugins.register_model("x"), Bare, "the model 'x', .*Bare, is not a dataclass that derives from Design"),
        (plugins.register_model("stbp"), Narrow, "the name 'stbp' of .*Narrow is taken by snnrun.rules.stbp.StbpRule"),
        (plugins.register_rule("mlp"), Own, "the name 'mlp' of .*Own is taken by snnrun.ann.mlp.Mlp"),
        (plugins.register_rule("stbp"), Own, "the name 'stbp' of .*Own is taken by snnrun.rules.stbp.StbpRule"),
        (plugins.register_encoder("x"), Bare, "the encoder 'x', .* it lacks kinds, steps, encode"),
        (plugins.register_dataset("x"), lambda root: None, "the corpus 'x', .* is not a function of"),
        (plugins.register_dataset("x"), 3, "the corpus 'x', .* is not a function of"),
    ):
        with pytest.raises(UsageError, match=message):
            register(thing)  # type: ignore[operator]
    assert plugins.register_model("narrow")(Narrow) is Narrow
    values = compose.compose(["model=mlp"])
    values["model"] = {"name": "narrow", "dropout": 0.5}
    digits = data.load("digits")
    assert build.network(values, digits).chain == "64-8-10"
    assert plugins.register_rule("own")(Own) is Own
    assert plugins.register_rule("own")(Own) is Own, "the same may come again"


def test_a_schema_is_made_of_the_fields() -> None:
    @plugins.register_encoder("made")
    @dataclass(frozen=True)
    class Made:
        steps: int
        seed: int
        mode: Literal["a", "b"] = "a"
        gain: float = field(default=0.5, metadata={"range": (0, None, 1)})
        sizes: tuple[int, ...] = (1, 2)
        limit: int | None = None
        kinds = ("image",)
        encode = None

    schema = {entry.name: entry for entry in fields(schemas.SCHEMAS["encoder"]["made"])}
    assert list(schema) == ["name", "steps", "mode", "gain", "sizes", "limit"]
    assert schema["mode"].metadata["choices"] == ("a", "b")
    assert schema["gain"].metadata["range"] == (0, None, 1)
    assert schema["steps"].default == MISSING
    assert schema["sizes"].default_factory() == [1, 2]  # type: ignore[misc]


def test_plugins_are_named_by_text_or_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plugin_one", "plugin_two"):
        Path(f"{name}.py").write_text(f"import os\nos.environ['SEEN'] += '{name} '")
    monkeypatch.setenv("SEEN", "")
    plugins.load(None)
    plugins.load(["plugin_one", "plugin_two"])
    plugins.load("plugin_one")
    assert os.environ["SEEN"] == "plugin_one plugin_two "
    with pytest.raises(SnnrunError):
        plugins.load({"plugin_one": 1})
