"""Several processes that want the same encoded spikes: one makes them, whatever is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cached_spikes import COUNT, KEY, STEPS, WHOLE, WIDTH, entry, get, no_sample, sample

from snnrun.data import exclusive

# Makes the file and prints the digest of what it got, and how often it encoded; with a pause at the last steps, also
# what it is about.
WORKER = f"""
import hashlib, os, sys, time
from pathlib import Path
import numpy as np
from rich.console import Console
from snnrun.compiled import parallel
from snnrun.data import cache
from snnrun.data.spikes_file import Encoded, UnsoundError

folder, pause, end = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
parallel.set_threads(2)
seen, fsync, replace = [], os.fsync, Path.replace

def at(what):
    if end:
        os.write(1, f"{{what}}\\n".encode())  # whole lines, whichever thread writes

def encode(k):
    at(f"sample {{k}}")
    time.sleep(pause)
    seen.append(k)
    spikes = np.arange({STEPS * WIDTH}).reshape({STEPS}, {WIDTH}) * (-1) ** k * 0x5DEECE66D0123 + k
    return Encoded(spikes, 7 * k, 3 * k, 11 * k)

def slow_fsync(descriptor):
    at("fsync")
    time.sleep(end)
    fsync(descriptor)
    at("on disk")
    time.sleep(end)

def slow_replace(path, target):
    replace(path, target)
    at("named")
    time.sleep(end)

os.fsync, Path.replace = slow_fsync, slow_replace
spikes = cache.stored(
    folder, {KEY!r}, count={COUNT}, steps={STEPS}, width={WIDTH}, encode=encode,
    console=Console(file=sys.stdout), title="letters",
)[0]
print(hashlib.sha256(spikes.tobytes()).hexdigest(), len(seen), flush=True)
"""


RIGHT = hashlib.sha256(WHOLE.tobytes()).hexdigest()


@pytest.fixture
def worker(tmp_path):
    """Starts processes that make the file in tmp_path, and ends those that are left."""
    started = []

    def start(pause: float = 0.0, end: float = 0.0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(pause), str(end)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def says(process: subprocess.Popen[str], start: str) -> str:
    """Its next line that begins so."""
    return next(line for line in process.stdout if line.startswith(start))


@pytest.mark.launches
def test_the_second_waits_for_the_first(tmp_path, worker):
    first = worker(pause=0.15)
    says(first, "encoding")
    second = worker()
    assert says(second, "waiting").startswith(f"waiting for process {first.pid} on ")
    assert second.communicate()[0] == f"{RIGHT} 0\n"
    assert first.communicate()[0] == f"{RIGHT} {COUNT}\n"
    entry(tmp_path)


@pytest.mark.launches
def test_if_the_first_is_killed_the_second_makes_the_file(tmp_path, worker):
    first = worker(pause=10)
    says(first, "encoding")
    second = worker()
    says(second, "waiting")
    first.kill()
    said = second.communicate()[0]
    assert said.startswith("encoding letters")
    assert said.endswith(f"{RIGHT} {COUNT}\n")
    entry(tmp_path)


@pytest.mark.launches
def test_if_the_first_fails_the_others_make_the_file_once(tmp_path, worker):
    first = worker(pause=1.5)
    says(first, "encoding")
    others = [worker(pause=0.02), worker(pause=0.02)]
    for other in others:
        says(other, "waiting")
    first.send_signal(signal.SIGINT)
    ends = [other.communicate()[0].splitlines() for other in others]
    assert sorted(lines[-1] for lines in ends) == [f"{RIGHT} 0", f"{RIGHT} {COUNT}"]
    assert not [line for lines in ends for line in lines if line.startswith("waiting")], "said once"
    entry(tmp_path)


@pytest.mark.launches
def test_those_that_begin_together_make_one_file(tmp_path, worker):
    processes = [worker(pause=0.01) for _ in range(3)]
    ends = [process.communicate()[0].splitlines()[-1] for process in processes]
    assert sorted(ends) == [f"{RIGHT} 0", f"{RIGHT} 0", f"{RIGHT} {COUNT}"]
    entry(tmp_path)


@pytest.mark.launches
def test_a_process_that_waits_can_be_interrupted(tmp_path, worker):
    first = worker(pause=10)
    says(first, "encoding")
    second = worker()
    says(second, "waiting")
    time.sleep(0.2)  # what it says, it says before it waits
    second.send_signal(signal.SIGINT)
    second.wait(timeout=30)
    assert second.returncode == -signal.SIGINT
    assert first.poll() is None
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".part"]


MOMENTS = ["encoding", "sample 0", "sample 5", "sample 11", "fsync", "on disk", "named"]


@pytest.mark.launches
def test_kill_at_any_moment(tmp_path, worker):
    """A little after each of the steps, and anywhere."""
    rng = random.Random(1)
    for moment in MOMENTS + ["sample 1"] * 3:
        process = worker(pause=0.02, end=0.1)
        says(process, moment)
        time.sleep(rng.uniform(0, 0.6 if moment == "sample 1" else 0.03))
        process.kill()
        process.wait()
        named = list(tmp_path.glob("*.spikes"))
        assert named or moment != "named"
        spikes, said = get(tmp_path, encode=no_sample if named else sample)
        assert said.startswith("encoding") == (not named)
        np.testing.assert_array_equal(spikes, WHOLE)
        left = {path.suffix for path in tmp_path.iterdir()}
        assert left <= ({".spikes", ".lock"} if named else {".spikes"})
        next(tmp_path.glob("*.spikes")).unlink()


def other_thread_makes_it(folder: Path) -> None:
    """While `encode` runs here, another thread asks for the same."""
    inside, results = threading.Event(), []

    def slow(k: int) -> np.ndarray:
        if k == 1:
            inside.set()
            time.sleep(0.1)
        return sample(k)

    thread = threading.Thread(target=lambda: results.append(get(folder, encode=slow)))
    thread.start()
    assert inside.wait(timeout=30)
    results.append(get(folder))
    thread.join()
    for spikes, said in results:
        np.testing.assert_array_equal(spikes, WHOLE)
        assert "waiting" not in said
        assert "encoding" in said
    entry(folder)


def test_where_files_cannot_be_locked_both_make_it(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    other_thread_makes_it(tmp_path)


def test_where_there_are_no_locks_at_all_both_make_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    other_thread_makes_it(tmp_path)


@pytest.mark.parametrize("locks", [True, False])
def test_what_the_dead_left_is_removed_and_the_work_of_the_living_stays(tmp_path, monkeypatch, locks):
    get(tmp_path)
    path = entry(tmp_path)
    path.unlink()
    name, here = f".{path.name}", os.uname().nodename
    dead = tmp_path / f"{name}.1-2@{here}.part"
    living = tmp_path / f"{name}.1-3@{here}.part"
    elsewhere = tmp_path / f"{name}.1-2@{here}.else.part"
    old = tmp_path / f"{name}.1-3@{here}.else.part"
    for work in dead, living, elsewhere, old:
        work.write_bytes(b"work")
    os.utime(old, (time.time() - 4000,) * 2)
    (tmp_path / f"{name}.lock").write_text("process 1 on a machine that is gone")
    if not locks:
        monkeypatch.setitem(sys.modules, "fcntl", None)
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        get(tmp_path)
    left = {living, elsewhere} if locks else {dead, living, elsewhere}
    assert set(tmp_path.iterdir()) == {path} | left


def test_work_in_progress_is_locked(tmp_path):
    """So that nobody who gets past the other lock, as on some network mounts, takes it for left."""

    def encode(k: int) -> np.ndarray:
        (work,) = tmp_path.glob(".*.part")
        with work.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return sample(k)

    get(tmp_path, encode=encode)


def test_a_lock_that_was_removed_locks_nobody_out(tmp_path):
    """Whoever waited for it must wait for the one that has taken its place."""
    path, said, inside = tmp_path / "file", [], threading.Event()
    lock = tmp_path / ".file.lock"

    def wait() -> None:
        with exclusive.alone(path, said.append):
            inside.set()

    thread = threading.Thread(target=wait)
    with contextlib.ExitStack() as stack:
        with lock.open("wb") as first:
            fcntl.flock(first, fcntl.LOCK_EX)
            thread.start()
            while not said:
                time.sleep(0.01)
            time.sleep(0.05)
            lock.unlink()
            second = stack.enter_context(lock.open("wb"))
            fcntl.flock(second, fcntl.LOCK_EX)
        assert not inside.wait(0.1)
    assert inside.wait(30)
    thread.join()
    assert said == [f"waiting for another process to make {path}"]
    assert not list(tmp_path.iterdir())
