"""Download of files: from several mirrors, checked while it runs, and never a partial file under the final name."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from snnrun.errors import SnnrunError

_TIMEOUT_S = 20.0
_CHUNK = 1 << 16
_HEADERS = {"User-Agent": "snnrun"}  # some hosts turn Python's own away


class UnreachableError(Exception):
    """No mirror gave the file; `reasons` says of each mirror why."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class _Unusable(Exception):
    """What a mirror sent is not the file."""


class _Source(Protocol):
    headers: Any

    def read(self, amount: int, /) -> bytes: ...


def download(
    target: Path, mirrors: Sequence[str], md5: str, console: Console | None = None, *, inflate: bool = True
) -> None:
    """Download the file `target` from the first mirror that has it.

    Args:
        target: Where it goes.
        mirrors: Addresses in the order to try: of a folder, ending in a slash, or of the file itself.
        md5: Checksum in hexadecimal, of the uncompressed content or of the file as it is.
        console: Where the progress is shown; the standard error stream by default.
        inflate: Whether the file is a gzip file and the checksum that of its content.

    Raises:
        UnreachableError: If no mirror gave a file with this content.
        SnnrunError: If the file cannot be written.
    """
    console = console or Console(stderr=True)
    reasons = []
    for mirror in mirrors:
        url = mirror + target.name if mirror.endswith("/") else mirror
        request = urllib.request.Request(url, headers=_HEADERS)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as source, replacing(target) as file:
                _copy(source, file, url, target.name, md5, console, inflate)
            return
        except (OSError, http.client.HTTPException, _Unusable) as error:
            reasons.append(f"{url}: {_reason(error)}")
    raise UnreachableError(reasons)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection
    elif isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    return str(error) or type(error).__name__


def _copy(source: _Source, file: IO[bytes], url: str, name: str, md5: str, console: Console, inflate: bool) -> None:
    """Copy, inflate and check at once."""
    length = source.headers.get("Content-Length") or ""
    total = int(length) if length.isdigit() else None
    digest, inflater, received = hashlib.md5(usedforsecurity=False), zlib.decompressobj(wbits=31), 0
    with _progress(console, url, name, total) as bar:
        while chunk := source.read(_CHUNK):
            try:
                digest.update(inflater.decompress(chunk) if inflate else chunk)
            except zlib.error:
                raise _Unusable("what it sends is not a gzip file") from None
            with writing(file.name):
                file.write(chunk)
            received += len(chunk)
            bar.advance(bar.task_ids[0], len(chunk))
    if not inflater.eof if inflate else received < (total or 0):
        raise _Unusable("the connection ended before the file did")
    if inflater.unused_data or digest.hexdigest() != md5:
        what = "md5 of the content" if inflate else "md5"
        raise _Unusable(f"what it sends is another file ({what} {digest.hexdigest()}, expected {md5})")


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file beside the target that takes its place at the end, whole and on disk, or goes."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("wb")
    try:
        with file:
            yield file
            with writing(target):
                file.flush()
                os.fsync(file.fileno())
        with writing(target):
            partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Tell a fault of the disk from a fault of the network: both are OSError."""
    try:
        yield
    except OSError as error:
        raise SnnrunError(
            f"cannot write {path}: {error.strerror or error}; make room or give another folder by data.root=FOLDER "
            "or the environment variable SNNRUN_DATA"
        ) from None


@contextmanager
def _progress(console: Console, url: str, name: str, total: int | None) -> Iterator[Progress]:
    """A bar on a terminal, else one line a file."""
    if not console.is_terminal:
        console.print(f"downloading {url}", markup=False, highlight=False, soft_wrap=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        bar.add_task(name, total=total)
        yield bar
