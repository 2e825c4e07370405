from __future__ import annotations

import dataclasses
import errno
import functools
import gzip
import hashlib
import http.server
import io
import os
import socket
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from snnrun import data
from snnrun.data import fetch, images
from snnrun.errors import SnnrunError

TRAIN, TEST = 50, 20
STEMS = tuple(images.IDX_CORPORA["mnist"].md5)


def idx_files() -> dict[str, bytes]:
    """A tiny corpus in the IDX format: images of 4 x 3, ten classes."""
    rng = np.random.default_rng(0)
    files = {}
    for images_stem, labels_stem, size in (STEMS[0], STEMS[1], TRAIN), (STEMS[2], STEMS[3], TEST):
        files[images_stem] = struct.pack(">IIII", 2051, size, 4, 3) + rng.bytes(size * 12)
        files[labels_stem] = struct.pack(">II", 2049, size) + bytes(i * 7 % 10 for i in range(size))
    return files


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files into a folder as .gz."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in files.items():
        (folder / f"{stem}.gz").write_bytes(gzip.compress(content, mtime=0))
    return folder


@pytest.fixture
def tiny(monkeypatch):
    """Makes `mnist` the tiny corpus, which no mirror has; returns its files and a function to change its entry."""

    def change(**fields):
        corpus = dataclasses.replace(images.IDX_CORPORA["mnist"], **fields)
        monkeypatch.setitem(images.IDX_CORPORA, "mnist", corpus)

    files = idx_files()
    monkeypatch.setenv("no_proxy", "*")
    change(md5={stem: hashlib.md5(content).hexdigest() for stem, content in files.items()}, mirrors=("file:///none/",))
    return files, change


@pytest.fixture
def server(tmp_path):
    """A web server on the loopback; its folder and its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def send_head(self):
            if self.path.startswith("/short/"):  # announces more than it sends
                content = Path(self.directory, Path(self.path).name).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                return io.BytesIO(content[: len(content) // 2])
            return super().send_head()

    folder = tmp_path / "server"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_address[1]}/"
        httpd.shutdown()
        thread.join()


def failure(root: Path, **options) -> str:
    with pytest.raises(SnnrunError) as error:
        data.load("mnist", root=root, **options)
    assert error.value.exit_code == 1
    return str(error.value)


# --- IDX files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gz", "plain", "plain content under .gz"])
def test_idx_is_read_compressed_or_not(tmp_path, tiny, form):
    files, _ = tiny
    folder = write(tmp_path / "mnist", files)
    for stem, content in files.items():
        if form != "gz":
            (folder / f"{stem}.gz").unlink()
            (folder / (stem if form == "plain" else f"{stem}.gz")).write_bytes(content)
    mnist = data.load("mnist", root=tmp_path, validation=0, download=False)
    assert mnist.shape == (4, 3)
    assert mnist.image == (1, 4, 3)
    assert mnist.train.samples.tobytes() == files[STEMS[0]][16:]
    assert mnist.train.labels.tolist() == list(files[STEMS[1]][8:])
    assert mnist.test.samples.tobytes() == files[STEMS[2]][16:]
    assert mnist.test.labels.tolist() == list(files[STEMS[3]][8:])
    assert mnist.test.index.tolist() == list(range(TRAIN, TRAIN + TEST))
    assert mnist.test.samples.flags.writeable


def test_root_comes_from_the_environment(tmp_path, tiny, monkeypatch):
    write(tmp_path / "else/mnist", tiny[0])
    monkeypatch.setenv("SNNRUN_DATA", str(tmp_path / "else"))
    assert len(data.load("mnist", download=False).test) == TEST
    monkeypatch.delenv("SNNRUN_DATA")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "else").rename(tmp_path / "data")
    assert len(data.load("mnist", download=False).test) == TEST


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_of_the_system_package_are_found(tmp_path, tiny, suffix):
    files, change = tiny
    system = write(tmp_path / "system", files)
    for stem in files if not suffix else ():
        (system / f"{stem}.gz").unlink()
        (system / stem).write_bytes(files[stem])
    change(system_folder=system)
    assert len(data.load("mnist", root=tmp_path).train) == 45
    assert not (tmp_path / "mnist").exists()


def test_missing_files_are_listed(tmp_path, tiny):
    files, _ = tiny
    write(tmp_path / "mnist", {STEMS[1]: files[STEMS[1]]})
    for options, reason in ({"download": False}, "data.download=false"), ({}, "file:///none/"):
        message = failure(tmp_path, **options)
        assert reason in message
        assert str(tmp_path / "mnist") in message
        assert "data.root" in message
        assert "SNNRUN_DATA" in message
        assert STEMS[1] not in message
        assert all(f"{stem}.gz" in message for stem in STEMS if stem != STEMS[1])


def test_missing_fashion_mnist_names_the_package(tmp_path, monkeypatch):
    corpus = dataclasses.replace(images.IDX_CORPORA["fashion_mnist"], system_folder=tmp_path)
    monkeypatch.setitem(images.IDX_CORPORA, "fashion_mnist", corpus)
    with pytest.raises(SnnrunError, match="apt install dataset-fashion-mnist"):
        data.load("fashion_mnist", root=tmp_path, download=False)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda content: gzip.compress(content)[:-20], "cut short"),
        (lambda content: b"", "cut short (0 bytes)"),
        (lambda content: content[:10], "cut short (10 bytes)"),
        (lambda content: content[:-1], "announces 616 bytes, it has 615"),
        (lambda content: b"<html>an error page</html>", "begins with b'<htm'"),
        (lambda content: gzip.compress(b"\0\0\x08\x01" + content[4:]), "begins with"),
        (lambda content: gzip.compress(content)[:10] + b"\xff" * 60, "cannot be unpacked"),
        (lambda content: gzip.compress(content) + b"trailing", "cannot be unpacked"),
    ],
)
def test_a_damaged_file_is_named_and_kept(tmp_path, tiny, damage, word):
    files, _ = tiny
    path = write(tmp_path / "mnist", files) / f"{STEMS[0]}.gz"
    damaged = damage(files[STEMS[0]])
    path.write_bytes(damaged)
    message = failure(tmp_path)
    assert word in message
    assert str(path) in message
    assert "Delete or replace" in message
    assert "\n" not in message
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw", "mnist/raw", "mnist/MNIST/raw"])
@pytest.mark.parametrize("form", ["train-images-idx3-ubyte", "train-images.idx3-ubyte", "train-images.idx3-ubyte.gz"])
def test_files_are_found_as_others_lay_and_call_them(tmp_path, tiny, place, form):
    files, _ = tiny
    folder = write(tmp_path / place, files)
    for stem, content in files.items():
        (folder / f"{stem}.gz").unlink()
        name = (stem.replace("-idx", ".idx") if ".idx" in form else stem) + form[form.index("ubyte") + 5 :]
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert len(data.load("mnist", root=tmp_path, download=False).test) == TEST


def test_the_folders_of_torchvision_are_told_apart(tmp_path, tiny):
    write(tmp_path / "FashionMNIST/raw", tiny[0])  # its files have the names of MNIST's
    assert "files are missing" in failure(tmp_path, download=False)
    assert "torchvision's MNIST/raw" in failure(tmp_path, download=False)


def test_a_whole_file_of_an_unknown_corpus_is_not_called_damaged(tmp_path, tiny):
    files, _ = tiny
    path = write(tmp_path / "mnist", {**files, STEMS[0]: files[STEMS[0]][:-1] + b"\0"}) / f"{STEMS[0]}.gz"
    before = path.read_bytes()
    message = failure(tmp_path)
    assert message.startswith(f"{path} is a whole IDX file, but not that of MNIST (md5 of the content ")
    assert "data=image_folder data.root=FOLDER" in message
    assert "keep it elsewhere" in message
    assert "elete" not in message
    assert "\n" not in message
    assert path.read_bytes() == before


def test_a_file_of_another_corpus_is_recognised(tmp_path, tiny):
    files, _ = tiny
    write(tmp_path / "mnist", files)
    write(tmp_path / "mnist", {STEMS[0]: files[STEMS[2]]})
    assert f"it is {STEMS[2]} of mnist" in failure(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path, tiny, monkeypatch):
    write(tmp_path / "mnist", tiny[0])

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "Permission denied" in failure(tmp_path)
    monkeypatch.setattr(Path, "is_file", refuse)
    assert "cannot look for" in failure(tmp_path)


# --- download ---------------------------------------------------------------------------------------------------------


def test_download(tmp_path, tiny, server, capsys):
    files, change = tiny
    folder, address = server
    write(folder, files)
    write(tmp_path / "mnist", {STEMS[1]: files[STEMS[1]]})
    (folder / f"{STEMS[1]}.gz").unlink()  # what is there is not asked for
    change(mirrors=(address,))
    assert len(data.load("mnist", root=tmp_path).test) == TEST
    assert capsys.readouterr().err.count(f"downloading {address}") == 3
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == sorted(f"{stem}.gz" for stem in STEMS)
    assert len(data.load("mnist", root=tmp_path, download=False).test) == TEST


def test_download_from_a_file_address_shows_a_bar_on_a_terminal(tmp_path, tiny):
    files, _ = tiny
    mirror = write(tmp_path / "mirror", files).as_uri() + "/"
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    target = tmp_path / "new/folder" / f"{STEMS[0]}.gz"
    fetch.download(target, (mirror,), hashlib.md5(files[STEMS[0]]).hexdigest(), console)
    assert gzip.decompress(target.read_bytes()) == files[STEMS[0]]
    assert f"{STEMS[0]}.gz" in console.file.getvalue()
    assert "downloading" not in console.file.getvalue()


def test_a_bad_mirror_is_passed_over(tmp_path, tiny, server):
    files, change = tiny
    folder, address = server
    write(folder, files)
    write(folder / "other", {stem: content[:-1] + b"\xff" for stem, content in files.items()})
    (folder / "html").mkdir()
    for stem in STEMS:
        (folder / "html" / f"{stem}.gz").write_text("<html>moved</html>")
    change(mirrors=(address + "absent/", address + "other/", address + "html/", address + "short/", address))
    assert len(data.load("mnist", root=tmp_path).test) == TEST


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("absent/", "HTTP Error 404"),
        ("short/", "the connection ended before the file did"),
        ("html/", "not a gzip file"),
        ("other/", "another file (md5"),
        ("long/", "another file (md5"),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path, tiny, server, path, reason):
    files, change = tiny
    folder, address = server
    write(folder, files)
    write(folder / "other", {STEMS[0]: files[STEMS[2]]})
    with (write(folder / "long", files) / f"{STEMS[0]}.gz").open("ab") as file:
        file.write(b"trailing")
    (folder / "html").mkdir()
    (folder / "html" / f"{STEMS[0]}.gz").write_text("<html>moved</html>")
    change(mirrors=(address + path,))
    message = failure(tmp_path)
    assert reason in message
    assert address + path in message
    assert "data.root" in message
    assert not list(tmp_path.glob("mnist/*"))
    assert not list(tmp_path.glob("mnist/.*"))


def test_a_dead_server(tmp_path, tiny):
    _, change = tiny
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        change(mirrors=(address + "one/", address + "two/"))
        message = failure(tmp_path)
    assert message.count("refused") == 2
    assert not (tmp_path / "mnist").exists()


def test_files_downloaded_before_a_failure_stay_and_are_not_listed(tmp_path, tiny, server):
    files, change = tiny
    folder, address = server
    write(folder, {STEMS[0]: files[STEMS[0]]})
    change(mirrors=(address,))
    message = failure(tmp_path)
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == [f"{STEMS[0]}.gz"]
    assert f"  {STEMS[0]}.gz" not in message
    assert f"  {STEMS[1]}.gz" in message


def test_a_folder_that_cannot_be_made(tmp_path, tiny):
    files, change = tiny
    change(mirrors=(write(tmp_path / "mirror", files).as_uri() + "/",))
    (tmp_path / "root").write_text("a file where a folder is wanted")
    message = failure(tmp_path / "root")
    assert "cannot write" in message
    assert "data.root" in message


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_full_disk_or_ctrl_c_leaves_no_partial_file(tmp_path, tiny, monkeypatch, fault):
    files, change = tiny
    change(mirrors=(write(tmp_path / "mirror", files).as_uri() + "/",))

    def fail(descriptor):
        assert list(tmp_path.glob("mnist/.*.part"))
        raise fault

    monkeypatch.setattr(os, "fsync", fail)
    if isinstance(fault, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            data.load("mnist", root=tmp_path)
    else:
        assert "No space left on device" in failure(tmp_path)
    assert not list((tmp_path / "mnist").iterdir())
