"""CIFAR-10 in its binary version: files, archive, download, and every fault."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import cifar_archive, cifar_files

from snnrun import cli, data, encoders
from snnrun.data import cifar
from snnrun.errors import SnnrunError

RECORDS = 10
FILES = cifar_files(RECORDS)
ARCHIVE = cifar_archive(FILES)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus has ten pictures a file, and no host has it."""
    monkeypatch.setattr(cifar, "RECORDS", RECORDS)
    monkeypatch.setattr(cifar, "MD5", hashlib.md5(ARCHIVE).hexdigest())
    monkeypatch.setattr(cifar, "MIRRORS", ("file:///none/",))


def unpacked(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def packed(folder: Path, content: bytes = ARCHIVE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / cifar.ARCHIVE).write_bytes(content)
    return folder / cifar.ARCHIVE


def load(root: Path, **options: Any) -> data.Dataset:
    return data.load("cifar10", root=root, **{"download": False, "validation": 0, **options})


def failure(root: Path, **options: Any) -> str:
    with pytest.raises(SnnrunError) as error:
        load(root, **options)
    assert error.value.exit_code == 1
    return str(error.value)


# ---- what is read ---------------------------------------------------------------------------------------------------


def test_a_record_is_a_label_and_three_planes(tmp_path: Path) -> None:
    unpacked(tmp_path / "cifar10")
    corpus = load(tmp_path)
    assert (corpus.kind, corpus.shape, corpus.image) == ("image", (3, 32, 32), (3, 32, 32))
    assert corpus.classes[3] == "cat"
    assert (len(corpus.train), len(corpus.test)) == (50, 10)
    for part, names in (corpus.train, cifar.FILES[:5]), (corpus.test, cifar.FILES[5:]):
        content = b"".join(FILES[name] for name in names)
        assert part.labels.tolist() == list(content[::3073])
        records = zip(part.labels.tolist(), part.samples, strict=True)
        assert b"".join(bytes([label]) + row.tobytes() for label, row in records) == content
    assert corpus.train.samples.flags.writeable


@pytest.mark.parametrize("place", ["cifar10", f"cifar10/{cifar.FOLDER}", cifar.FOLDER])
def test_files_are_found_where_they_are_unpacked(tmp_path: Path, place: str) -> None:
    unpacked(tmp_path / "one/cifar10")
    unpacked(tmp_path / "two" / place)
    assert load(tmp_path / "two").digest == load(tmp_path / "one").digest


@pytest.mark.parametrize("place", ["cifar10", "."])
def test_the_archive_is_read_as_it_is(tmp_path: Path, place: str) -> None:
    unpacked(tmp_path / "one/cifar10")
    packed(tmp_path / "two" / place)
    assert load(tmp_path / "two").digest == load(tmp_path / "one").digest


def test_the_archive_is_downloaded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(tmp_path / "host")
    monkeypatch.setattr(cifar, "MIRRORS", ("file:///none/", f"file://{tmp_path}/host/"))
    assert len(load(tmp_path, download=True).train) == 50
    assert (tmp_path / "cifar10" / cifar.ARCHIVE).read_bytes() == ARCHIVE
    (tmp_path / "cifar10" / cifar.ARCHIVE).unlink()
    packed(tmp_path / "host", ARCHIVE[:-1])
    message = failure(tmp_path, download=True)
    assert "what it sends is another file (md5 " in message
    assert list((tmp_path / "cifar10").iterdir()) == []


@pytest.mark.parametrize("encoder", ["poisson", "bernoulli"])
def test_a_pixel_fires_with_its_brightness_in_every_channel(tmp_path: Path, encoder: str) -> None:
    """To four standard deviations over 2,000 steps."""
    unpacked(tmp_path / "cifar10")
    test = load(tmp_path).test
    steps = 2000
    bits = encoders.build(encoder, seed=0, steps=steps, attenuation=1.0).encode(test.samples[:1], test.index[:1], 0)
    fired = np.unpackbits(bits[0].view(np.uint8), axis=1, bitorder="little").mean(axis=0)
    p = test.samples[0] / 255
    assert fired.shape == (3072,)
    assert np.abs(fired - p).max() < 5 * 0.5 / np.sqrt(steps) + 1 / steps
    assert np.corrcoef(fired, p)[0, 1] > 0.99


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_every_damaged_file_is_named_with_the_remedy(tmp_path: Path, capsys: Any) -> None:
    folder = unpacked(tmp_path / "cifar10")
    (folder / "data_batch_2.bin").write_bytes(FILES["data_batch_2.bin"][:-7])
    (folder / "data_batch_4.bin").write_bytes(b"\x0b" + FILES["data_batch_4.bin"][1:])
    (folder / "test_batch.bin").write_bytes(FILES["test_batch.bin"] + b"x")
    message = failure(tmp_path)
    assert "data=cifar10: 3 files cannot be used" in message
    assert f"{folder / 'data_batch_2.bin'} is damaged or foreign: it is cut short: 30,723 bytes, where 10" in message
    assert (
        f"{folder / 'data_batch_4.bin'} is damaged or foreign: it has a label of 11, where labels are 0 to 9" in message
    )
    assert f"{folder / 'test_batch.bin'} is damaged or foreign: it is too long: 30,731 bytes" in message
    assert message.count(f"get {cifar.ARCHIVE} anew from") == 3
    assert cli.main(["data", "verify", "cifar10", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().out.endswith("3 faults\n")


def test_files_that_are_missing(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "cifar10")
    (folder / "data_batch_3.bin").unlink()
    message = failure(tmp_path)
    assert f"{folder} lacks data_batch_3.bin" in message
    assert f"{cifar.ARCHIVE} (md5 {cifar.MD5})" in message
    message = failure(tmp_path / "nowhere")
    assert "not tried: data.download=false" in message
    assert "data.root=FOLDER or the environment variable SNNRUN_DATA" in message
    assert "file:///none/cifar-10-binary.tar.gz: " in failure(tmp_path / "nowhere", download=True)


def test_the_python_version_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/data_batch_1").write_bytes(b"x")
    assert "data_batch_1 is of the Python version, whose pickles run code: take the binary one" in failure(tmp_path)


def archive_without(name: str) -> bytes:
    return cifar_archive({other: content for other, content in FILES.items() if other != name})


@pytest.mark.parametrize(
    ("content", "known", "words"),
    [
        (ARCHIVE[: len(ARCHIVE) // 2], False, "it is not the published one (md5 "),
        (b"no archive", True, "it cannot be unpacked"),
        (ARCHIVE[: len(ARCHIVE) // 2], True, "it cannot be unpacked"),
        (archive_without("data_batch_5.bin"), True, "it lacks data_batch_5.bin"),
    ],
)
def test_an_archive_that_is_damaged_or_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, known: bool, words: str
) -> None:
    path = packed(tmp_path / "cifar10", content)
    if known:
        monkeypatch.setattr(cifar, "MD5", hashlib.md5(content).hexdigest())
    message = failure(tmp_path)
    assert message.startswith(f"{path} is damaged or foreign: ")
    assert words in message
    assert "Delete or replace it" in message


def test_the_archive_is_in_the_real_form() -> None:
    with tarfile.open(fileobj=io.BytesIO(ARCHIVE)) as archive:
        assert f"{cifar.FOLDER}/data_batch_1.bin" in archive.getnames()


# ---- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_of_two_batches_on_augmented_pictures(tmp_path: Path, capsys: Any) -> None:
    packed(tmp_path / "cifar10")
    options = ["tracking=none", f"outputs={tmp_path / 'out'}", "hardware=cpu", "hardware.kernels=reference"]
    options += ["encoder.steps=12", "data.validation=0", "data.limit=20", "train.epochs=1", "train.batch_size=10"]
    options += ["data.elastic=3.4", "data.rotation=12", "data.scale=0.12", "data.mirror=true", "data.shift=2"]
    shape = ["model=stbp", "model.network=2C5s3-P2", "model.v_th=0.5"]
    assert cli.main(["train", "data=cifar10", f"data.root={tmp_path}", *shape, *options]) == 0
    assert "test, last epoch" in capsys.readouterr().out
