"""SHD and SSC: events against an independent reading, archives, parts, the download, and every fault."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from corpora import KEYS, heidelberg_file, heidelberg_tree, spoken

from snnrun import cli, data
from snnrun.compiled import parallel
from snnrun.data import heidelberg
from snnrun.errors import SnnrunError, UsageError
from snnrun.record.description import Description
from snnrun.run import build
from snnrun.run.samples import Reader

STORED = {"name": "stored", "steps": None}


def load(root: Path, name: str = "shd", **options: Any) -> data.Dataset:
    return data.load(name, root=root, **{"download": False, "validation": 0, **options})


def failure(root: Path, kind: type[SnnrunError] = SnnrunError, name: str = "shd", **options: Any) -> str:
    with pytest.raises(kind) as error:
        load(root, name, **options)
    return str(error.value)


def values(root: Path, name: str = "shd", **options: Any) -> dict[str, Any]:
    section = {"name": name, "root": str(root), "download": False, "validation": 0, **options}
    return {"seed": 0, "outputs": str(root / "out"), "data": section, "encoder": STORED}


def read_by_hand(path: Path, bin_ms: float, bin_channels: int, steps: int) -> list[set[tuple[int, int]]]:
    """Step and channel of each spike of each recording, event by event, by h5py alone."""
    with h5py.File(path, "r") as file:
        found = []
        for times, units in zip(file["spikes/times"], file["spikes/units"], strict=True):
            assert (times.dtype, units.dtype) == (np.float16, np.uint16)
            events = [
                (int(float(t) * 1000 / bin_ms), int(u) // bin_channels) for t, u in zip(times, units, strict=True)
            ]
            found.append({event for event in events if event[0] < steps})
    return found


def spiking(bits: np.ndarray) -> set[tuple[int, int]]:
    """Step and channel of each spike of bits (T, W)."""
    return {
        (step, 64 * w + n)
        for step, words in enumerate(bits.tolist())
        for w, word in enumerate(words)
        for n in range(64)
        if word >> n & 1
    }


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shd", "ssc"])
@pytest.mark.parametrize("options", [{}, {"bin_ms": 7.3, "bin_channels": 5, "steps": 60}, {"bin_channels": 700}])
def test_every_event_is_where_an_independent_reading_has_it(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    home = heidelberg_tree(tmp_path, name)
    corpus = load(tmp_path, name, **options)
    given = {"bin_ms": 4.0, "bin_channels": 1, "steps": 350 if name == "shd" else 250, **options}
    channels = -(-700 // given["bin_channels"])
    assert (corpus.kind, corpus.shape, corpus.steps, corpus.image) == ("spikes", (channels,), given["steps"], None)
    assert corpus.classes == KEYS
    for part, short in ("train", "train"), ("validation", "valid"), ("test", "test"):
        split = getattr(corpus, part)
        path = home / f"{name}_{short}.h5"
        assert path.is_file() or not len(split)
        if len(split):
            wanted = read_by_hand(path, **given)
            assert [spiking(bits) for bits in split.samples[:]] == wanted
            assert split.labels.tolist() == [k % 3 for k in range(len(wanted))]
    assert len(corpus.validation) == (3 if name == "ssc" else 0)


def test_the_validation_part_of_ssc_is_the_validation(tmp_path: Path) -> None:
    heidelberg_tree(tmp_path, "ssc")
    for share in (0, 0.4):
        corpus = load(tmp_path, "ssc", validation=share)
        assert corpus.sizes == {"train": 9, "validation": 3, "test": 6}
        assert corpus.validation.index.tolist() == [9, 10, 11]
        assert "validation: a part of its own, 3 recordings; data.validation is not used" in corpus.notes


@pytest.mark.parametrize("packed", [".gz", ".zip"])
def test_an_archive_is_unpacked_once_and_whole(tmp_path: Path, packed: str, capsys: pytest.CaptureFixture[str]) -> None:
    heidelberg_tree(tmp_path / "plain")
    home = heidelberg_tree(tmp_path / "packed", packed=packed)
    samples = [load(tmp_path / place).train.samples[:] for place in ("plain", "packed")]
    assert np.array_equal(*samples)
    assert f"unpacking {home / 'shd_test.h5'}{packed} into {home / 'shd_test.h5'}\n" in capsys.readouterr().err
    assert sorted(path.name for path in home.iterdir()) == sorted(
        f"shd_{part}.h5{end}" for part in ("train", "test") for end in ("", packed)
    )
    load(tmp_path / "packed")
    assert capsys.readouterr().err == ""


def test_what_bits_cannot_show_is_said_with_its_share(tmp_path: Path) -> None:
    home = tmp_path / "shd"
    heidelberg_file(home / "shd_train.h5", [(0, 0, ([7, 7, 8, 9, 9], [0.0, 0.001, 0.002, 0.5, 1.3])), (1, 1, ([], []))])
    heidelberg_file(home / "shd_test.h5", [(0, 0, ([3, 4, 3], [0.001, 0.001, 0.0015]))])
    for _ in range(2):  # then from the store
        notes = build.load(values(tmp_path, steps=200)).dataset.notes
        late = "1 events of 1 of 3 recordings come after the last step (data.steps=200) and are left out"
        assert any(note.startswith(late) for note in notes)
        shared = "2 of 8 events (25 %) share a step and a channel with another, and are one spike with it"
        assert shared in notes
        silent = f"1 of 3 samples have no input spike ({home / 'shd_train.h5'}:1)"
        assert any(note.startswith(silent) for note in notes)
    wide = build.load(values(tmp_path, steps=400, bin_channels=2)).dataset.notes
    assert "2 of 8 events (25 %) share a step and a channel with another, and are one spike with it" in wide
    assert "1 of 8 events (12 %)" in " ".join(build.load(values(tmp_path, bin_ms=1.0, steps=1400)).dataset.notes)


def test_speakers_of_the_test_part_alone_are_said(tmp_path: Path) -> None:
    home = heidelberg_tree(tmp_path)
    notes = load(tmp_path).notes
    assert "test: 2 of its 6 speakers are in no other part (4, 5): 2 of 6 recordings" in notes
    assert "train: 9 of 8,156 recordings are there" in notes
    with h5py.File(home / "shd_test.h5", "a") as file:
        del file["extra/speaker"]
    assert not [note for note in load(tmp_path).notes if "speakers" in note]


def test_threads_and_options_and_contents_in_the_digest(tmp_path: Path) -> None:
    home = heidelberg_tree(tmp_path)
    digest = load(tmp_path).digest
    parallel.set_threads(3)
    assert load(tmp_path).digest == digest == build.load(values(tmp_path)).dataset.digest
    assert load(tmp_path, bin_channels=2).digest != digest
    path = home / "shd_test.h5"
    heidelberg_file(home / "new", [(k % 3, 0, spoken(k % 3, 7 if k else 8)) for k in range(6)]).replace(path)
    assert load(tmp_path).digest != digest


# ---- the download ---------------------------------------------------------------------------------------------------


def test_archives_are_downloaded_checked_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = heidelberg_tree(tmp_path / "host", packed=".zip")
    contents = {part: (host / f"shd_{part}.h5.zip").read_bytes() for part in heidelberg.SHD}
    sums = {part: heidelberg.Published(hashlib.md5(content).hexdigest(), 9) for part, content in contents.items()}
    monkeypatch.setattr(heidelberg, "MIRRORS", (f"file://{tmp_path}/nowhere/", f"file://{host}/"))
    monkeypatch.setattr(heidelberg, "SHD", sums)
    assert len(load(tmp_path, download=True).train) == 9
    assert (tmp_path / "shd/shd_test.h5.zip").read_bytes() == contents["test"]
    for path in (tmp_path / "shd").glob("shd_test*"):
        path.unlink()
    monkeypatch.setattr(heidelberg, "SHD", {**sums, "test": heidelberg.Published("0" * 32, 6)})
    message = failure(tmp_path, download=True)
    assert "what it sends is another file (md5 " in message
    assert "shd_train.h5.zip" not in message
    assert not list((tmp_path / "shd").glob("*test*"))


def test_what_is_missing_is_told_with_every_way_to_get_it(tmp_path: Path) -> None:
    message = failure(tmp_path)
    for words in ("shd_train.h5.zip (md5 f3252aeb598ac776c1b526422d90eecb)", "shd_test.h5", "data.download=false"):
        assert words in message
    assert "data.root=FOLDER or the environment variable SNNRUN_DATA" in message
    heidelberg_tree(tmp_path, "ssc")
    (tmp_path / "ssc/ssc_valid.h5").unlink()
    message = failure(tmp_path, name="ssc")
    assert "ssc_valid.h5.zip (md5 b4eee3516a4a90dd0c71a6ac23a8ae43)" in message
    assert "ssc_train.h5.zip" not in message


# ---- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"x" * 10_000)[:-9], "it is cut short. Delete it; what is missing is downloaded anew"),
        (b"<html>404</html>", "it cannot be unpacked (Not a gzipped file"),
        (gzip.compress(b"x")[:-8] + bytes(8), "it cannot be unpacked (CRC check failed"),
    ],
    ids=["cut", "foreign", "changed"],  # of their own, since gzip writes the time into its bytes
)
def test_a_damaged_archive_leaves_nothing_unpacked(tmp_path: Path, content: bytes, words: str) -> None:
    home = heidelberg_tree(tmp_path, packed=".gz")
    (home / "shd_train.h5.gz").write_bytes(content)
    message = failure(tmp_path)
    assert f"{home / 'shd_train.h5.gz'} is damaged or foreign: {words}" in message
    assert "\n" not in message
    assert not [path for path in home.rglob("*") if path.suffix == ".part" or path.name == "shd_train.h5"]


def test_a_damaged_zip(tmp_path: Path) -> None:
    home = heidelberg_tree(tmp_path, packed=".zip")
    (home / "shd_train.h5.zip").write_bytes((home / "shd_train.h5.zip").read_bytes()[:-40])
    assert "is damaged or foreign: it cannot be unpacked (File is not a zip file)" in failure(tmp_path)
    (home / "shd_train.h5.zip").write_bytes((home / "shd_test.h5.zip").read_bytes())
    assert "shd_train.h5.zip is damaged or foreign: it has no shd_train.h5. Delete it" in failure(tmp_path)


def test_a_file_that_is_cut_short_or_no_hdf5(tmp_path: Path) -> None:
    home = heidelberg_tree(tmp_path)
    path = home / "shd_test.h5"
    path.write_bytes(path.read_bytes()[:-100])
    message = failure(tmp_path)
    assert message == f"{path}: it is cut short; get it anew ({heidelberg.SOURCE})"
    path.write_bytes(b"no file of HDF5")
    assert failure(tmp_path).startswith(f"{path}: it is no HDF5 file; replace it by the published one")


def test_h5py_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heidelberg_tree(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert failure(tmp_path).endswith("Install it: pip install 'snnrun[events]'")


@pytest.mark.parametrize("name", ["spikes/times", "spikes/units", "labels", "extra/keys"])
def test_a_part_of_the_file_is_missing(tmp_path: Path, name: str) -> None:
    home = heidelberg_tree(tmp_path)
    with h5py.File(home / "shd_test.h5", "a") as file:
        del file[name]
    assert f"{home / 'shd_test.h5'}: it has no dataset {name}, so it is none of SHD" in failure(tmp_path)


def test_what_does_not_fit_together(tmp_path: Path) -> None:
    home = heidelberg_tree(tmp_path)
    path = home / "shd_test.h5"
    with h5py.File(path, "a") as file:
        file["labels"][0] = 3
    assert "its 6 times, 6 units, 6 labels and 3 classes do not fit together" in failure(tmp_path)
    with h5py.File(path, "a") as file:
        file["labels"][0] = 0
        file["extra/keys"][0] = b"two"
    assert "its classes are not those of" in failure(tmp_path)


@pytest.mark.parametrize(
    ("units", "times", "words"),
    [
        ([700], [0.1], "some units are outside 0 to 699"),
        ([1, 2], [0.1], "it has 1 times and 2 units"),
        ([1], [float("nan")], "some times are NaN or infinite"),
        ([1], [float("inf")], "some times are NaN or infinite"),
        ([1], [-0.1], "some times are below 0"),
    ],
)
def test_events_that_cannot_be_used(tmp_path: Path, units: list[int], times: list[float], words: str) -> None:
    home = heidelberg_tree(tmp_path)
    heidelberg_file(home / "shd_test.h5", [(0, 0, spoken(0, 0)), (1, 0, (units, times))])
    with pytest.raises(SnnrunError) as error:
        build.load(values(tmp_path))
    assert f"{home / 'shd_test.h5'}:1: {words}; get the file anew" in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bin_ms": 0}, "data.bin_ms: 0 is out of range"),
        ({"bin_channels": 0}, "data.bin_channels: 0 is out of range"),
        ({"bin_channels": 701}, "data.bin_channels: 701 is out of range. Allowed: at least 1 and at most 700"),
        ({"steps": 0}, "data.steps: 0 is out of range"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    heidelberg_tree(tmp_path)
    assert words in failure(tmp_path, UsageError, **options)


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_a_file_and_its_number_are_fed_as_the_corpus_feeds_them(tmp_path: Path) -> None:
    home = heidelberg_tree(tmp_path, packed=".gz")
    given = values(tmp_path, bin_channels=3, steps=100)
    corpus, _ = build.load(given)
    about = Description("shd", "recorded", "", "spikes", corpus.shape, corpus.classes, 100, {}, None)
    reader = Reader(given, about)
    for ending in ("", ".gz"):
        for row in range(6):
            found = reader.read(f"{home / 'shd_test.h5'}{ending}:{row}")
            assert np.array_equal(found.inputs[0], corpus.test.samples[np.array([row])][0])
    assert "of its events come after the last step and are left out" in found.notes[0]
    for source, words in {
        f"{home / 'shd_test.h5'}:6": "no such recording; they are numbered from 0 to 5",
        f"{home / 'shd_test.h5'}": "it holds many samples. Give a file and the number of a sample in it",
        f"{home / 'shd_none.h5'}:0": "there is no such file. Give a file and the number",
    }.items():
        with pytest.raises(UsageError) as error:
            reader.read(source)
        assert str(error.value).startswith(f"{source}: {words}")


def test_verify_and_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heidelberg_tree(tmp_path, "ssc")
    assert cli.main(["data", "verify", "ssc", "--root", str(tmp_path), "data.bin_ms=50", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [report[part]["samples"] for part in ("train", "validation", "test")] == [9, 3, 6]
    assert (report["channels"], report["steps"]) == (700, 250)
    assert any("share a step and a channel" in note for note in report["notes"])
    assert report["digest"] == load(tmp_path, "ssc", bin_ms=50.0).digest
    assert cli.main(["data", "list", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "ssc           found, 9 to train, 6 to test (papers: 75,466 to train, 20,382 to test)" in out
    assert "shd           missing" in out


@pytest.mark.slow
@pytest.mark.parametrize("model", ["strsbp", "hm2bp", "stbp"])
def test_a_run_of_each_rule(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    heidelberg_tree(tmp_path, train=24, events=400)
    options = ["tracking=none", f"outputs={tmp_path / 'out'}", "hardware=cpu", "hardware.kernels=reference"]
    options += ["train.epochs=1", "data.validation=0.25", "data.bin_ms=20", "data.steps=50", "data.bin_channels=10"]
    words = ["train", "data=shd", f"model={model}", "model.network=R20", f"data.root={tmp_path}", *options]
    if model != "stbp":
        words.append("model.v_th=4")
    assert cli.main(words) == 0
    assert "test, last epoch" in capsys.readouterr().out
