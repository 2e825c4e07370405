from __future__ import annotations

import errno
import hashlib
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from snnrun.compiled import parallel
from snnrun.data import audio
from snnrun.errors import SnnrunError

RATE = 12_500
WAVE = (np.arange(-500, 500) * 60 / 32768).astype(np.float64)


def sphere(path: Path, wave: np.ndarray = WAVE, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, wave, rate, format="NIST", subtype="PCM_16", **options)
    return path


def fields(path: Path, **changes: str) -> Path:
    """Change lines of a SPHERE header: name="-type value", or nothing to leave it out."""
    content = path.read_bytes()
    lines = content[:1024].split(b"end_head")[0].decode().splitlines()
    kept = [line for line in lines if line.split(" ")[0] not in changes]
    kept += [f"{name} {value}" for name, value in changes.items() if value]
    path.write_bytes("\n".join([*kept, "end_head", ""]).encode().ljust(1024) + content[1024:])
    return path


def fault(path: Path, rate: int | None = None) -> str:
    with pytest.raises(SnnrunError) as error:
        audio.read(path, rate=rate)
    message = str(error.value)
    assert error.value.exit_code == 1
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    [fact] = audio.scan([path], rate)  # the survey tells the same
    assert message == f"{path}: {fact.fault}"
    return message


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.sph", "A.WAV", "a"])
@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_sphere_goes_by_its_magic(tmp_path: Path, name: str, endian: str) -> None:
    wave, rate = audio.read(sphere(tmp_path / name, endian=endian), rate=RATE)
    assert rate == RATE
    assert wave.dtype == np.float64
    assert np.array_equal(wave, WAVE)


@pytest.mark.parametrize("left_out", ["sample_coding", "sample_byte_format", "sample_count"])
def test_fields_that_may_be_absent(tmp_path: Path, left_out: str) -> None:
    assert np.array_equal(audio.read(fields(sphere(tmp_path / "a.wav"), **{left_out: ""}))[0], WAVE)


def test_twelve_significant_bits_are_not_scaled_up(tmp_path: Path) -> None:
    path = fields(sphere(tmp_path / "a.wav"), sample_sig_bits="-i 12")
    assert np.array_equal(audio.read(path)[0], WAVE)


def test_what_follows_the_last_sample_is_no_sample(tmp_path: Path) -> None:
    path = sphere(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes() + b"\x11" * 1024)
    assert np.array_equal(audio.read(path)[0], WAVE)


def test_other_formats(tmp_path: Path) -> None:
    for name, subtype in ("a.wav", "PCM_16"), ("b.wav", "FLOAT"), ("a.flac", "PCM_16"):
        soundfile.write(tmp_path / name, WAVE, 8000, subtype=subtype)
        wave, rate = audio.read(tmp_path / name)
        assert rate == 8000
        assert np.array_equal(wave, WAVE)
    soundfile.write(tmp_path / "a.ogg", WAVE, 8000)
    assert len(audio.read(tmp_path / "a.ogg")[0]) == len(WAVE)


def test_a_wave_written_to_a_pipe_has_no_length(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, WAVE, 8000)
    content = bytearray(path.read_bytes())
    for at in (4, 40):
        content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert np.array_equal(audio.read(path)[0], WAVE)


# ---- what is not ----------------------------------------------------------------------------------------------------


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert "it is empty; copy it anew" in fault(tmp_path / "a.wav")


@pytest.mark.parametrize("text", ["<html>404 Not Found</html>", "see README", "x"])
def test_text_under_the_name_of_audio(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.wav").write_text(text)
    message = fault(tmp_path / "a.wav")
    assert "it is no audio file" in message
    assert text[:12] in message
    assert "replace or remove it" in message


def test_several_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([WAVE, WAVE], axis=1), RATE)
    message = fault(tmp_path / "a.wav")
    assert "2 channels and one is wanted" in message
    assert "sox" in message
    assert "2 channels" in fault(sphere(tmp_path / "b.wav", np.stack([WAVE, WAVE], axis=1)))


def test_another_rate(tmp_path: Path) -> None:
    path = sphere(tmp_path / "a.wav", rate=16_000)
    assert audio.read(path)[1] == 16_000
    message = fault(path, RATE)
    assert "16,000 Hz and this corpus has 12,500 Hz" in message
    assert "-r 12500" in message


def test_sphere_cut_short(tmp_path: Path) -> None:
    path = sphere(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:-200])
    assert "cut short: its header announces 1,000 samples and 900 are there; copy it anew" in fault(path)
    path.write_bytes(path.read_bytes()[:800])
    assert "cut short: its header announces 1,000 samples and 0 are there" in fault(path)


def test_riff_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, WAVE, 8000)
    path.write_bytes(path.read_bytes()[:-200])
    assert "cut short: its header announces 2,000 bytes and 1,800 are there" in fault(path)
    path.write_bytes(path.read_bytes()[:30])
    assert "it is cut short: it ends before its samples begin" in fault(path)


@pytest.mark.parametrize(
    ("name", "words"), [("a.flac", "it is damaged or cut short"), ("a.ogg", "its last page is missing or torn")]
)
def test_compressed_audio_cut_short(tmp_path: Path, name: str, words: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000)
    soundfile.write(tmp_path / name, noise, 8000)
    assert len(audio.read(tmp_path / name)[0]) == 20_000
    content = (tmp_path / name).read_bytes()
    for length in (100, 5000, len(content) - 100):
        (tmp_path / name).write_bytes(content[:length])
        assert words in fault(tmp_path / name)


# Every container and coding that libsndfile writes and whose length can be compared with what is there.
WRITTEN = [
    *(("WAV", subtype) for subtype in ("PCM_16", "FLOAT", "ULAW", "IMA_ADPCM", "GSM610", "G721_32", "NMS_ADPCM_16")),
    *(("AIFF", subtype) for subtype in ("PCM_16", "FLOAT", "IMA_ADPCM", "GSM610")),
    *(("AU", subtype) for subtype in ("PCM_16", "DOUBLE", "G721_32", "G723_24")),
    *(("W64", subtype) for subtype in ("PCM_16", "MS_ADPCM", "GSM610")),
    *(("CAF", subtype) for subtype in ("PCM_16", "ALAC_16")),
    *((form, "PCM_16") for form in ("WAVEX", "RF64", "SVX", "NIST", "FLAC")),
]


@pytest.mark.parametrize(("form", "subtype"), WRITTEN)
def test_a_header_promises_more_than_there_is(tmp_path: Path, form: str, subtype: str) -> None:
    """Whole, a file gives what libsndfile gives; cut anywhere, it is refused."""
    path = tmp_path / "a"
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 6000)
    soundfile.write(path, wave, 8000, format=form, subtype=subtype)
    wanted = soundfile.read(path)[0]
    assert np.array_equal(audio.read(path)[0], wanted)
    assert len(wanted) >= 6000
    content = path.read_bytes()
    for part in (0.05, 0.5, 0.9):
        path.write_bytes(content[: int(part * len(content))])
        assert re.search(r"cut short|damaged", fault(path))


def chunk(name: bytes, content: bytes, length: int | None = None, order: str = "<") -> bytes:
    return name + struct.pack(order + "I", len(content) if length is None else length) + content


def riff(*chunks: bytes, magic: bytes = b"RIFF", order: str = "<") -> bytes:
    form = chunk(b"fmt ", struct.pack(order + "HHIIHH", 1, 1, 8000, 16_000, 2, 16), order=order)
    return chunk(magic, b"WAVE" + form + b"".join(chunks), order=order)


RAW = np.round(WAVE * 32768).astype("<i2").tobytes()


@pytest.mark.parametrize(("announced", "there"), [(2000, 2000), (2002, 2000), (4000, 2000)])
@pytest.mark.parametrize("kind", ["RIFX", "RF64"])
def test_rarer_kinds_of_riff(tmp_path: Path, kind: str, announced: int, there: int) -> None:
    if kind == "RIFX":
        raw = np.round(WAVE * 32768).astype(">i2").tobytes()
        content = riff(chunk(b"data", raw, announced, ">"), magic=b"RIFX", order=">")
    else:
        lengths = struct.pack("<QQQI", announced + 72, announced, announced // 2, 0)
        content = riff(chunk(b"ds64", lengths), chunk(b"data", RAW, 0xFFFFFFFF), magic=b"RF64")
        content = content[:4] + b"\xff" * 4 + content[8:12] + content[36:72] + content[12:36] + content[72:]
    (tmp_path / "a.wav").write_bytes(content)
    if announced == there:
        assert np.array_equal(audio.read(tmp_path / "a.wav")[0], WAVE)
    else:
        assert f"announces {announced:,} bytes and {there:,} are there" in fault(tmp_path / "a.wav")


def test_no_length_in_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(chunk(b"data", RAW, 0)))
    message = fault(path)
    assert "its header says 0 bytes, 2,000 follow" in message
    assert "sox --ignore-length FILE NEW.wav" in message
    path.write_bytes(riff(chunk(b"data", b""), chunk(b"LIST", b"INFOabcd")))
    assert "it holds no samples" in fault(path)
    path.write_bytes(b".snd" + struct.pack(">IIIII", 24, 0, 3, 8000, 1) + RAW)
    assert "its header says 0 bytes, 2,000 follow" in fault(path)
    path.write_bytes(b".snd" + struct.pack(">IIIII", 24, 0xFFFFFFFF, 3, 8000, 1) + RAW)  # written to a pipe
    assert len(audio.read(path)[0]) == 1000


def test_behind_an_id3_tag(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    content = b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + riff(chunk(b"data", RAW))
    path.write_bytes(content)
    assert np.array_equal(audio.read(path)[0], WAVE)
    path.write_bytes(content[:-500])
    assert "announces 2,000 bytes and 1,500 are there" in fault(path)


def test_two_data_chunks(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(riff(chunk(b"data", RAW), chunk(b"data", RAW)))
    assert "it has 2 parts with samples (data chunks) and one is wanted" in fault(tmp_path / "a.wav")


def test_kinds_that_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(chunk(b"data", RAW), magic=b"BW64"))
    assert "it is a BW64 file, which is not read here; make a WAV file of it (ffmpeg" in fault(path)
    for form, subtype in ("VOC", "PCM_16"), ("IRCAM", "PCM_16"), ("PAF", "PCM_16"), ("XI", "DPCM_16"):
        soundfile.write(path, WAVE, 44_100, format=form, subtype=subtype)
        assert f"it is a {form} file, and nobody can tell whether such a file is whole; make a WAV file" in fault(path)
    soundfile.write(path, WAVE, 8000, format="AIFF", subtype="DWVW_16")
    assert "coded in a way that is not read here (AIFF, DWVW_16: " in fault(path)


def test_a_flac_file_that_was_written_to_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, WAVE, 8000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number of samples, 36 bits
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert "it does not say how long it is, as if written to a pipe; make a WAV file of it" in fault(path)


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.symlink_to("../corpus/7.wav")
    assert "it is a link to ../corpus/7.wav, which is not there" in fault(path)
    with pytest.raises(SnnrunError, match="it is a link to"):
        audio.hashes([path])


@pytest.mark.parametrize("coding", ["pcm,embedded-shorten-v1.09", "pcm,embedded-shorten-v2.00"])
def test_shorten(tmp_path: Path, coding: str) -> None:
    path = fields(sphere(tmp_path / "a.wav"), sample_coding=f"-s{len(coding)} {coding}")
    path.write_bytes(path.read_bytes()[:1500])  # it is shorter than its samples, but not cut short
    message = fault(path)
    assert f"compressed ({coding})" in message
    assert "sph2pipe" in message
    assert "w_decode" in message


@pytest.mark.parametrize(
    "content", [b"NIST_1A\n  what\n" + bytes(2000), b"NIST_1A\n   1024\nsample_count -i many\nend_head\n"]
)
def test_a_damaged_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert "NIST SPHERE header is damaged" in fault(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    wave = WAVE.copy()
    wave[[3, 5]] = value
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    assert "2 of its 1,000 samples are NaN or infinite" in fault(tmp_path / "a.wav")


def test_integers_as_floating_point(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", WAVE * 32768, RATE, subtype="FLOAT")
    assert "its samples reach 30000" in fault(tmp_path / "a.wav")


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", WAVE[:0], RATE)
    assert "it holds no samples" in fault(tmp_path / "a.wav")
    assert "it holds no samples" in fault(sphere(tmp_path / "b.wav", WAVE[:0]))


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = sphere(tmp_path / "a.wav")
    path.chmod(0)
    assert "Permission denied" in fault(path)


def test_a_file_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sphere(tmp_path / "a.wav")

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    assert "it cannot be read (Permission denied); check that it is a file and its permissions" in fault(path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(SnnrunError, match="Permission denied"):
        audio.hashes([path])


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "No such file" in fault(tmp_path / "a.wav")
    assert "Is a directory" in fault(tmp_path)


# ---- many -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_a_survey_tells_of_every_file(tmp_path: Path, threads: int) -> None:
    parallel.set_threads(threads)
    paths = [sphere(tmp_path / f"{n}.wav", WAVE[: 100 + n]) for n in range(20)]
    paths[7].write_bytes(b"")
    facts = audio.scan(paths, RATE)
    assert [fact.samples for fact in facts] == [0 if n == 7 else 100 + n for n in range(20)]
    assert [n for n, fact in enumerate(facts) if fact.fault] == [7]
    assert audio.scan([]) == []


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    paths = [sphere(tmp_path / f"{n}.wav", WAVE[: 100 + n]) for n in range(5)]
    wanted = hashlib.sha256()
    for path in paths:
        wanted.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    first = digest(paths)
    assert first == wanted.hexdigest()
    parallel.set_threads(3)
    assert digest(paths) == first
    assert digest(paths[::-1]) != first
    (tmp_path / "copy").mkdir()
    copies = [sphere(tmp_path / "copy" / f"{n}.WAV", WAVE[: 100 + n]) for n in range(5)]
    assert digest(copies) == first
    sphere(copies[2], WAVE[1:103])
    assert digest(copies) != first


def digest(paths: list[Path]) -> str:
    return audio.digest(paths, audio.hashes(paths))


def test_fields_of_a_header(tmp_path: Path) -> None:
    path = fields(sphere(tmp_path / "a.wav"), database_id="-s9 SURROGATE")
    assert audio.sphere_header(path)["database_id"] == "SURROGATE"
    soundfile.write(tmp_path / "b.wav", WAVE, RATE)
    assert audio.sphere_header(tmp_path / "b.wav") == audio.sphere_header(tmp_path / "c.wav") == {}
