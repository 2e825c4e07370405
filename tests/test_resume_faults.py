"""Runs without room and without a server: nothing is lost, and `snnrun resume` goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_runs import values
from mlflow import MlflowClient
from resumed_runs import resume, without_times

from snnrun import cli
from snnrun.record import run_folder
from snnrun.run import experiment
from snnrun.tracking import mlflow_run

pytestmark = [
    pytest.mark.slow,  # whole trainings, stopped and resumed
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # SQLAlchemy's, of MLflow's tables
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # SQLAlchemy's pool keeps its sqlite connections
]


# ---- a server that goes away ----------------------------------------------------------------------------------------


class Server:
    """A tracking server that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        log.close()
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.launches
def test_a_server_that_comes_back_gets_every_point(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow_run, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(mlflow_run, "FIRST_PAUSE", 0.0)

    def at(metrics: Any) -> None:
        if metrics["epoch"] == 2:
            server.stop()
        elif metrics["epoch"] == 4:
            server.start()

    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    plain = values(tmp_path, "stbp", 0, train={"epochs": 5}, tracking={"uri": server.uri})
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    experiment.run(plain, folder, command=["snnrun", "train"], on_epoch=at)
    assert "MLflow is tried again" in " ".join("".join(capsys.readouterr()).split())
    client = MlflowClient(server.uri)
    run = client.get_run(str(run_folder.RunFolder(folder).run_id))
    assert run.info.status == "FINISHED"
    for key in ("train/loss", "time/epoch_s"):
        assert [p.step for p in client.get_metric_history(run.info.run_id, key)] == [1, 2, 3, 4, 5]
    assert len(client.list_artifacts(run.info.run_id, "weights")) == 2


@pytest.mark.launches
def test_a_server_that_stays_away_loses_nothing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def at(metrics: Any) -> None:
        server.stop()

    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    plain = values(tmp_path, "stbp", 0, tracking={"uri": server.uri})
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    result = experiment.run(plain, folder, command=["snnrun", "train"], on_epoch=at)
    assert result.status == "finished"
    assert f"snnrun runs import {folder}" in " ".join("".join(capsys.readouterr()).split())
    server.start()
    assert cli.main(["runs", "import", str(folder)]) == 0
    client = MlflowClient(server.uri)
    run = client.get_run(str(run_folder.RunFolder(folder).run_id))
    assert run.info.status == "FINISHED"
    assert [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]
    assert "test/accuracy_last" in run.data.metrics


# ---- a disk without room --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_file_system_is_told_and_the_run_goes_on_after_space_is_made(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = values(small_disk, "stbp", 0, train={"epochs": 3}, tracking={"kind": "none"})
    plain["model"]["network"] = "64"
    whole = tmp_path / "whole"
    whole.mkdir()
    experiment.run(plain, whole, command=["test"])
    capsys.readouterr()
    ballast = small_disk / "ballast"

    def fill(metrics: Any) -> None:
        if metrics["epoch"] == 2:
            room = os.statvfs(small_disk)
            ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - 4096))

    folder = small_disk / "runs" / "r"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    with pytest.raises(Exception, match=rf"No space left on device.*snnrun resume {folder}"):
        experiment.run(plain, folder, command=["test"], on_epoch=fill)
    said = capsys.readouterr()
    assert "the next checkpoint is tried again" in " ".join((said.out + said.err).split())
    ballast.unlink()
    assert resume(capsys, str(folder))[0] == 0
    assert (folder / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    assert without_times(folder) == without_times(whole)
