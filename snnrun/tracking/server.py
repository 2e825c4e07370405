"""``snnrun ui``: MLflow's own pages on the store that the runs wrote."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from snnrun.errors import SnnrunError
from snnrun.tracking.address import is_server, store_file, store_uri

START_SECONDS = 60.0
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # background jobs that runs do not use, in processes of their own
}


def serve(
    outputs: Path,
    host: str = "127.0.0.1",
    port: int = 5000,
    uri: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """Serve MLflow's UI until Ctrl-C (exit code 0); the address is printed, and told, once it answers.

    ``uri`` None is the sqlite store under ``outputs``. Raises SnnrunError when there is no store yet, when the port is
    taken, and when the server does not start.
    """
    folder = outputs.resolve()
    file = store_file(folder)
    if uri is None and not file.exists():
        raise SnnrunError(f"no runs yet: there is no {file}; run snnrun train first, or give --outputs FOLDER")
    if is_server(uri):
        raise SnnrunError(f"{uri} is a server already: open it in a browser")
    _check_port(host, port)
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", host, "--port", str(port)]
    command += ["--backend-store-uri", uri or store_uri(folder)]
    command += ["--default-artifact-root", (folder / "mlartifacts").as_uri()]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        # A session of its own: Ctrl-C reaches us alone, and we end the server with all its workers.
        server = subprocess.Popen(command, env=ENVIRONMENT | os.environ, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_until_ready(server, host, port, log)
            print(f"MLflow UI: http://{host}:{port}  (Ctrl-C ends it)", flush=True)
            tell(f"http://{host}:{port}")
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end(server)


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise SnnrunError(f"cannot listen on {host}:{port} ({error}): give another --port") from None


def _wait_until_ready(server: subprocess.Popen[bytes], host: str, port: int, log: IO[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.2)
    log.seek(0)
    last = "".join(log.readlines()[-15:])
    raise SnnrunError(f"the MLflow server did not start; it said last:\n{last}")


def _end(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=5)
            return
