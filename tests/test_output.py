"""Nothing that goes wrong with what a command prints ends the command."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_runs import values

from snnrun import cli, tracking
from snnrun.display import output
from snnrun.record import journal
from snnrun.run import experiment
from snnrun.train import engine

TINY = ["data.limit=20", "encoder.steps=8", "model.network=6", "model.v_th=2", "train.epochs=2", "hardware=cpu"]
TINY += ["tracking=none", "hardware.threads=1"]


class Broken(io.StringIO):
    """Takes so many writes, then none."""

    def __init__(self, number: int, after: int = 0) -> None:
        super().__init__()
        self.number, self.left = number, after

    def write(self, text: str) -> int:
        if not self.left:
            raise OSError(self.number, os.strerror(self.number))
        self.left -= 1
        return super().write(text)


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def ascii_only() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


STREAMS = {
    "a reader that left": lambda: Broken(errno.EPIPE, after=3),
    "a full disk": lambda: Broken(errno.ENOSPC, after=3),
    "closed": closed,
    "ascii": ascii_only,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STREAMS)
def test_a_training_goes_to_its_end(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", stream := STREAMS[kind]())
    assert cli.main(["train", *TINY, 'hydra.run.dir="ä_run"']) == 0
    assert sys.stdout is stream
    assert len(journal.read(tmp_path / "ä_run")) == 4  # the data, two epochs, the final figures
    assert (tmp_path / "ä_run" / "cost.json").exists()
    told = {"a full disk": "No space left on device", "closed": "I/O operation on closed file"}
    err = capsys.readouterr().err
    assert told[kind] in err if kind in told else err == ""
    if isinstance(stream, io.TextIOWrapper):
        stream.seek(0)
        assert "?_run" in stream.read()


def test_a_training_from_python_goes_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(errno.EPIPE))
    plain = values(tmp_path, "stbp", 0, tracking={"kind": "none"})
    assert experiment.run(plain, tmp_path, command=["test"]).status == "finished"


def test_ctrl_c_that_ends_the_reader_too_is_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with `| tee`, which the terminal's Ctrl-C reaches first."""
    shuffled, stream = engine.shuffled, Broken(errno.EPIPE, after=1000)

    def interrupt(order: Any, how: str, seed: int, epoch: int) -> Any:
        if epoch == 1:
            stream.left = 0
            raise KeyboardInterrupt
        return shuffled(order, how, seed, epoch)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "shuffled", interrupt)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["train", *TINY, "hydra.run.dir=run"]) == 130
    assert capsys.readouterr().err == "snnrun: interrupted\n"
    assert not (tmp_path / "run" / "error.txt").exists()
    assert (tmp_path / "run" / "state.safetensors").exists()


def test_of_a_command_that_answers_a_lost_answer_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, code in ((errno.ENOSPC, 1), (errno.EPIPE, 0)):
        monkeypatch.setattr(sys, "stdout", Broken(number))
        assert cli.main(["config", "list"]) == code
    assert capsys.readouterr().err.count("the standard output cannot be written (No space left on device)") == 1


def test_what_is_printed_is_told_once_and_goes_on_when_there_is_room(capsys: pytest.CaptureFixture[str]) -> None:
    below, aside = Broken(errno.ENOSPC), output.Stream(sys.stderr)
    stream = output.Stream(below, aside)
    print("one", file=stream)
    print("two", file=stream)
    below.left = 10
    print("three", file=stream, flush=True)
    assert below.getvalue() == "three\n"
    assert capsys.readouterr().err.count("\n") == 1
    assert isinstance(stream.lost, OSError)


def test_closed_descriptors_are_given_to_no_file() -> None:
    """The first file opened would get them, and whatever a library prints would end up in it."""
    code = (
        "import os, sys; from snnrun.display import output\n"
        "with output.unfailing():\n"
        "    print('lost'); file = os.open(sys.argv[1], os.O_RDONLY); os.write(2, str(file).encode())"
    )
    shell = f'"{sys.executable}" -c "$0" "$1" <&- >&-'
    ended = subprocess.run(["bash", "-c", shell, code, __file__], stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr.isdecimal()) == (0, True)
    assert int(ended.stderr) > 2


# ---- what MLflow prints ---------------------------------------------------------------------------------------------


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    """A client on a server, and the ends of runs that were recorded there."""
    from mlflow.store.tracking.rest_store import RestStore

    connected, recorded = tracking.connect("http://127.0.0.1:1"), list[str]()
    run = SimpleNamespace(info=SimpleNamespace(experiment_id="1", run_name="r"), data=SimpleNamespace(tags={}))
    monkeypatch.setattr(RestStore, "get_run", lambda *_: run)
    monkeypatch.setattr(RestStore, "update_run_info", lambda *_, run_status, **__: recorded.append(run_status))
    return connected, recorded


def test_mlflow_prints_no_address(client: tuple[Any, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    connected, recorded = client
    connected.set_terminated("a" * 32, "FINISHED")
    assert len(recorded) == 1
    assert capsys.readouterr() == ("", "")


def test_the_end_of_a_run_is_recorded_where_mlflow_prints(
    client: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prints a picture first, which ascii does not have."""
    connected, recorded = client
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")
    monkeypatch.setattr(sys, "stdout", stream := ascii_only())
    with pytest.raises(UnicodeEncodeError):
        connected.set_terminated("a" * 32, "FINISHED")
    assert recorded == []
    with output.unfailing():
        connected.set_terminated("a" * 32, "FINISHED")
    assert len(recorded) == 1
    stream.seek(0)
    assert "View run r at" in stream.read()
