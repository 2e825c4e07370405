from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from snnrun import parallel
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
    ("name", "words"), [("a.flac", "a damaged one"), ("a.ogg", "its last page is missing or torn")]
)
def test_compressed_audio_cut_short(tmp_path: Path, name: str, words: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000)
    soundfile.write(tmp_path / name, noise, 8000)
    assert len(audio.read(tmp_path / name)[0]) == 20_000
    content = (tmp_path / name).read_bytes()
    for length in (100, 5000, len(content) - 100):
        (tmp_path / name).write_bytes(content[:length])
        assert words in fault(tmp_path / name)


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
