"""`snnrun predict`: files become input spikes, these class scores; every wrong file is one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import trained_runs
from PIL import Image

from snnrun import build, cli, encoders, evaluate, kernels, predict, samples, trained
from snnrun.description import Description
from snnrun.errors import SnnrunError, UsageError

Runs = Callable[[str], Path]


@pytest.fixture
def run(digits_run: Runs) -> Path:
    return digits_run("strsbp")


def fails(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    code = cli.main(["predict", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("snnrun: ")
    assert err.count("\n") == 1
    return code, err


# ---- scores --------------------------------------------------------------------------------------------------------


def test_samples_of_the_corpus_are_taken_for_what_an_evaluation_takes_them_for(run: Path) -> None:
    values = trained_runs.values("strsbp")
    expected = evaluate.evaluate(run, values).firing.predicted
    found = predict.predict(str(run), [f"test:{k}" for k in range(12)])
    assert [prediction.predicted for prediction in found] == [str(k) for k in expected[:12]]
    labels = build.load(values).test.labels
    assert [prediction.label for prediction in found] == labels[:12].tolist()


def test_scores_are_counts_and_shares_of_the_output_spikes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run), "test:0", "validation:1", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["source"], second["source"]) == ("test:0", "validation:1")
    counts = [score["count"] for score in first["scores"]]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == first["spikes"]["output"] > 0
    assert [score["share"] for score in first["scores"]] == [count / sum(counts) for count in counts]
    assert {score["class"] for score in first["scores"]} == set("0123456789")
    assert first["predicted"] == first["scores"][0]["class"]
    assert set(first["spikes"]) == {"input", "hidden1", "hidden2", "output"}


def test_the_top_classes_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run), "test:0", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("test:0: ")
    assert lines[0].endswith(")")
    assert len(lines) == 3
    assert all("spikes" in line and line.endswith("%") for line in lines[1:])


def test_a_silent_network_says_so(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "silence.npy", np.zeros((60, 64), np.uint8))
    [prediction] = predict.predict(str(run), [str(tmp_path / "silence.npy")])
    assert prediction.predicted == "0"
    assert prediction.notes == ("no output neuron fired, which the first class stands for",)
    assert all(share == 0 for _, _, share in prediction.ranking())


def test_the_raster_of_the_output_and_of_every_layer(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heights = []
    for name, options in (("output.png", []), ("all.png", ["--layers"])):
        assert cli.main(["predict", str(run), "test:3", "--raster", str(tmp_path / name), *options]) == 0
        assert f"wrote {tmp_path / name}" in capsys.readouterr().err
        with Image.open(tmp_path / name) as figure:
            heights.append(figure.height)
    assert heights[0] < heights[1]


def test_options_that_do_not_go_together(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--raster x.png: one file ending in .png" in fails(capsys, run, "test:0", "test:1", "--raster", "x.png")[1]
    assert "--raster x.doc: one file ending in .png" in fails(capsys, run, "test:0", "--raster", "x.doc")[1]
    assert "--layers: it is about the figure" in fails(capsys, run, "test:0", "--layers")[1]
    assert "--top 0: a number from 1 up" in fails(capsys, run, "test:0", "--top", "0")[1]


# ---- images --------------------------------------------------------------------------------------------------------


def test_an_image_of_the_corpus_comes_back_as_it_is(run: Path, tmp_path: Path) -> None:
    pixels = build.load(trained_runs.values("strsbp")).test.samples[7].reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "seven.png")
    assert (samples.image(tmp_path / "seven.png", (8, 8)) == pixels).all()
    [prediction] = predict.predict(str(run), [str(tmp_path / "seven.png")])
    assert prediction.label is None
    assert prediction.layers["input"].shape == (60, 64)
    brightness = np.corrcoef(prediction.layers["input"].sum(axis=0), pixels.ravel())[0, 1]
    assert brightness > 0.9


def test_forms_of_images(tmp_path: Path) -> None:
    """A grey square on the left of a wide image: padded above and below, colours by ITU-R 601, transparency black."""
    path = tmp_path / "image.png"
    wide = np.zeros((4, 8), np.uint8)
    wide[:, :4] = 200
    Image.fromarray(wide).save(path)
    squared = samples.image(path, (8, 8))
    assert (squared[2:6] == wide).all()
    assert not squared[:2].any()
    assert not squared[6:].any()

    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(path)
    assert (samples.image(path, (8, 8)) == 76).all()  # 0.299 of 255
    planes = samples.image(path, (3, 8, 8))
    assert (planes[0] == 255).all()
    assert not planes[1:].any()

    Image.fromarray(np.dstack([red, np.zeros((8, 8), np.uint8)])).save(path)
    assert not samples.image(path, (8, 8)).any()

    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(path)
    assert (samples.image(path, (8, 8)) == 255).all()

    Image.fromarray(np.full((64, 64), 100, np.uint8)).save(path)
    assert (samples.image(path, (8, 8)) == 100).all()


def test_dark_on_bright_is_told_and_inverted(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "ink.png"
    pixels = build.load(trained_runs.values("strsbp")).test.samples[7].reshape(8, 8)
    Image.fromarray(255 - pixels).save(path)
    [plain] = predict.predict(str(run), [str(path)])
    assert "Try --invert" in plain.notes[0]
    [inverted] = predict.predict(str(run), [str(path)], invert=True)
    assert inverted.notes == ()
    Image.fromarray(pixels).save(path)
    [original] = predict.predict(str(run), [str(path)])
    assert (inverted.counts == original.counts).all()


def test_images_that_cannot_be_used(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "image.png"
    path.write_text("no image")
    assert fails(capsys, run, path)[0] == 1
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    assert "no image that Pillow reads, or a damaged one" in fails(capsys, run, path)[1]
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tiff")
    assert "mode F has no fixed range" in fails(capsys, run, tmp_path / "float.tiff")[1]
    with pytest.raises(UsageError, match=r"samples of the shape \(64,\) are not made from image files"):
        samples.image(path, (64,))


# ---- spikes, indices -----------------------------------------------------------------------------------------------


def test_spikes_go_in_as_they_are_and_are_cut_or_filled_up(run: Path, tmp_path: Path) -> None:
    spikes = np.random.default_rng(0).random((60, 64)) < 0.2
    for name, array in (("same", spikes), ("long", np.vstack([spikes, spikes])), ("float", spikes.astype(float))):
        np.save(tmp_path / f"{name}.npy", array)
        [prediction] = predict.predict(str(run), [str(tmp_path / f"{name}.npy")])
        assert (prediction.layers["input"] == spikes).all()
        assert prediction.notes == (("its 120 steps are cut: the run has 60",) if name == "long" else ())
    np.save(tmp_path / "short.npy", spikes[:10])
    [prediction] = predict.predict(str(run), [str(tmp_path / "short.npy")])
    assert (prediction.layers["input"][:10] == spikes[:10]).all()
    assert not prediction.layers["input"][10:].any()
    assert prediction.notes[0] == "its 10 steps are followed by silence: the run has 60"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((60, 63)), r"it is float64 \(60, 63\); wanted is an array of 0 and 1, \(steps, 64\)"),
        (np.zeros(64), "wanted is an array of 0 and 1"),
        (np.full((60, 64), 2), "it has values other than 0 and 1"),
        (np.full((60, 64), np.nan), "it has values other than 0 and 1"),
        (np.full((60, 64), "1"), "wanted is an array of 0 and 1"),
    ],
)
def test_arrays_that_are_no_spikes(array: np.ndarray[Any, Any], message: str, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UsageError, match=message):
        predict.predict(str(run), [str(tmp_path / "a.npy")])


def test_damaged_arrays(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"pickle": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SnnrunError, match="it is damaged"):
        predict.predict(str(run), [str(path)])
    np.save(path, np.zeros((60, 64)))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SnnrunError, match="it is damaged"):
        predict.predict(str(run), [str(path)])


def test_what_is_not_there(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.png: there is no such file. Give files, or samples of" in fails(capsys, run, "nowhere.png")[1]
    assert "this is a folder" in fails(capsys, run, tmp_path)[1]
    code, err = fails(capsys, run, "test:360")
    assert code == 2
    assert "test:360: no such sample of data=digits; they are numbered from 0 to 359" in err
    assert "no run of this folder, name or MLflow id" in fails(capsys, "unknown", "test:0", "--outputs", tmp_path)[1]


# ---- recordings ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recordings_reader() -> samples.Reader:
    """For a network on recordings; the encoder's smallest ear."""
    encoder = {"name": "lyon_bsa", "steps": 120, "sample_rate": 8000, "step_factor": 1.0}
    channels = encoders.build(seed=0, **encoder).channels
    about = Description("fsdd", "recorded", "", "spikes", (channels,), ("a", "b"), 120, {})
    return samples.Reader({"seed": 0, "encoder": encoder}, about)


def test_a_recording_goes_through_the_runs_ear(recordings_reader: samples.Reader, tmp_path: Path) -> None:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    for suffix in ("wav", "flac"):
        path = tmp_path / f"tone.{suffix}"
        soundfile.write(path, wave, 8000)
        sample = recordings_reader.read(str(path))
        read, rate = soundfile.read(path)
        assert (sample.spikes[0] == recordings_reader.encoder.encode_recording(read, rate)).all()
        spikes = kernels.unpack(torch.from_numpy(sample.spikes), recordings_reader.about.channels)
        assert spikes.shape == (1, 120, recordings_reader.about.channels)
        assert spikes.any()
        assert sample.notes == ()


def test_recordings_that_cannot_be_used(recordings_reader: samples.Reader, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.zeros(8000), 8000)
    assert recordings_reader.read(str(path)).notes[0].startswith("it has no input spike")
    soundfile.write(path, np.zeros((800, 2)), 8000)
    with pytest.raises(SnnrunError, match="it has 2 channels and one is wanted"):
        recordings_reader.read(str(path))
    path.write_text("no sound")
    with pytest.raises(SnnrunError, match="it is no audio file"):
        recordings_reader.read(str(path))


def test_a_run_on_stored_spikes_takes_arrays_alone(tmp_path: Path) -> None:
    about = Description("ntidigits", "recorded", "", "spikes", (64,), ("a", "b"), 50, {})
    reader = samples.Reader({"seed": 0, "encoder": {"name": "stored", "steps": None}}, about)
    (tmp_path / "events.txt").write_text("0 1 2")
    with pytest.raises(UsageError, match=r"its files are arrays \(.npy\) of 0 and 1, \(steps, 64\)"):
        reader.read(str(tmp_path / "events.txt"))
    np.save(tmp_path / "a.npy", np.ones((50, 64), bool))
    assert (reader.read(str(tmp_path / "a.npy")).spikes == -1).all()


def test_the_layers_of_one_sample(run: Path) -> None:
    own = trained.load(run, trained_runs.values("strsbp"))
    bits = kernels.pack(torch.ones(1, 60, 64))
    layers = trained.rasters(own.network, bits.numpy(), torch.device("cpu"))
    assert [spikes.shape for spikes in layers.values()] == [(60, 64), (60, 30), (60, 12), (60, 10)]
    assert (layers["output"].sum(axis=0) == own.network(bits).output.counts[0].numpy()).all()


def test_options_may_stand_between_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run), "test:0", "--top", "1", "test:1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert cli.main(["evaluate", str(run), "--split", "validation", "encoder.steps=20"]) == 0
    assert "digits, validation: " in capsys.readouterr().out
