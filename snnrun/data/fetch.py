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


def download(target: Path, mirrors: Sequence[str], md5: str, console: Console | None = None) -> None:
    """Download the gzip file `target` from the first mirror that has it.

    Args:
        target: Where it goes; the mirrors' addresses followed by its name are where it comes from.
        mirrors: Addresses, each ending in a slash, in the order to try.
        md5: Checksum of the uncompressed content, in hexadecimal.
        console: Where the progress is shown; the standard error stream by default.

    Raises:
        UnreachableError: If no mirror gave a file with this content.
        SnnrunError: If the file cannot be written.
    """
    console = console or Console(stderr=True)
    reasons = []
    for mirror in mirrors:
        url = mirror + target.name
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as source, _temporary(target) as file:
                _copy(source, file, url, md5, console)
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


def _copy(source: _Source, file: IO[bytes], url: str, md5: str, console: Console) -> None:
    """Copy, inflate and check at once."""
    length = source.headers.get("Content-Length") or ""
    digest, inflate = hashlib.md5(usedforsecurity=False), zlib.decompressobj(wbits=31)
    with _progress(console, url, int(length) if length.isdigit() else None) as bar:
        while chunk := source.read(_CHUNK):
            try:
                digest.update(inflate.decompress(chunk))
            except zlib.error:
                raise _Unusable("what it sends is not a gzip file") from None
            with _writing(file.name):
                file.write(chunk)
            bar.advance(bar.task_ids[0], len(chunk))
    if not inflate.eof:
        raise _Unusable("the connection ended before the file did")
    if inflate.unused_data or digest.hexdigest() != md5:
        raise _Unusable(f"what it sends is another file (md5 of the content {digest.hexdigest()}, expected {md5})")


@contextmanager
def _temporary(target: Path) -> Iterator[IO[bytes]]:
    """A file beside the target that takes its place at the end, whole and on disk, or goes."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("wb")
    try:
        with file:
            yield file
            with _writing(target):
                file.flush()
                os.fsync(file.fileno())
        with _writing(target):
            partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _writing(path: Path | str) -> Iterator[None]:
    """Tell a fault of the disk from a fault of the network: both are OSError."""
    try:
        yield
    except OSError as error:
        raise SnnrunError(
            f"cannot write {path}: {error.strerror or error}; make room or give another folder by data.root=FOLDER "
            "or the environment variable SNNRUN_DATA"
        ) from None


@contextmanager
def _progress(console: Console, url: str, total: int | None) -> Iterator[Progress]:
    """A bar on a terminal, else one line a file."""
    if not console.is_terminal:
        console.print(f"downloading {url}", markup=False, highlight=False, soft_wrap=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        bar.add_task(url.rpartition("/")[2], total=total)
        yield bar
