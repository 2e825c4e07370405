"""The process beside a command's own: order, errors, its end, and a run whose record it writes."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from snnrun import beside, tracking
from snnrun.config.compose import compose
from snnrun.errors import SnnrunError
from snnrun.run import ahead, artifacts, build
from snnrun.runs import importer
from snnrun.train.distributed import Group


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The process's number; it has been started as a command does."""
    monkeypatch.setattr(beside, "_allowed", True)
    beside.start()
    yield beside.ask(os.getpid)
    beside.stop()


def test_without_a_process_the_work_is_done_here_at_once() -> None:
    assert not beside.start(), "a call from Python, or a test, must start none"
    assert beside.post(os.getpid).result() == beside.ask(os.getpid) == os.getpid()
    with pytest.raises(ZeroDivisionError):
        beside.ask(operator.truediv, 1, 0)


@pytest.mark.launches
def test_the_work_is_done_there_in_order_and_errors_come_back(process: int, tmp_path: Path) -> None:
    assert process != os.getpid()
    file = tmp_path / "file"
    asked = [beside.post(Path.write_text, file, str(number)) for number in range(20)]
    assert beside.ask(Path.read_text, file) == "19"
    assert all(one.done() for one in asked)
    with pytest.raises(SnnrunError, match="no room"):
        beside.ask(exec, "from snnrun.errors import SnnrunError; raise SnnrunError('no room')")
    with pytest.raises(RuntimeError, match="Local: held"):  # its class is not to be found here
        beside.ask(exec, "class Local(Exception): ...\nraise Local('held')")
    assert beside.ask(os.getpid) == process


@pytest.mark.launches
def test_two_share_a_list_of_work_and_its_order_stays(process: int) -> None:
    """In a process of its own; here, one does all."""
    for count in (0, 1, 2, 7):
        assert beside.ask(beside.by_two, list, [*range(count)]) == [*range(count)] == beside.by_two(list, range(count))
    assert beside.ask(beside.by_two, sorted, [3, 1, 0, 2]) == [0, 1, 3, 2], "each has every second one"
    with pytest.raises(TypeError):
        beside.ask(beside.by_two, sorted, [0, "a", 1, 2])


@pytest.mark.launches
def test_what_a_lost_process_has_not_done_is_known(process: int, tmp_path: Path) -> None:
    waiting = beside.post(time.sleep, 60)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(beside.Gone):
        waiting.result(timeout=30)
    with pytest.raises(beside.Gone):
        beside.post(os.getpid).result(timeout=30)
    assert beside.ask(os.getpid) == os.getpid()
    path = tmp_path / "file"
    artifacts.draw([artifacts.Drawing(_write, ("drawn",), path)])
    assert path.read_text() == "drawn"


def _write(text: str, path: Path) -> None:
    path.write_text(text)


@pytest.mark.launches
def test_the_process_ends_with_its_command_and_survives_the_signals_for_it(tmp_path: Path) -> None:
    code = (
        "import os, time; from snnrun import beside; beside.allow(); beside.start()\n"
        "print(beside.ask(os.getpid), flush=True); beside.post(time.sleep, 600); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        number = int(command.stdout.readline())
        os.kill(number, signal.SIGINT)
        os.kill(number, signal.SIGTERM)
        time.sleep(0.2)
        os.kill(number, 0)
        command.kill()
    deadline = time.monotonic() + 30
    while _lives(number) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(number)


def _lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.launches
@pytest.mark.slow
def test_a_run_recorded_there_is_whole_even_if_the_process_is_lost(process: int, tmp_path: Path) -> None:
    warnings: list[str] = []
    outputs, run_dir = tmp_path / "outputs", tmp_path / "run"
    tracker = tracking.open_tracker("mlflow", run_dir=run_dir, outputs=outputs, run_name="a", warn=warnings.append)
    (run_dir / "config.yaml").write_text("model: {name: a}\ntracking: {uri: null, experiment: b, run_name: a}\n")
    tracker.params({"model": {"name": "a"}})
    tracker.tags({"kind": "tested"})
    tracker.dataset("digits", "0" * 64, {"train": 3})
    tracker.metrics({"loss": 1.0}, step=1)
    tracker.artifact(run_dir / "config.yaml", "config")
    tracker.finish("FINISHED")
    with tracking.quiet():
        client = tracking.connect(tracking.store_uri(outputs))
        run = client.get_run(tracker.run_id)
        files = [file.path for file in client.list_artifacts(tracker.run_id, "config")]
    assert (run.info.status, run.data.params, run.data.metrics) == ("FINISHED", {"model.name": "a"}, {"loss": 1.0})
    assert run.data.tags["kind"] == "tested"
    assert run.data.tags["data.digest"] == "0" * 64
    assert files == ["config/config.yaml"]
    assert not warnings

    tracker = tracking.open_tracker(
        "mlflow", run_dir=run_dir, outputs=outputs, resumed=True, experiment="snnrun", warn=warnings.append
    )
    os.kill(process, signal.SIGKILL)
    with pytest.raises(beside.Gone):
        beside.post(os.getpid).result(timeout=30)
    tracker.metrics({"loss": 0.5}, step=2)
    tracker.finish("FINISHED")
    assert len(warnings) == 1
    assert f"snnrun runs import {run_dir}" in warnings[0]
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 0.5]
    importer.import_runs([str(run_dir)], outputs, None)
    with tracking.quiet():
        assert client.get_run(tracker.run_id).data.metrics == {"loss": 0.5}


@pytest.mark.launches
@pytest.mark.slow
def test_the_backward_loops_are_compiled_there_on_noise(process: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead.kernels, "ready", lambda: False)
    monkeypatch.setattr(ahead.hardware, "cores", lambda: 2)
    asked: list[Future[None]] = []
    post = beside.post
    monkeypatch.setattr(beside, "post", lambda *what: asked.append(post(*what)))
    parts = build.parts(compose(["model.network=R20", "tracking=none"]), Group())
    ahead.compile_beside(parts)
    assert asked.pop().result(timeout=60) is None
    ahead.compile_beside(parts._replace(backend="reference"))
    assert not asked
