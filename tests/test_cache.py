from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from rich.console import Console

from snnrun.compiled import parallel
from snnrun.data import cache, exclusive, spikes_file
from snnrun.data.spikes_file import Encoded, UnsoundError
from snnrun.errors import SnnrunError

KEY = {"corpus": "c0ffee", "encoder": {"channels": 78, "density": 0.1}}
COUNT, STEPS, WIDTH = 12, 5, 2


def sample(k: int) -> np.ndarray:
    return np.arange(STEPS * WIDTH).reshape(STEPS, WIDTH) * (-1) ** k * 0x5DEECE66D0123 + k


WHOLE = np.stack([sample(k) for k in range(COUNT)])
NUMBERS = np.outer((7, 3, 11), range(COUNT)).astype("<i8").tobytes()  # left out, merged, events


def no_sample(k: int) -> np.ndarray:
    raise AssertionError("encoded again")


def get(folder: Path, key=KEY, encode=sample, **changes) -> tuple[np.ndarray, str]:
    """The spikes, and what was said."""
    given = {"count": COUNT, "steps": STEPS, "width": WIDTH, "title": "letters", "console": Console(file=io.StringIO())}
    given |= changes
    stored = cache.stored(folder, key, encode=lambda k: Encoded(encode(k), 7 * k, 3 * k, 11 * k), **given)
    for factor, numbers in zip((7, 3, 11), stored[1:], strict=True):
        assert numbers.tolist() == [factor * k for k in range(given["count"])]
    return stored.spikes, given["console"].file.getvalue()


def key_of(path):
    """What the spikes of a file were made from. Raises UnsoundError if the file is not whole and unchanged."""
    with path.open("rb", buffering=0) as file:
        header = spikes_file.read(file)
        spikes_file.check(file, header)
    return json.loads(header.key)


def entry(folder: Path) -> Path:
    """The one file of the folder: nothing else is left there."""
    (path,) = folder.iterdir()
    assert path.suffix == ".spikes"
    return path


def failure(folder: Path, **changes) -> str:
    with pytest.raises(SnnrunError) as error:
        get(folder, **changes)
    assert error.value.exit_code == 1
    assert "outputs=FOLDER" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_spikes_are_encoded_once(tmp_path, threads):
    parallel.set_threads(threads)
    made, said = get(tmp_path / "new/folder")
    path = entry(tmp_path / "new/folder")
    assert said == f"encoding letters: {COUNT} samples into {path}\n"
    found, said = get(tmp_path / "new/folder", encode=no_sample)
    assert said == ""
    for spikes in made, found:
        assert spikes.dtype == np.int64
        np.testing.assert_array_equal(spikes, WHOLE, strict=True)
        assert spikes.ctypes.data % 4096 == 0
        assert isinstance(spikes.base, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            spikes[0, 0, 0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            spikes.flags.writeable = True
    assert path == entry(tmp_path / "new/folder")


def test_threads_do_not_write_over_each_other(tmp_path):
    parallel.set_threads(8)
    spikes, _ = get(tmp_path, count=3000)
    np.testing.assert_array_equal(spikes, np.stack([sample(k) for k in range(3000)]))


def numbers_of_json():
    return st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False))


def trees():
    return st.recursive(
        numbers_of_json() | st.text(max_size=5),
        lambda part: (
            st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), part, max_size=3)
        ),
        max_leaves=6,
    )


@settings(max_examples=40)
@given(
    npst.arrays(np.int64, npst.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=7)),
    st.dictionaries(st.text(max_size=5), trees(), max_size=4),
    st.text(max_size=8),
    st.sampled_from([1, 2]),
)
def test_any_spikes_any_key_and_any_title_come_back(whole, key, title, threads):
    parallel.set_threads(threads)
    count, steps, width = whole.shape
    shape = {"count": count, "steps": steps, "width": width, "title": title}
    with tempfile.TemporaryDirectory() as folder:
        np.testing.assert_array_equal(get(Path(folder), key, whole.__getitem__, **shape)[0], whole, strict=True)
        turned = dict(reversed(key.items()))
        found, said = get(Path(folder), turned, no_sample, **shape)
        np.testing.assert_array_equal(found, whole, strict=True)
        assert said == ""
        assert key_of(entry(Path(folder))) == json.loads(json.dumps(key))


def test_a_long_key_moves_the_spikes(tmp_path):
    key = {"options": "x" * 10_000}
    get(tmp_path, key)
    found, _ = get(tmp_path, key, no_sample)
    assert found.ctypes.data % 4096 == 0
    np.testing.assert_array_equal(found, WHOLE)


def test_whatever_differs_has_a_file_of_its_own(tmp_path):
    """A number of another type too: nobody can know whether the encoder minds."""
    get(tmp_path)
    for number, (key, shape) in enumerate(
        [
            ({**KEY, "corpus": "another"}, {}),
            ({**KEY, "encoder": {"channels": 78.0, "density": 0.1}}, {}),
            (KEY, {"count": COUNT - 1}),
            (KEY, {"steps": WIDTH, "width": STEPS, "encode": lambda k: sample(k).T}),
        ]
    ):
        get(tmp_path, key, **shape)
        assert len(list(tmp_path.iterdir())) == number + 2
    assert len({path.name for path in tmp_path.iterdir()}) == 5
    np.testing.assert_array_equal(get(tmp_path, encode=no_sample)[0], WHOLE)


def test_the_file_is_as_described(tmp_path):
    """By hand, as another program would read it."""
    get(tmp_path)
    content = entry(tmp_path).read_bytes()
    magic, version, length, crc = struct.unpack("<8sIII", content[:20])
    assert (magic, version) == (b"SNNSPIKE", 3)
    assert zlib.crc32(content[20 : 20 + length]) == crc
    fields = json.loads(content[20 : 20 + length].decode("utf-8"))
    assert fields == {
        **{"key": KEY, "count": COUNT, "steps": STEPS, "width": WIDTH},
        **{"sha256": hashlib.sha256(WHOLE.astype("<i8").tobytes()).hexdigest(), "made_by": exclusive.me()},
        "crc32": f"{zlib.crc32(NUMBERS):08x}",
    }
    assert not any(content[20 + length : 4096])
    assert content[4096:] == WHOLE.astype("<i8").tobytes() + NUMBERS


def test_a_bar_on_a_terminal(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    _, said = get(tmp_path, console=console, title="[red]letters")
    assert "encoding [red]letters" in said
    assert f"{COUNT}/{COUNT}" in said
    assert "samples into" not in said


def test_progress_goes_to_the_error_stream(tmp_path, capsys):
    get(tmp_path / "a", console=Console(stderr=True))
    cache.stored(tmp_path / "b", KEY, count=COUNT, steps=STEPS, width=WIDTH, encode=lambda k: Encoded(sample(k)))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("samples into") == 2


@pytest.mark.parametrize("bad", [sample(0).astype(np.int32), sample(0).T, sample(0)[None], sample(0)[:1]])
def test_what_encode_gives_must_fit(tmp_path, bad):
    with pytest.raises(ValueError, match=r"encode\(3\) gave .*; want int64 \(5, 2\)"):
        get(tmp_path, encode=lambda k: bad if k == 3 else sample(k))
    assert not list(tmp_path.iterdir())


def test_a_key_that_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        get(tmp_path, {"density": float("nan")})
    with pytest.raises(TypeError, match="JSON"):
        get(tmp_path, {"corpus": tmp_path})
    assert not list(tmp_path.iterdir())


@pytest.mark.launches
def test_not_much_is_held_in_memory(tmp_path):
    """A file of 64 MB, in a process that says how much memory it had at most."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from snnrun.data import cache
from snnrun.data.spikes_file import Encoded, UnsoundError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, one = peak(), np.ones((1000, 8), np.int64)
cache.stored(Path(sys.argv[1]), {}, count=1000, steps=1000, width=8, encode=lambda k: Encoded(one))
print(peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert entry(tmp_path).stat().st_size == 4096 + 64_000_000 + 3 * 8000
    assert int(result.stdout) < 16


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "cut short: 0 bytes"),
        (lambda content: content[:19], "cut short: 19 bytes"),
        (lambda content: content[:100], "header has changed"),
        (lambda content: content[:4096], "announces 5344 bytes, it has 4096"),
        (lambda content: content[:-1], "announces 5344 bytes, it has 5343"),
        (lambda content: content + b"\0", "announces 5344 bytes, it has 5345"),
        (lambda content: bytes(len(content)), "begins with"),
        (lambda content: b"\x89PNG" + content[4:], "begins with"),
        (lambda content: content[:8] + b"\1" + content[9:], "begins with"),
        (lambda content: flip(content, 14 * 8 + 7), "header has changed"),
        (lambda content: flip(content, 50 * 8), "header has changed"),
        (lambda content: flip(content, 4096 * 8), "spikes have changed"),
        (lambda content: flip(content, len(content) * 8 - 1), "spikes have changed"),
        (lambda content: flip(content, (len(content) - len(NUMBERS)) * 8 - 1), "spikes have changed"),
    ],
)
def test_a_damaged_file_is_told_and_made_anew(tmp_path, damage, reason):
    get(tmp_path)
    path = entry(tmp_path)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    with pytest.raises((UnsoundError, EOFError)):
        key_of(path)
    spikes, said = get(tmp_path)
    line, _, rest = said.partition("\n")
    assert line.startswith(f"{path} is damaged or foreign (")
    assert reason in line
    assert line.endswith("): it is made anew")
    assert rest == f"encoding letters: {COUNT} samples into {path}\n"
    np.testing.assert_array_equal(spikes, WHOLE)
    assert entry(tmp_path).read_bytes() == good
    assert get(tmp_path, encode=no_sample)[1] == ""


def test_every_byte_of_the_header_counts(tmp_path):
    get(tmp_path)
    path = entry(tmp_path)
    good = path.read_bytes()
    length = struct.unpack_from("<I", good, 12)[0]
    for byte in range(20 + length):
        path.write_bytes(flip(good, 8 * byte + byte % 8))
        with pytest.raises(UnsoundError):
            key_of(path)


def test_a_file_of_another_key_is_foreign(tmp_path):
    """Renamed, or a collision of the names."""
    get(tmp_path / "here")
    other = {**KEY, "corpus": "another"}
    get(tmp_path / "there", other, lambda k: ~sample(k))
    path = entry(tmp_path / "here")
    shutil.copy(entry(tmp_path / "there"), path)
    assert key_of(path) == other
    spikes, said = get(tmp_path / "here")
    assert "it was made for another key" in said
    np.testing.assert_array_equal(spikes, WHOLE)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b"\xff", b"{", json.dumps({"key": 1, "count": "?", "steps": 1, "width": 1}).encode()]
)
def test_a_description_that_says_something_else(tmp_path, text):
    get(tmp_path)
    path = entry(tmp_path)
    prefix = struct.pack("<8sIII", b"SNNSPIKE", 3, len(text), zlib.crc32(text))
    path.write_bytes((prefix + text).ljust(4096, b"\0") + path.read_bytes()[4096:])
    spikes, said = get(tmp_path)
    assert "its header cannot be understood" in said
    np.testing.assert_array_equal(spikes, WHOLE)


def test_what_is_mapped_stays_when_the_file_is_replaced(tmp_path):
    spikes, _ = get(tmp_path)
    path = entry(tmp_path)
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").rename(path)
    path.unlink()
    np.testing.assert_array_equal(spikes, WHOLE)


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fault", [LookupError("a bad recording"), OSError(errno.EIO, "bad disk"), KeyboardInterrupt()])
def test_what_encode_raises_passes_on(tmp_path, threads, fault):
    parallel.set_threads(threads)
    seen = []

    def encode(k: int) -> np.ndarray:
        seen.append(k)
        if k == 5:
            assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".part"]
            raise fault
        return sample(k)

    with pytest.raises(type(fault)) as error:
        get(tmp_path, encode=encode, count=1000)
    assert error.value is fault
    assert not list(tmp_path.iterdir())
    assert len(seen) < 1000


def test_ctrl_c_in_one_thread_while_another_encodes(tmp_path):
    """The other writes nothing more once the file is gone."""
    parallel.set_threads(2)
    both, late = threading.Barrier(2), []

    def encode(k: int) -> np.ndarray:
        both.wait(timeout=30)
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.05)
        late.append(len(list(tmp_path.glob(".*.part"))))
        return sample(k)

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, encode=encode)
    assert late == [1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
@pytest.mark.parametrize("where", [(os, "posix_fallocate"), (spikes_file, "_write"), (os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("old", [None, b"damaged"])
def test_a_full_disk_or_ctrl_c_leaves_no_partial_file(tmp_path, monkeypatch, fault, where, old):
    get(tmp_path)
    path = entry(tmp_path)
    path.unlink()
    if old is not None:
        path.write_bytes(old)

    def fail(*args):
        assert list(tmp_path.glob(".*.part"))
        raise fault

    monkeypatch.setattr(*where, fail)
    if isinstance(fault, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            get(tmp_path)
    else:
        message = failure(tmp_path)
        assert message.startswith(f"cannot write {path}: No space left on device; make room there or")
    assert [found.read_bytes() for found in tmp_path.iterdir()] == ([] if old is None else [old])


@pytest.mark.parametrize("reserves", [True, False])
def test_a_limit_that_the_system_sets(tmp_path, monkeypatch, reserves):
    """A real error in the middle of a real write. With room reserved it comes before anything is encoded."""
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate")
    seen = []

    def encode(k: int) -> np.ndarray:
        seen.append(k)
        return sample(k)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4500, hard))
    try:
        message = failure(tmp_path, encode=encode)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large; make room there" in message
    assert seen == ([] if reserves else [0])  # what was left out of the first lies behind all spikes
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reserves", [True, False])
def test_a_disk_that_is_full(tmp_path, monkeypatch, reserves):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk can be mounted by root alone")
    try:
        if not reserves:
            monkeypatch.delattr(os, "posix_fallocate")
        assert "No space left on device; make room there" in failure(disk, count=1000)
        assert not list(disk.iterdir())
        get(disk)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_system_that_cannot_reserve(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    np.testing.assert_array_equal(get(tmp_path)[0], WHOLE)


def test_a_folder_that_cannot_be_made_or_read(tmp_path):
    (tmp_path / "file").write_text("a file where a folder is wanted")
    assert "Not a directory; check its permissions or" in failure(tmp_path / "file")
    get(tmp_path / "cache")
    path = entry(tmp_path / "cache")
    path.unlink()
    path.mkdir()
    assert failure(tmp_path / "cache").startswith(f"cannot read {path}: Is a directory")


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    """What is in it is opened nevertheless."""
    get(tmp_path)
    opened = Path.open

    def refuse(path, mode="r", **options):
        if mode != "rb":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    np.testing.assert_array_equal(get(tmp_path, encode=no_sample)[0], WHOLE)
    message = failure(tmp_path, key={"corpus": "another"}, encode=no_sample)
    assert "cannot write" in message
    assert "Permission denied; check its permissions or" in message
    entry(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_to_write(tmp_path):
    tmp_path.chmod(0o555)
    assert "Permission denied" in failure(tmp_path, encode=no_sample)
    tmp_path.chmod(0o755)


# --- several processes ------------------------------------------------------------------------------------------------

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
