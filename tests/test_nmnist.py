"""N-MNIST: its events, their bins, the files and archives they come in, the store, and every fault."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import event_bytes, moving_digit, nmnist_tree
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrun import cli, data
from snnrun.compiled import parallel
from snnrun.data import nmnist
from snnrun.errors import SnnrunError, UsageError
from snnrun.run import build


def load(root: Path, **options: Any) -> data.Dataset:
    return data.load("nmnist", root=root, **{"download": False, "validation": 0, **options})


def failure(root: Path, kind: type[SnnrunError] = SnnrunError, **options: Any) -> str:
    with pytest.raises(kind) as error:
        load(root, **options)
    return str(error.value)


def spiking(bits: np.ndarray) -> list[tuple[int, int]]:
    """Step and channel of each spike of bits (T, W)."""
    return [
        (step, 64 * w + n)
        for step, words in enumerate(bits.tolist())
        for w, word in enumerate(words)
        for n in range(64)
        if word >> n & 1
    ]


def binning(**options: Any) -> nmnist.Binning:
    return nmnist.Binning(**{"bin_ms": 1.0, "steps": 20, "polarity": "kept", "stabilise": False, **options})


# ---- events and bins ------------------------------------------------------------------------------------------------


def test_an_event_is_five_bytes() -> None:
    """Bytes by hand: column 33, row 2, brighter, 0x012345 us; then column 0, row 33, darker, 0x7fffff us."""
    x, y, on, time = nmnist.decode(bytes([33, 2, 0x81, 0x23, 0x45, 0, 33, 0x7F, 0xFF, 0xFF]))
    assert (x.tolist(), y.tolist(), on.tolist(), time.tolist()) == ([33, 0], [2, 33], [1, 0], [0x012345, 0x7FFFFF])


def test_a_marker_of_row_240_puts_later_times_off() -> None:
    events = [(1, 1, 0, 5), (0, 240, 0, 0), (2, 2, 1, 7), (9, 240, 1, 3), (3, 3, 0, 8)]
    x, _, _, time = nmnist.decode(event_bytes(events))
    assert (x.tolist(), time.tolist()) == ([1, 2, 3], [5, 7 + 8192, 8 + 16384])


event = st.tuples(st.integers(0, 33), st.integers(0, 33), st.integers(0, 1), st.integers(0, 30_000))


@given(st.lists(event, min_size=1, max_size=30), st.sampled_from([0.6, 1.0, 5.0]), st.sampled_from(("kept", "merged")))
@settings(max_examples=50)
def test_bins_are_those_of_the_definition(events: Any, bin_ms: float, polarity: str) -> None:
    """Step floor(t / bin) + 1, channel (polarity * 34 + row) * 34 + column, at most one spike, late ones left out."""
    wanted = {
        (time // round(1000 * bin_ms) + 1, ((p if polarity == "kept" else 0) * 34 + y) * 34 + x)
        for x, y, p, time in events
        if time // round(1000 * bin_ms) + 1 < 20
    }
    bits = binning(bin_ms=bin_ms, polarity=polarity).encoded(event_bytes(events)).spikes
    assert bits.shape == (20, 37 if polarity == "kept" else 19)
    assert set(spiking(bits)) == wanted


def test_the_motion_follows_the_triangle_of_the_saccades() -> None:
    """The published compensation: 3.5 t and 7 t, then 3.5 + 3.5 t and 7 - 7 t, then 7 - 7 t and 0, t from 0 to 1."""
    time = np.arange(0, 315_001, 250)
    right, down = nmnist.motion(time)
    for t, x, y in zip(time.tolist(), right.tolist(), down.tolist(), strict=True):
        saccade, along = divmod(t / 105e3, 1)
        exact = [(3.5 * along, 7 * along), (3.5 + 3.5 * along, 7 - 7 * along), (7 - 7 * along, 0), (0, 0)][int(saccade)]
        assert abs(x - exact[0]) <= 0.5 + 1e-9
        assert abs(y - exact[1]) <= 0.5 + 1e-9
    assert (right[420], down[420]) == (4, 7)  # of 105 ms; 3.5 rounds to the even number
    assert nmnist.motion(np.array([10**6]))[0] == 0  # after the last one


def test_a_still_picture_is_still_again_once_stabilised() -> None:
    """Events of one point of the picture, where the camera's motion puts it."""
    time = np.arange(1_000, 315_000, 1_000)
    right, down = nmnist.motion(time)
    points = list(zip((10 + right).tolist(), (12 + down).tolist(), [1] * len(time), time.tolist(), strict=True))
    still = spiking(binning(steps=320, stabilise=True).encoded(event_bytes(points)).spikes)
    assert {channel for _, channel in still} == {34 * 34 + 12 * 34 + 10}
    assert len(still) == len(time)
    assert len({channel for _, channel in spiking(binning(steps=320).encoded(event_bytes(points)).spikes)}) > 10
    # What the compensation moves out of the picture is left out.
    assert not binning(steps=320, stabilise=True).encoded(event_bytes([(0, 0, 0, 100_000)])).spikes.any()


# ---- files and archives ---------------------------------------------------------------------------------------------


def test_files_are_read_digit_by_digit(tmp_path: Path) -> None:
    nmnist_tree(tmp_path)
    corpus = load(tmp_path)
    assert (corpus.kind, corpus.shape, corpus.image, corpus.channels, corpus.steps) == (
        *("spikes", (2, 34, 34), (2, 34, 34), 2312, 320),
    )
    assert corpus.train.labels.tolist() == [digit for digit in range(10) for _ in range(2)]
    assert corpus.test.labels.tolist() == list(range(10))
    samples = corpus.train.samples[np.array([5, 0])]
    assert samples.dtype == np.int64
    assert np.array_equal(samples[0], binning(steps=320).encoded(moving_digit(2, 1)).spikes)
    assert np.array_equal(samples[1], binning(steps=320).encoded(moving_digit(0, 0)).spikes)
    assert corpus.notes == ("train: 20 of 60,000 recordings are there", "test: 10 of 10,000 recordings are there")
    merged = load(tmp_path, polarity="merged")
    assert (merged.image, merged.train.samples.shape) == ((1, 34, 34), (20, 320, 19))


def test_archives_hold_the_same_recordings(tmp_path: Path) -> None:
    nmnist_tree(tmp_path / "files")
    nmnist_tree(tmp_path / "packed", packed=True)
    assert load(tmp_path / "packed").digest == load(tmp_path / "files").digest
    (tmp_path / "files/nmnist").rename(tmp_path / "files/N-MNIST")
    assert len(load(tmp_path / "files").train) == 20


def test_threads_and_options_and_contents_in_the_digest(tmp_path: Path) -> None:
    home = nmnist_tree(tmp_path)
    digest = load(tmp_path).digest
    parallel.set_threads(3)
    assert load(tmp_path).digest == digest
    assert load(tmp_path, stabilise=True).digest != digest
    (home / "Test/9/00030.bin").write_bytes(moving_digit(9, 7))
    assert load(tmp_path).digest != digest


def values(root: Path, outputs: Path, **options: Any) -> dict[str, Any]:
    settings = {"name": "nmnist", "root": str(root), "download": False, "validation": 0, **options}
    return {"seed": 0, "outputs": str(outputs), "data": settings, "encoder": {"name": "stored", "steps": None}}


def test_spikes_are_stored_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    home = nmnist_tree(tmp_path)
    parallel.set_threads(2)
    first = build.load(values(tmp_path, tmp_path / "out")).dataset
    assert "encoding nmnist: 30 samples" in capsys.readouterr().err
    plain = load(tmp_path)
    assert first.digest == plain.digest
    for part in ("train", "test"):
        stored, read = getattr(first, part), getattr(plain, part)
        assert np.array_equal(stored.samples[:], read.samples[:])
    monkeypatch.setattr(nmnist.Binning, "encoded", lambda *_: pytest.fail("read again"))
    again = build.load(values(tmp_path, tmp_path / "out")).dataset
    assert (again.digest, capsys.readouterr().err) == (first.digest, "")
    monkeypatch.undo()
    (home / "Train/3/00007.bin").write_bytes(moving_digit(3, 9) * 2)  # another size: made anew
    assert build.load(values(tmp_path, tmp_path / "out")).dataset.digest != first.digest
    assert len(list((tmp_path / "out/cache").glob("*.spikes"))) == 2


def test_late_events_and_silent_recordings_are_counted(tmp_path: Path, capsys: Any) -> None:
    """Step 0 has none and 10 ms a step, so an event at t falls into step t // 10 ms + 1."""
    home = nmnist_tree(tmp_path)
    (home / "Train/0/00001.bin").write_bytes(event_bytes([(1, 1, 0, 89_999), (1, 1, 0, 90_000), (2, 2, 1, 200_000)]))
    (home / "Test/9/00030.bin").write_bytes(event_bytes([(1, 1, 0, 90_000)]))
    for path in home.rglob("*.bin"):
        if path.name not in ("00001.bin", "00030.bin"):
            path.write_bytes(event_bytes([(1, 1, 0, 5_000)]))
    cut = "3 events of 2 of 30 recordings come after the last step (data.steps=10) and are left out"
    silent = f"1 of 30 samples have no input spike ({home / 'Test/9/00030.bin'})"
    for encoding in (True, False):  # then from the store
        dataset = build.load(values(tmp_path, tmp_path / "out", bin_ms=10.0, steps=10)).dataset
        assert [note.partition(";")[0] for note in dataset.notes[2:]] == [cut, silent]
        assert ("encoding nmnist" in capsys.readouterr().err) == encoding
    words = ["data", "verify", "nmnist", "data.bin_ms=10", "data.steps=10", "--root", str(tmp_path)]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert f"note: {cut}; `snnrun data stats`" in out
    assert f"note: {silent}; `snnrun data show`" in out
    assert cli.main(["data", "verify", "nmnist", "--root", str(tmp_path)]) == 0
    assert "come after the last step" not in capsys.readouterr().out


# ---- faults ---------------------------------------------------------------------------------------------------------

FAULTS = {
    b"": "it is empty; get it anew",
    b"1234567": "it is cut short: 7 bytes are no whole number of events of 5",
    event_bytes([(1, 1, 0, 5), (40, 2, 0, 9)]): "event 1 lies at column 40, row 2, outside the 34 x 34 pixels",
}


def test_every_damaged_file_is_named_with_the_remedy(tmp_path: Path, capsys: Any) -> None:
    home = nmnist_tree(tmp_path)
    paths = [home / "Train/1/00003.bin", home / "Train/8/00017.bin", home / "Test/4/00025.bin"]
    for path, content in zip(paths, FAULTS, strict=True):
        path.write_bytes(content)
    with pytest.raises(SnnrunError) as error:
        build.load(values(tmp_path, tmp_path / "out"))
    for message in str(error.value), failure(tmp_path):
        assert "data=nmnist: 3 files cannot be used" in message
        for path, words in zip(paths, FAULTS.values(), strict=True):
            assert f"{path}: {words}" in message
        assert message.count(f"get it anew from {nmnist.SOURCE} or remove it") == 3
    assert not list((tmp_path / "out").rglob("*.spikes"))
    assert cli.main(["data", "verify", "nmnist", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("fault: ") == 3
    assert out.endswith("3 faults\n")


def test_what_is_no_recording_is_ignored_and_told(tmp_path: Path) -> None:
    home = nmnist_tree(tmp_path)
    (home / "Train/1/.DS_Store").write_bytes(b"")
    (home / "Train/1/readme.txt").write_text("x")
    (home / "Train/ten").mkdir()
    assert "train: 3 files that are no recordings are ignored (1/.DS_Store, 1/readme.txt, ten)" in load(tmp_path).notes
    for path in (home / "Test/9").iterdir():
        path.unlink()
    assert "test: there is nothing of digits 9" in load(tmp_path).notes


def test_an_archive_that_is_damaged(tmp_path: Path) -> None:
    home = nmnist_tree(tmp_path, packed=True)
    content = bytearray((home / "Train.zip").read_bytes())
    with zipfile.ZipFile(home / "Train.zip") as archive:
        start = archive.getinfo("Train/4/00009.bin").header_offset
    content[start + 60] ^= 255
    (home / "Train.zip").write_bytes(content)
    message = failure(tmp_path)
    assert f"{home / 'Train.zip'}/Train/4/00009.bin: " in message
    assert "get it anew from" in message
    (home / "Train.zip").write_bytes(content[: len(content) // 2])
    message = failure(tmp_path)
    assert f"{home / 'Train.zip'} is damaged or foreign" in message
    assert nmnist.PARTS[0].md5 in message
    with zipfile.ZipFile(home / "Train.zip", "w") as archive:
        archive.writestr("Train/readme.txt", "x")
    assert "has no file <digit>/<name>.bin" in failure(tmp_path)


def test_what_is_missing_is_told_with_every_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = failure(tmp_path)
    for words in ("Train.zip (md5 20959b8e626244a1b502305a9e6e2031)", "Test.zip", nmnist.SOURCE, "data.download=false"):
        assert words in message
    assert "data.root=FOLDER or the environment variable SNNRUN_DATA" in message
    gone = tuple(part._replace(address=f"file:///none/{part.archive}") for part in nmnist.PARTS)
    monkeypatch.setattr(nmnist, "PARTS", gone)
    message = failure(tmp_path, download=True)
    assert "file:///none/Train.zip: " in message
    assert "file:///none/Test.zip: " in message


def test_archives_are_downloaded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    host = nmnist_tree(tmp_path / "host", packed=True)
    there = {part.archive: (host / part.archive).read_bytes() for part in nmnist.PARTS}
    parts = tuple(
        part._replace(address=f"file://{host}/{part.archive}", md5=hashlib.md5(there[part.archive]).hexdigest())
        for part in nmnist.PARTS
    )
    monkeypatch.setattr(nmnist, "PARTS", parts)
    assert len(load(tmp_path, download=True).train) == 20
    assert (tmp_path / "nmnist/Test.zip").read_bytes() == there["Test.zip"]
    assert "downloading" in capsys.readouterr().err
    (tmp_path / "nmnist/Test.zip").unlink()
    monkeypatch.setattr(nmnist, "PARTS", (parts[0], parts[1]._replace(md5="0" * 32)))
    message = failure(tmp_path, download=True)
    assert "what it sends is another file (md5 " in message
    assert "Train.zip" not in message
    assert not (tmp_path / "nmnist/Test.zip").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bin_ms": 0.0}, "data.bin_ms: 0 is out of range. Allowed: at least 0.001"),
        ({"bin_ms": float("nan")}, "data.bin_ms: nan"),
        ({"steps": 1}, "data.steps: 1 is out of range. Allowed: at least 2"),
        ({"polarity": "both"}, "data.polarity: 'both' is not allowed. Allowed: kept, merged"),
        ({"rotation": 1.0}, "data.rotation: only images can be augmented"),
    ],
)
def test_values_out_of_range(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    nmnist_tree(tmp_path, train=1)
    assert words in failure(tmp_path, UsageError, **options)


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_verify_and_prepare_and_list(tmp_path: Path, capsys: Any) -> None:
    nmnist_tree(tmp_path)
    assert cli.main(["data", "verify", "nmnist", "--root", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["train"]["samples"], report["channels"], report["steps"]) == (20, 2312, 320)
    counts = [np.bitwise_count(load(tmp_path).train.samples[k : k + 1].view(np.uint64)).sum() for k in range(20)]
    assert report["spikes"]["least"] <= min(counts)
    assert report["digest"] == load(tmp_path).digest
    assert cli.main(["data", "prepare", "nmnist", f"outputs={tmp_path / 'out'}", "--root", str(tmp_path)]) == 0
    assert report["digest"] in capsys.readouterr().out
    assert cli.main(["data", "list", "--root", str(tmp_path)]) == 0
    assert "nmnist        found, 20 to train, 10 to test (papers: 60,000 to train" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("model", "network"), [("hm2bp", "12"), ("stbp", "4C5s2-P2-12")])
def test_a_run_of_two_batches(tmp_path: Path, model: str, network: str, capsys: Any) -> None:
    nmnist_tree(tmp_path)
    options = ["tracking=none", f"outputs={tmp_path / 'out'}", "hardware=cpu", "hardware.kernels=reference"]
    options += ["data.bin_ms=10", "data.steps=32", "data.validation=0", "train.epochs=1", "train.batch_size=10"]
    shape = [f"model={model}", f"model.network={network}", "model.v_th=1"]
    assert cli.main(["train", "data=nmnist", f"data.root={tmp_path}", *shape, *options]) == 0
    assert "test, last epoch" in capsys.readouterr().out
