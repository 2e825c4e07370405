"""What a command line is expected to do: JSON, copies of options, quiet and verbose, colours."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import TINY, train

from snnrun import cli
from snnrun.commands import arguments
from snnrun.config import options

__all__ = ["train"]  # the fixture


def test_config_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "list", "model", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == ["model"]
    assert listed["model"]["default"] == "strsbp"
    assert set(listed["model"]["options"]) == set(options.groups()["model"].options)
    assert cli.main(["config", "show", "model/stbp", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["option"], shown["values"]["name"]) == ("model/stbp", "stbp")
    assert shown["text"].startswith("# ")


def test_a_copy_of_an_option_is_used(train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "copy", "model/stbp", "my_conf/model/mine.yaml"]) == 0
    assert "snnrun train --config-dir my_conf model=mine" in capsys.readouterr().out
    copy = tmp_path / "my_conf" / "model" / "mine.yaml"
    copy.write_text(copy.read_text().replace("decay: ", "decay: 0.25 # "))
    code, out, _ = train("model=mine", "--config-dir", "my_conf", "model.v_th=0.5", "--cfg", "job")
    assert code == 0
    assert yaml.safe_load(out)["model"]["decay"] == 0.25
    for whole in ("fashion_mnist_strsbp_paper", "none"):
        target = f"my_conf/experiment/{whole}_mine.yaml"
        assert cli.main(["config", "copy", f"experiment/{whole}", target]) == 0
        assert train("--config-dir", "my_conf", f"experiment={whole}_mine", "--cfg", "job")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model/strsbq", "c/model/mine.yaml"], "model/strsbq: no such option.*Did you mean model/strsbp"),
        (["model/stbp", "c/mine.yaml"], "a file NAME.yaml in a folder model, such as c/model/mine.yaml"),
        (["model/stbp", "c"], "such as c/model/c.yaml"),
        (["model/stbp", "c/model/hm2bp.yaml"], "model=hm2bp is snnrun's own"),
        (["model/stbp", "there/model/mine.yaml"], "is there already"),
        (["model/stbp", "file/model/mine.yaml"], "cannot be written: Not a directory"),
    ],
)
def test_a_copy_that_cannot_be(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "model").mkdir(parents=True)
    (tmp_path / "there" / "model" / "mine.yaml").write_text("mine")
    (tmp_path / "file").touch()
    assert cli.main(["config", "copy", *arguments]) in (1, 2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert (tmp_path / "there" / "model" / "mine.yaml").read_text() == "mine"


# ---- how much is said ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_quiet_says_nothing_and_verbose_every_metric(train: Any) -> None:
    assert train(*TINY, "model.v_th=0.5", "tracking=none", "-q") == (0, "", "")
    code, out, err = train("--verbose", *TINY, "tracking=none")
    assert (code, err) == (0, "")
    assert out.count("grad/norm") == 2
    code, _, err = train("-v", "train.lr=-1")
    assert code == 2
    assert "Traceback" in err
    assert "SNNRUN_VERBOSITY" not in os.environ
    assert train("-q", "-v") == (2, "", "snnrun: --quiet, --verbose: give one of them.\n")


def test_a_wrong_verbosity_of_the_environment(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNNRUN_VERBOSITY", "loud")
    code, _, err = train(*TINY)
    assert (code, err) == (
        2,
        "snnrun: SNNRUN_VERBOSITY=loud in the environment: quiet, normal and verbose are allowed.\n",
    )


def test_flags_may_stand_anywhere(train: Any) -> None:
    code, out, _ = train("model=stbp", "--cfg", "job", "train.epochs=7", "-q", "seed=3")
    assert code == 0
    assert yaml.safe_load(out)["seed"] == 3


def test_a_launcher_in_an_experiment_that_is_swept_over_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "a.yaml").write_text("defaults:\n  - override /hydra/launcher: joblib\n")
    (tmp_path / "experiment" / "b.yaml").write_text("# hydra/launcher: none\n")
    flags = ["-m", "--config-dir", str(tmp_path)]
    [warning] = arguments.swept_launchers([*flags, "experiment=a,b"])
    assert warning.startswith(f"{tmp_path}/experiment/a.yaml: hydra/launcher has no effect")
    assert not arguments.swept_launchers([*flags, "experiment=a"])


@pytest.mark.launches
@pytest.mark.parametrize(("variable", "colours"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_respected_in_a_terminal(variable: dict[str, str], colours: bool, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "snnrun", "train", *TINY, "tracking=none", "train.epochs=1"]
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment | variable, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # its end
        while part := os.read(ours, 4096):
            seen += part
    os.close(ours)
    assert process.wait() == 0
    assert b"snnrun train" in seen
    assert (re.search(rb"\x1b\[[0-9;]*3[0-7][0-9;]*m", seen) is not None) == colours
