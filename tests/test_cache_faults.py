"""The cache of encoded spikes when something fails: damage, faults of encoders, full and forbidden disks."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from cached_spikes import COUNT, KEY, NUMBERS, WHOLE, entry, get, key_of, no_sample, sample

from snnrun.compiled import parallel
from snnrun.data import spikes_file
from snnrun.data.spikes_file import UnsoundError
from snnrun.errors import SnnrunError


def failure(folder: Path, **changes) -> str:
    with pytest.raises(SnnrunError) as error:
        get(folder, **changes)
    assert error.value.exit_code == 1
    assert "outputs=FOLDER" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


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
