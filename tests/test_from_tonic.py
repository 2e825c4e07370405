"""Event corpora of tonic: against tonic's own objects and plain loops, their parts, files for `predict`, and faults."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from corpora import RECORDINGS, heidelberg_tree

from snnrun import cli, data
from snnrun.data import from_tonic
from snnrun.errors import SnnrunError, UsageError
from snnrun.record.description import Description
from snnrun.run import build
from snnrun.run.samples import Reader

tonic = pytest.importorskip("tonic", reason="tonic is not installed (pip install 'snnrun[tonic]')")


def load(root: Path, dataset: str | None, **options: Any) -> data.Dataset:
    return data.load("tonic", root=root, **{"download": False, "validation": 0, "dataset": dataset, **options})


def failure(root: Path, dataset: str | None, kind: type[SnnrunError] = SnnrunError, **options: Any) -> str:
    with pytest.raises(kind) as error:
        load(root, dataset, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def spiking(bits: np.ndarray) -> set[tuple[int, int]]:
    """Step and channel of each spike of bits (T, W)."""
    return {
        (step, 64 * w + n)
        for step, words in enumerate(bits.tolist())
        for w, word in enumerate(words)
        for n in range(64)
        if word >> n & 1
    }


def gesture(label: int, user: int) -> np.ndarray:
    """Events of a file of tonic's DVS Gesture, (E, 4): column, row, polarity, ms."""
    rng = np.random.default_rng((label, user))
    x, y = rng.normal(12 + 10 * label, 6, (2, 80)).clip(0, 127).astype(int)
    return np.stack([x, y, rng.integers(0, 2, 80), np.sort(rng.integers(0, 1200, 80))], axis=1).astype(np.int64)


@pytest.fixture(scope="module")
def gestures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with DVS Gesture as tonic unpacks it: 11 classes of ten users, both in train and in test."""
    root = tmp_path_factory.mktemp("gestures")
    home = root / "tonic" / "DVSGesture"
    for part in ("Train", "Test"):
        for user in range(10):
            folder = home / f"ibmGesture{part}" / f"user{user:02d}_natural"
            folder.mkdir(parents=True)
            for label in range(11):
                np.save(folder / f"{label}.npy", gesture(label, user + (100 if part == "Test" else 0)))
        (home / f"ibmGesture{part}.tar.gz").touch()
    return root


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"steps": 50}, {"rows": 16, "columns": 32, "polarity": "merged", "bin_ms": 20.0, "steps": 40}]
)
def test_every_event_of_tonics_objects_is_in_its_bin(gestures: Path, options: dict[str, Any]) -> None:
    corpus = load(gestures, "DVSGesture", **options)
    rows, columns = options.get("rows", 128), options.get("columns", 128)
    merged, bin_us, steps = "polarity" in options, 1000 * options.get("bin_ms", 5.0), options.get("steps", 300)
    assert corpus.image == (1 if merged else 2, rows, columns)
    assert corpus.classes == tuple(tonic.datasets.DVSGesture.classes)
    for part, train in ("train", True), ("test", False):
        theirs = tonic.datasets.DVSGesture(str(gestures / "tonic"), train=train)
        order = sorted(range(len(theirs)), key=theirs.data.__getitem__)
        split = getattr(corpus, part)
        assert split.labels.tolist() == [theirs.targets[k] for k in order]
        for position in (0, 57, 109):
            wanted = set()
            for event in theirs[order[position]][0]:
                step = int(event["t"] // bin_us)
                on = 0 if merged else int(event["p"])
                place = (int(event["y"]) * rows // 128) * columns + int(event["x"]) * columns // 128
                if step < steps:
                    wanted.add((step, on * rows * columns + place))
            assert spiking(split.samples[np.array([position])][0]) == wanted


def test_a_cochlea_has_channels_and_no_image(tmp_path: Path) -> None:
    home = heidelberg_tree(tmp_path, "shd")
    place = tmp_path / "tonic" / "SHD"
    place.mkdir(parents=True)
    for part in ("train", "test"):
        (place / f"shd_{part}.h5").write_bytes((home / f"shd_{part}.h5").read_bytes())
        (place / f"shd_{part}.h5.zip").touch()
    corpus = load(tmp_path, "SHD", bin_ms=4.0, steps=350)
    own = data.load("shd", root=tmp_path, download=False, validation=0)
    assert (corpus.shape, corpus.image, corpus.classes) == ((700,), None, own.classes)
    assert corpus.train.labels.tolist() == own.train.labels.tolist()
    # tonic cuts times to whole microseconds, which moves events that lie at the beginning of a step.
    for ours, theirs in zip(own.test.samples[:], corpus.test.samples[:], strict=True):
        assert len(spiking(ours) ^ spiking(theirs)) <= 4


def test_names_of_digits_and_options_of_the_class(tmp_path: Path) -> None:
    place = tmp_path / "tonic" / "NTIDIGITS18"
    place.mkdir(parents=True)
    with h5py.File(place / "n-tidigits.hdf5", "w") as file:
        for part, entries in RECORDINGS.items():
            file[f"{part}_labels"] = np.array(list(entries), "S")
            for label, (channels, times) in entries.items():
                file[f"{part}_addresses/{label}"] = np.array(channels)
                file[f"{part}_timestamps/{label}"] = np.array(times, np.float64)
    corpus = load(tmp_path, "NTIDIGITS18", bin_ms=1.6, steps=700)
    assert corpus.classes == ("1z", "9", "o", "z")
    assert [corpus.classes[label] for label in corpus.train.labels] == ["z", "z", "o", "o", "1z"]
    assert spiking(corpus.train.samples[:][0]) == {(0, 0), (1, 63)}
    digits = load(tmp_path, "NTIDIGITS18", options={"single_digits": True})
    assert digits.classes == ("0", "9", "10")
    assert len(digits.train) == 4
    assert digits.notes[0].startswith("classes without a sample are left out: 1, 2, 3 and")


def test_a_corpus_without_parts_gets_a_drawn_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tonic.dataset.Dataset, "_folder_contains_at_least_n_files_of_type", lambda *_: True)
    home = tmp_path / "tonic" / "NCALTECH101"
    for label, name in enumerate(("ant", "yin")):
        (home / "Caltech101" / name).mkdir(parents=True)
        for k in range(5):
            events = bytes([3 + label, k, 0x80, 0, 100]) + bytes([60, 50, 0, 0x27, 0x10])
            (home / "Caltech101" / name / f"image_{k}.bin").write_bytes(events)
    (home / "N-Caltech101-archive.zip").touch()
    message = failure(tmp_path, "NCALTECH101", UsageError)
    assert message.startswith("data.sensor: recordings of NCALTECH101 differ in size")
    corpus = load(tmp_path, "NCALTECH101", sensor=[64, 64])
    assert (corpus.classes, corpus.image) == (("ant", "yin"), (2, 64, 64))
    assert corpus.sizes == {"train": 8, "validation": 0, "test": 2}
    assert np.bincount(corpus.test.labels).tolist() == [1, 1]
    assert "test: no part of its own, so 0.2 of all samples (data.test_fraction)" in corpus.notes
    other = load(tmp_path, "NCALTECH101", sensor=[64, 64], split_seed=2, test_fraction=0.4)
    assert len(other.test) == 4
    assert "outside the 40 columns and 60 rows of the sensor; data.sensor=[57,60] makes" in failure_of_reading(
        tmp_path, sensor=[40, 60]
    )


def failure_of_reading(root: Path, **options: Any) -> str:
    with pytest.raises(SnnrunError) as error:
        load(root, "NCALTECH101", **options)
    return str(error.value)


def test_times_may_count_from_the_first_event() -> None:
    events = np.array([(7_000_000, 1, 0, 1), (7_010_000, 2, 1, 0)], [("t", int), ("x", int), ("y", int), ("p", int)])
    for start, wanted in ("recorded", set()), ("first", {(0, 5), (1, 3)}):
        binning = from_tonic.Binning(10.0, 20, (2 + 1, 2, 2), 1, 3, "kept", start)
        own = binning.encoded(events)
        assert own.left_out == (2 if start == "recorded" else 0)
        assert {(step, channel) for step, channel in spiking(own.spikes)} == ({(0, 4), (1, 2)} if wanted else set())


def values(root: Path, **options: Any) -> dict[str, Any]:
    section = {"name": "tonic", "dataset": "DVSGesture", "root": str(root), "download": False, "validation": 0}
    store = {"name": "stored", "steps": None}
    return {"seed": 0, "outputs": str(root / "out"), "data": section | options, "encoder": store}


def test_the_store_keeps_them_and_a_file_is_fed_alike(gestures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = values(gestures, rows=32, columns=32, bin_ms=20.0, steps=40)
    first = build.load(given).dataset
    assert "encoding tonic: 220 samples" in capsys.readouterr().err
    assert any("come after the last step (data.steps=40)" in note for note in first.notes)
    again = build.load(given).dataset
    assert (again.digest, again.notes, capsys.readouterr().err) == (first.digest, first.notes, "")
    plain = load(gestures, "DVSGesture", rows=32, columns=32, bin_ms=20.0, steps=40)
    assert np.array_equal(plain.test.samples[:], first.test.samples[:])
    about = Description("tonic", "recorded", "", "spikes", first.shape, first.classes, 40, {}, first.image)
    reader = Reader(given, about)
    files = sorted((gestures / "tonic/DVSGesture/ibmGestureTest").rglob("*.npy"), key=str)
    for k in (0, 33, 109):
        assert np.array_equal(reader.read(str(files[k])).inputs[0], first.test.samples[np.array([k])][0])
    (gestures / "bad.npy").write_bytes(files[0].read_bytes()[:-9])
    with pytest.raises(SnnrunError, match=r"bad.npy: tonic cannot read it \(ValueError|bad.npy: "):
        reader.read(str(gestures / "bad.npy"))
    given["data"]["dataset"] = "SHD"
    with pytest.raises(UsageError, match="samples of tonic's SHD have no file each"):
        reader.read(str(files[0]))


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_a_wrong_name_gets_the_nearest(tmp_path: Path) -> None:
    message = failure(tmp_path, "dvsgestures", UsageError)
    assert message.startswith("data.dataset: 'dvsgestures' is no corpus that is taken from tonic. Allowed: ASLDVS, ")
    assert message.endswith("Did you mean DVSGesture?")
    assert failure(tmp_path, None, UsageError).startswith("data.dataset: say which corpus of tonic, as data.dataset=")
    message = failure(tmp_path, "NTIDIGITS18", UsageError, options={"single_digit": True})
    assert message.endswith("no option 'single_digit'. Allowed: train, single_digits. Did you mean single_digits?")


def test_what_is_missing_is_not_downloaded_without_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("the network is touched"))
    for name in ("DVSGesture", "SHD", "DVSLip"):
        message = failure(tmp_path, name)
        assert message.startswith(f"data=tonic data.dataset={name}: its files in {tmp_path / 'tonic'} are missing or")
        assert message.endswith("data.download=true downloads what may be had")

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    message = failure(tmp_path, "DVSGesture", download=True)
    assert "Network is unreachable" in message
    assert "data.download" not in message


def test_tonic_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    monkeypatch.setitem(sys.modules, "tonic.datasets", None)
    assert failure(tmp_path, "DVSGesture").endswith("Install it: pip install 'snnrun[tonic]'")
    assert cli.main(["data", "verify", "tonic", "data.dataset=SHD", "--root", str(tmp_path)]) == 1
    assert "fault: data=tonic: tonic is not installed" in capsys.readouterr().out


def test_a_damaged_file_is_named(tmp_path: Path, gestures: Path) -> None:
    home = tmp_path / "tonic"
    home.mkdir()
    for path in (gestures / "tonic").rglob("*"):
        if path.is_file():
            copy = home / path.relative_to(gestures / "tonic")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.hardlink_to(path)
    broken = home / "DVSGesture/ibmGestureTest/user03_natural/4.npy"
    broken.unlink()
    broken.write_bytes(b"\x93NUMPY")
    with pytest.raises(SnnrunError) as error:
        load(tmp_path, "DVSGesture", rows=16, columns=16)
    assert "data=tonic: a file cannot be used:" in str(error.value)
    assert f"{broken}: " in str(error.value)


def test_verify_takes_a_corpus_of_tonic(gestures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data.dataset=DVSGesture", "data.rows=16", "data.columns=16", "data.bin_ms=20"]
    assert cli.main(["data", "verify", "tonic", "--root", str(gestures), *words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["train"]["samples"], report["channels"], report["steps"]) == (110, 512, 300)
    assert any("share a step and a channel" in note for note in report["notes"])
