from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import events_file, fsdd_tree, picture_tree, record, ti46_tree

from snnrun import cli, data
from snnrun.data import catalogue, events, folders


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun data`: exit code, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        code = cli.main(["data", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def test_the_catalogue_has_every_corpus() -> None:
    assert list(catalogue.CATALOGUE) == list(data.DATASETS)


# ---- list -----------------------------------------------------------------------------------------------------------


def test_list_of_what_is_there_and_what_is_not(run: Any, tmp_path: Path) -> None:
    ti46_tree(tmp_path / "ti46")
    fsdd_tree(tmp_path)
    code, out, _ = run("list", "--root", tmp_path)
    assert code == 0
    assert "ti46_alpha    found, 12 to train, 12 to test (papers: 4,142 to train, 6,628 to test)" in out
    assert "train: 12 of 4,160 tokens are there, and the papers had 4,142" in out
    assert "ti46_digits   missing (papers: 1,594 to train, 2,542 to test)" in out
    assert "licensed by the Linguistic Data Consortium" in out
    assert "`snnrun data verify ti46_digits` says what to do" in out
    assert "fsdd          found, 120 to train, 120 to test" in out
    assert "mnist         missing" in out
    assert "digits        at hand" in out
    assert f"looked for in {tmp_path / 'ntidigits' / 'n-tidigits.hdf5'}" in out


def test_list_for_programs(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ti46_tree(tmp_path / "ti46")
    record(place / "train" / "f1" / "0?f1set0.wav")
    (tmp_path / "ti46" / folders.MARKER).touch()
    monkeypatch.setenv("SNNRUN_DATA", str(tmp_path))
    code, out, _ = run("list", "--json")
    assert code == 0
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert list(entries) == list(data.DATASETS)
    alpha = entries["ti46_alpha"]
    assert (alpha["state"], alpha["origin"], alpha["train"], alpha["papers"]) == (
        "damaged",
        "surrogate",
        12,
        [4142, 6628],
    )
    assert "no word '0?'" in alpha["message"]
    assert entries["fsdd"]["state"] == "missing"
    assert "git clone" in entries["fsdd"]["message"]


def test_list_of_damaged_corpora(run: Any, tmp_path: Path) -> None:
    events_file(tmp_path).write_bytes(b"")
    _, out, _ = run("list", "--root", tmp_path)
    assert "ntidigits     damaged (papers" in out
    assert "it is no HDF5 file; replace it" in out


def test_a_surrogate_is_never_listed_without_the_word(run: Any, tmp_path: Path) -> None:
    ti46_tree(tmp_path / "ti46")
    (tmp_path / "ti46" / folders.MARKER).touch()
    assert "ti46_alpha    found, surrogate, 12 to train" in run("list", "--root", tmp_path)[1]
    assert "samples: surrogate, 12 to train" in run("verify", "ti46_alpha", "--root", tmp_path)[1]


# ---- verify ---------------------------------------------------------------------------------------------------------


def test_verify_a_whole_corpus(run: Any, tmp_path: Path) -> None:
    ti46_tree(tmp_path / "ti46")
    code, out, _ = run("verify", "ti46_alpha", "--root", tmp_path)
    assert code == 0
    assert f"ti46_alpha in {tmp_path}" in out
    assert "samples: 12 to train, 12 to test (papers: 4,142 to train, 6,628 to test)" in out
    assert "classes of train: 26, 0 to 4 samples each" in out
    assert "sample rate: 12,500 Hz (24 files)" in out
    assert "duration: 0.00 to 0.00 s" in out
    assert f"digest: {data.load('ti46_alpha', root=tmp_path).digest}" in out
    assert "note: train: 12 of 4,160 tokens are there" in out
    assert out.endswith("no fault: every file can be used\n")


def test_verify_tells_every_fault_with_its_remedy(run: Any, tmp_path: Path) -> None:
    place = ti46_tree(tmp_path / "ti46")
    files = sorted(place.rglob("*.wav"))
    for path in files[:7]:
        path.write_bytes(path.read_bytes()[:-10])
    files[7].write_bytes(b"")
    files[8].write_text("not audio")
    record(files[9], rate=16_000)
    soundfile.write(files[10], np.zeros((20, 2)), 12_500, format="NIST", subtype="PCM_16")
    soundfile.write(files[11], np.full(20, np.nan), 12_500, subtype="FLOAT")
    record(place / "train" / "f1" / "0?f1set0.wav")
    code, out, _ = run("verify", "ti46_alpha", "--root", tmp_path)
    assert code == 1
    faults = [line for line in out.splitlines() if line.startswith("fault: ")]
    assert len(faults) == 13
    assert "digest" not in out
    for words in ("no word '0?'", "cut short", "it is empty", "no audio file", "16,000 Hz", "2 channels", "NaN"):
        assert any(words in fault for fault in faults), words
    assert out.endswith("13 faults\n")
    code, out, _ = run("verify", "ti46_alpha", "--root", tmp_path, "--json")
    assert code == 1
    report = json.loads(out)
    assert len(report["faults"]) == 13
    assert report["digest"] is None
    assert report["rates"] == {"12500": 12}


def test_verify_says_where_to_get_what_is_missing(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("verify", "ti46_digits", "--root", tmp_path)
    assert code == 1
    assert "fault: data=ti46_digits: there are no training recordings" in out
    assert "LDC93S9" in out
    assert out.endswith("1 fault\n")


def test_verify_events(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = events_file(tmp_path)
    code, out, _ = run("verify", "ntidigits", "--root", tmp_path)
    assert code == 0
    assert "spikes of a sample: 0 to 2, 1 on average, on 64 channels in 700 steps" in out
    assert f"note: {path} is not the published file (md5 {events.MD5})" in out
    monkeypatch.setattr(events, "published", lambda path: True)
    assert "published" not in run("verify", "ntidigits", "--root", tmp_path)[1]


def test_the_published_file_is_known_by_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert not events.published(tmp_path / "a")
    monkeypatch.setattr(events, "MD5", "900150983cd24fb0d6963f7d28e17f72")
    assert events.published(tmp_path / "a")


def test_verify_what_needs_no_files(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("verify", "digits", "--root", tmp_path, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["train"]["samples"], report["test"]["samples"], report["shape"]) == (1437, 360, [8, 8])
    assert report["digest"] == data.load("digits").digest


def test_spikes_are_counted_in_all_64_channels(run: Any, tmp_path: Path) -> None:
    events_file(
        tmp_path, {part: {f"man-aa-a-{n}": (list(range(64)), [0.01] * 64) for n in "z1"} for part in ("train", "test")}
    )
    assert "spikes of a sample: 64 to 64" in run("verify", "ntidigits", "--root", tmp_path)[1]


# ---- requests -------------------------------------------------------------------------------------------------------


def test_an_unknown_corpus_gets_the_nearest(run: Any) -> None:
    code, _, err = run("verify", "ti46_alfa")
    assert code == 2
    assert err.startswith("snnrun: ti46_alfa: no such corpus. Allowed: digits, mnist")
    assert err.endswith("Did you mean ti46_alpha?\n")
    assert run("list", "--root", "~nobody-of-this-name")[0] == 2


def test_an_override_may_stand_behind_an_option(run: Any, tmp_path: Path) -> None:
    picture_tree(tmp_path)
    for arguments in (["--root", tmp_path, "data.rows=6"], ["data.rows=6", "--root", tmp_path]):
        code, out, _ = run("verify", "image_folder", *arguments, "data.colour=true", "--json")
        assert code == 0
        assert json.loads(out)["shape"] == [3, 6, 32]


@pytest.mark.parametrize("arguments", [[], ["verify"], ["lst"], ["verify", "digits", "--sort"], ["list", "digits"]])
def test_argparse_refuses_the_rest(arguments: list[str], run: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
