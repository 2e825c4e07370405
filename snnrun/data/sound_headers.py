"""What the header of a sound file announces, compared with what is there.

libsndfile says nothing about a file that was cut short: it reads up to the end, whatever the container.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple

ANEW = "copy it anew from where it came"
CONVERT = "make a WAV file of it (ffmpeg -i FILE NEW.wav)"
_STREAMED = 0x7F00_0000  # a length from here up stands for "not known while writing": SoX's for AIFF is the smallest
_SPHERE = b"NIST_1A\n"
_OGG_PAGE = 65_307  # bytes of the largest page
_FAR = 1 << 63  # what a header of 64 bits has for "not known" begins here, since it is negative


class Fault(Exception):
    """Why a file cannot be used, and the remedy."""


def check(file: IO[bytes], size: int) -> int | None:
    """See that what the header announces is there.

    Args:
        file: Open, and seekable.
        size: Of it, in bytes.

    Returns:
        The number of samples that a SPHERE header announces, since padding may follow them; None for other containers,
        where libsndfile knows.

    Raises:
        Fault: If it is empty or cut short, has no length or several parts, or is of a kind that is not read.
    """
    start = _start(file)
    file.seek(start)
    magic = file.read(12)
    if not magic:
        raise Fault(f"it is empty; {ANEW}")
    if magic.startswith(_SPHERE):
        return _check_sphere(file, size)
    if magic.startswith(b"BW64"):
        raise Fault(f"it is a BW64 file, which is not read here; {CONVERT}")
    if magic.startswith(b"OggS"):
        _check_ogg(file, size)
    elif magic[:4] in (b".snd", b"dns."):
        _check_au(file, start, size)
    elif magic[:4] in _CONTAINERS:
        _check_chunks(file, _CONTAINERS[magic[:4]], start, size)
    return None


def sphere_fields(file: IO[bytes]) -> tuple[int, dict[str, str]]:
    """Size of a SPHERE header in bytes, and its fields; Fault if it is none."""
    file.seek(0)
    start = file.read(16)
    size = start[8:].strip()
    if not start.startswith(_SPHERE) or not size.isdigit():
        raise Fault(f"its NIST SPHERE header is damaged (it begins with {start!r}); {ANEW}")
    text = file.read(int(size) - 16).decode("latin-1").partition("end_head")[0]
    return int(size), dict(re.findall(r"^(\S+) -(?:i|r|s\d+) (.*?)\s*$", text, re.MULTILINE))


def cut_short(announced: int, found: int, unit: str = "samples") -> Fault:
    """The fault of a file that has less than its header announces."""
    return Fault(f"it is cut short: its header announces {announced:,} {unit} and {found:,} are there; {ANEW}")


def _start(file: IO[bytes]) -> int:
    """Where the container begins: after an ID3 tag, which libsndfile skips, too."""
    file.seek(0)
    tag = file.read(10)
    if len(tag) < 10 or not tag.startswith(b"ID3"):
        return 0
    a, b, c, d = tag[6:]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


# ---- containers of chunks -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Container:
    """How the chunks of a container lie: each has a name, a length and its content.

    Attributes:
        first: Where the first chunk begins.
        name, length: Bytes of a chunk's name, of which 4 are looked at, and of its length.
        order: Of the bytes of the length.
        counted: Whether the length counts the chunk's own name and length.
        align: Bytes that the next chunk's beginning is a multiple of, counted from this one's.
        samples: Names of the chunk that has the samples.
    """

    first: int = 12
    name: int = 4
    length: int = 4
    order: Literal["little", "big"] = "little"
    counted: bool = False
    align: int = 2
    samples: tuple[bytes, ...] = (b"data",)


_CONTAINERS = {
    b"RIFF": _Container(),
    b"RIFX": _Container(order="big"),
    b"RF64": _Container(),
    b"FORM": _Container(order="big", samples=(b"SSND", b"BODY")),  # AIFF, AIFC and 8SVX
    b"riff": _Container(first=40, name=16, length=8, counted=True, align=8),  # Wave64
    b"caff": _Container(first=8, length=8, order="big", align=1),
}


class _Chunk(NamedTuple):
    """The name, where the content begins, and its length as announced."""

    name: bytes
    start: int
    length: int


def _chunks(file: IO[bytes], form: _Container, position: int, size: int) -> Iterator[_Chunk]:
    head = form.name + form.length
    while position + head <= size:
        file.seek(position)
        fields = file.read(head)
        length = int.from_bytes(fields[form.name :], form.order) - (head if form.counted else 0)
        if length < 0:
            return
        yield _Chunk(fields[:4], position + head, length)
        position += head + length + -length % form.align


def _check_chunks(file: IO[bytes], form: _Container, start: int, size: int) -> None:
    wide, samples = 0, list[_Chunk]()
    for chunk in _chunks(file, form, start + form.first, size):
        if chunk.name == b"ds64":  # the lengths that the 32 bits of RF64 cannot hold
            file.seek(chunk.start + 8)
            wide = int.from_bytes(file.read(8), "little")
        if chunk.name in form.samples:
            samples.append(chunk)
    if not samples:
        raise Fault(f"it is cut short: it ends before its samples begin; {ANEW}")
    if len(samples) > 1:
        raise Fault(
            f"it has {len(samples)} parts with samples (data chunks) and one is wanted; write each to a file of its own"
        )
    [chunk] = samples
    long = form.length == 8
    length = chunk.length
    if wide and length == 0xFFFF_FFFF:
        long, length = True, wide
    if length >= (_FAR if long else _STREAMED):
        return
    if length or not _only_chunks(file, form, chunk.start, size):
        _compare(length, size - chunk.start)


def _compare(announced: int, there: int) -> None:
    """Bytes of samples by the header, and bytes from where they begin."""
    if not announced and there:
        raise Fault(
            f"its header says 0 bytes, {there:,} follow: whatever wrote it did not come to its end; "
            "have the length counted (sox --ignore-length FILE NEW.wav)"
        )
    if there < announced:
        raise cut_short(announced, there, "bytes")


def _only_chunks(file: IO[bytes], form: _Container, position: int, size: int) -> bool:
    """Whether what follows is chunks, to the last byte or those that fill up."""
    end = position
    for chunk in _chunks(file, form, position, size):
        end = chunk.start + chunk.length
    return position < end <= size < end + form.align


# ---- others ---------------------------------------------------------------------------------------------------------


def _check_au(file: IO[bytes], start: int, size: int) -> None:
    file.seek(start)
    fields = file.read(12)
    order: Literal["little", "big"] = "big" if fields.startswith(b".snd") else "little"
    first, length = (int.from_bytes(fields[at : at + 4], order) for at in (4, 8))
    if length < _STREAMED:
        _compare(length, max(0, size - start - first))


def _check_sphere(file: IO[bytes], size: int) -> int | None:
    """How many samples the header announces, once they are known to be there; None if it does not say."""
    start, fields = sphere_fields(file)
    coding = fields.get("sample_coding", "pcm")
    if "shorten" in coding or "embedded" in coding:
        raise Fault(
            f"it is compressed ({coding}); unpack it with sph2pipe (sph2pipe -f sph FILE NEW) or NIST's w_decode "
            "(w_decode -o pcm FILE NEW)"
        )
    try:
        samples = int(fields["sample_count"])
        width = int(fields.get("sample_n_bytes", 2)) * int(fields.get("channel_count", 1))
    except KeyError:
        return None
    except ValueError:
        raise Fault(f"its NIST SPHERE header is damaged (a number is none); {ANEW}") from None
    if width > 0 and size < start + samples * width:
        raise cut_short(samples, max(0, size - start) // width)
    return samples


def _check_ogg(file: IO[bytes], size: int) -> None:
    """See that the last page is there to its end and marked as the last, since Ogg has no length to compare."""
    file.seek(max(0, size - _OGG_PAGE))
    page = file.read().rpartition(b"OggS")[2]
    segments = page[23 : 23 + page[22]] if len(page) > 22 else b""
    if not segments or not page[1] & 4 or len(page) < 23 + len(segments) + sum(segments):
        raise Fault(f"it is cut short: its last page is missing or torn; {ANEW}")
