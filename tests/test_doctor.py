"""`snnrun doctor`: what is here, what is missing, and what would make a run fail."""

from __future__ import annotations

import json
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from snnrun import cli, tracking
from snnrun.commands import installation
from snnrun.data.catalogue import CATALOGUE
from snnrun.tracking import store


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(installation, "_backends", lambda device: ["reference"])  # compiling is not what is looked at

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["doctor", "--root", "corpora", *arguments])
        return code, *capsys.readouterr()

    return call


def facts(examine: Any, *arguments: str) -> tuple[int, Any]:
    code, out, _ = examine("--json", *arguments)
    return code, json.loads(out)


def test_a_fresh_folder_is_fine_and_nothing_is_made(examine: Any, tmp_path: Path) -> None:
    code, found = facts(examine)
    assert (code, found["problems"]) == (0, [])
    assert {"snnrun", "Python", "torch", "mlflow"} <= set(found["versions"])
    assert found["store"]["message"] == "not there yet: the first run makes it"
    states = {entry["name"]: entry["state"] for entry in found["data"]["corpora"]}
    assert set(states) == set(CATALOGUE)
    assert (states["digits"], states["mnist"]) == ("at hand", "missing")
    assert found["disk"]["free_gib"] > 0
    assert list(tmp_path.iterdir()) == []
    code, out, err = examine()
    assert (code, err) == (0, "")
    for part in ("torch", "cores", "MLflow store", "missing", "mnist", "free"):
        assert part in out


def test_a_store_that_is_there_is_counted_and_a_broken_one_is_a_problem(examine: Any, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as store:
        store.execute("CREATE TABLE runs (id)")
        store.execute("INSERT INTO runs VALUES (1)")
    store.close()
    assert facts(examine)[1]["store"]["message"] == "writable, 1 run"
    (tmp_path / "outputs" / "mlflow.db").write_text("no database" * 100)
    code, found = facts(examine)
    assert code == 1
    assert "file is not a database" in found["problems"][0]
    code, out, _ = examine()
    assert code == 1
    assert "problem: the store sqlite:///" in out.replace("\n", "")


def test_a_locked_store_is_told_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "REACH_SECONDS", 0.05)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("BEGIN IMMEDIATE")
        found = tracking.reach(tmp_path)
    connection.close()
    assert (found["reachable"], found["message"]) == (False, "database is locked")


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_server_is_asked() -> None:
    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    assert tracking.reach(Path("outputs"), address)["message"] == "the server answers"
    server.shutdown()
    server.server_close()
    found = tracking.reach(Path("outputs"), address)
    assert not found["reachable"]
    assert "refused" in found["message"]


def test_a_folder_that_cannot_be_written_and_a_full_disk(examine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_disk", lambda _: {"folder": "/x", "writable": False, "free_gib": 0.5})
    code, found = facts(examine)
    assert code == 1
    assert found["problems"][0].startswith("/x cannot be written to")
    assert "0.5 GiB left" in found["problems"][1]


def test_json_and_kernels_do_not_go_together(examine: Any) -> None:
    assert examine("--json", "--kernels")[0] == 2
