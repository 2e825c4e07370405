"""Completion: what bash is offered, and that no TAB waits for PyTorch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snnrun import cli
from snnrun.commands import completion
from snnrun.config import options

WANTED = {
    "snnrun tr": ["train"],
    "snnrun nothing ": [],
    "snnrun train model=st": ["model=stbp", "model=strsbp"],
    "snnrun train model=stbp,h": ["model=stbp,hm2bp"],
    "snnrun train model=stbp model.surrogate": ["model.surrogate=", "model.surrogate_width="],
    "snnrun train train.epo": ["train.epochs="],
    "snnrun train +train.epo": ["+train.epochs="],
    "snnrun train train.schedule=co": ["train.schedule=constant", "train.schedule=cosine"],
    "snnrun train train.boosting=": ["train.boosting=true", "train.boosting=false"],
    "snnrun train train.clip_norm=": ["train.clip_norm=null"],
    "snnrun train hardware.proc": ["hardware.processes="],
    "snnrun train nothing=": [],
    "snnrun train --config-": ["--config-dir", "--config-name"],
    "snnrun train --cfg ": ["job", "hydra", "all"],
    "snnrun data ver": ["verify"],
    "snnrun data verify fas": ["fashion_mnist"],
    "snnrun data nothing ": [],
    "snnrun config show model/st": ["model/stbp", "model/strsbp"],
    "snnrun reproduce strsbp/table5": ["strsbp/table5"],
    "snnrun ui --po": ["--port"],
    "snnrun ui --port ": [],
    "snnrun completion ": ["bash", "zsh", "fish", "--help", "--words"],
    "snnrun bench --j": ["--json"],
}


@pytest.mark.parametrize("line", WANTED)
def test_words(line: str) -> None:
    assert completion.words(line, cli.COMMANDS) == WANTED[line]


def test_every_command_and_every_group_is_offered() -> None:
    assert set(cli.COMMANDS) < set(completion.words("snnrun ", cli.COMMANDS))
    offered = completion.words("snnrun train ", cli.COMMANDS)
    assert {f"{group}=" for group in options.groups()} < set(offered)
    assert {"seed=", "outputs=", "train.lr=", "data.limit=", "tracking.uri="} < set(offered)


def test_options_of_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").touch()
    for flag in (f"--config-dir {tmp_path}", f"--config-dir={tmp_path}"):
        assert completion.words(f"snnrun train {flag} model=mi", cli.COMMANDS) == ["model=mine"]


def test_names_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "runs" / "2026_strsbp").mkdir(parents=True)
    assert completion._runs() == ["2026_strsbp", "last"]


@pytest.mark.launches
@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "train"])
def test_no_command_loads_anything_heavy_for_its_words(command: str) -> None:
    code = (
        "import sys; from snnrun import cli; from snnrun.commands import completion; "
        f"found = completion.words('snnrun {command} ', cli.COMMANDS); "
        "print('--help' in found, *{'torch', 'mlflow', 'matplotlib'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "True\n"


@pytest.mark.launches
def test_words_of_train_load_neither_hydra_nor_torch() -> None:
    code = (
        "import sys; from snnrun import cli; from snnrun.commands import completion; "
        "completion.words('snnrun train model.', cli.COMMANDS); "
        "print(*{'torch', 'mlflow', 'hydra', 'numpy'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "\n"


# ---- the shells ------------------------------------------------------------------------------------------------------


def in_bash(line: str, tmp_path: Path) -> list[str]:
    """What bash's function puts into COMPREPLY for a line, with the real command."""
    command = tmp_path / "snnrun"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m snnrun "$@"\n')
    command.chmod(0o755)
    script = (
        f'eval "$(snnrun completion bash)"; complete -p snnrun >/dev/null; COMP_LINE="{line}" COMP_POINT={len(line)}; '
        '_snnrun snnrun; for word in "${COMPREPLY[@]}"; do echo "$word"; done'
    )
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    answer = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    return answer.stdout.splitlines()


@pytest.mark.launches
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("snnrun tr", ["train"]),
        ("snnrun train model=st", ["stbp", "strsbp"]),  # readline has taken `model=` for a word
        ("snnrun train train.sched", ["train.schedule=", "train.schedule_milestones=", "train.schedule_factor="]),
        ("snnrun nothing at all", []),
    ],
)
def test_bash(line: str, wanted: list[str], tmp_path: Path) -> None:
    assert in_bash(line, tmp_path) == wanted


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_take_their_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "completion --words" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_the_shell_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err
