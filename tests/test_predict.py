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
from corpora import events_file, fsdd_tree, nmnist_tree, record, ti46_tree
from PIL import Image

from snnrun import cli, data, encoders, kernels
from snnrun.commands import evaluate, predict
from snnrun.errors import SnnrunError, UsageError
from snnrun.record.description import Description
from snnrun.run import build, samples, trained
from snnrun.train import evaluation

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
    labels = build.load(values).dataset.test.labels
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


@pytest.mark.figures
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
    assert "--top 0: a whole number from 1 up" in fails(capsys, run, "test:0", "--top", "0")[1]


# ---- images --------------------------------------------------------------------------------------------------------


def test_an_image_of_the_corpus_comes_back_as_it_is(run: Path, tmp_path: Path) -> None:
    pixels = build.load(trained_runs.values("strsbp")).dataset.test.samples[7].reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "seven.png")
    [prediction] = predict.predict(str(run), [str(tmp_path / "seven.png")])
    assert prediction.label is None
    assert prediction.layers["input"].shape == (60, 64)
    brightness = np.corrcoef(prediction.layers["input"].sum(axis=0), pixels.ravel())[0, 1]
    assert brightness > 0.9


def test_a_wide_image_is_filled_up_for_a_corpus_without_files(run: Path, tmp_path: Path) -> None:
    wide = np.full((4, 8), 255, np.uint8)
    wide[:, :4] = 0
    Image.fromarray(wide).save(tmp_path / "wide.png")
    [prediction] = predict.predict(str(run), [str(tmp_path / "wide.png")])
    fired = prediction.layers["input"].any(axis=0).reshape(8, 8)
    assert fired[2:6, 4:].all()
    assert fired.sum() == 16
    assert prediction.notes[0] == "its 4 x 8 pixels are filled up to the proportions of 8 x 8"
    Image.fromarray(255 - wide).save(tmp_path / "ink.png")  # what it is filled up with is not inverted
    [inverted] = predict.predict(str(run), [str(tmp_path / "ink.png")], invert=True)
    assert (inverted.layers["input"] == prediction.layers["input"]).all()


def test_an_image_of_fewer_bits_in_sixteen_is_told(run: Path, tmp_path: Path) -> None:
    deep = np.full((8, 8), 4080, np.uint16)
    deep[0, 0] = 0
    Image.fromarray(deep).save(tmp_path / "deep.png")
    [prediction] = predict.predict(str(run), [str(tmp_path / "deep.png")])
    assert "of 65,535 that 16 bits allow, its brightest pixel is 4,080: has it fewer bits?" in prediction.notes


def test_dark_on_bright_is_told_and_inverted(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "ink.png"
    pixels = build.load(trained_runs.values("strsbp")).dataset.test.samples[7].reshape(8, 8)
    Image.fromarray(255 - pixels).save(path)
    [plain] = predict.predict(str(run), [str(path)])
    assert "Try --invert" in plain.notes[0]
    [inverted] = predict.predict(str(run), [str(path)], invert=True)
    assert inverted.notes == ()
    Image.fromarray(pixels).save(path)
    [original] = predict.predict(str(run), [str(path)])
    assert (inverted.scores == original.scores).all()


def test_images_that_cannot_be_used(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "image.png"
    path.write_text("no image")
    assert fails(capsys, run, path)[0] == 1
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    assert "it is damaged or cut short" in fails(capsys, run, path)[1]
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tiff")
    assert "floating-point numbers, whose range is not known" in fails(capsys, run, tmp_path / "float.tiff")[1]
    about = Description("mine", "recorded", "", "image", (64,), ("a", "b"), 20, {})
    reader = samples.Reader({"seed": 0, "encoder": ENCODER, "data": {"name": "mine"}}, about)
    with pytest.raises(UsageError, match=r"samples of the shape \(64,\) are not made from image files"):
        reader.read(str(path))


# ---- a file is fed as its corpus feeds it ---------------------------------------------------------------------------

ENCODER = {"name": "poisson", "steps": 20}
STORED = {"name": "stored", "steps": None}
EAR = {"name": "lyon_bsa", "steps": 120, "sample_rate": 8000, "step_factor": 1.0}


def reader_for(values: dict[str, Any], kind: str, shape: tuple[int, ...], steps: int = 20, **more: Any) -> Any:
    about = Description(values["data"]["name"], "recorded", "", kind, shape, ("a", "b"), steps, {}, **more)
    return samples.Reader({"seed": 3, **values}, about)


def pictures_of_every_form(root: Path) -> None:
    """Wide, high, turned, transparent, of 16 bits, in a palette, grey, in colours; in two classes."""
    rng = np.random.default_rng(0)
    for name in "cat", "dog":
        (root / name).mkdir(parents=True)
        colours = rng.integers(0, 256, (9, 30, 4), dtype=np.uint8)
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.fromarray(colours).save(root / name / "transparent.png")
        Image.fromarray(colours[..., :3]).save(root / name / "turned.jpg", exif=turned)
        Image.fromarray(colours[..., :3]).quantize(16).save(root / name / "palette.gif", transparency=3)
        Image.fromarray(colours[..., 0].T.copy()).save(root / name / "high.bmp")
        Image.fromarray(rng.integers(0, 65536, (20, 12), dtype=np.uint16)).save(root / name / "deep.png")
        Image.fromarray(rng.integers(0, 256, (6, 5), dtype=np.uint8)).save(root / name / "same.pgm")


@pytest.mark.parametrize(
    "options",
    [
        {},  # as in the config of a run from before there was a choice
        {"fit": "stretch", "background": 0, "levels": None},
        {"fit": "pad", "background": 255, "levels": None, "colour": True},
        {"fit": "crop", "background": 90, "levels": [1000.0, 40000.0]},
    ],
)
def test_an_image_of_a_folder_is_fed_as_the_corpus_feeds_it(options: dict[str, Any], tmp_path: Path) -> None:
    pictures_of_every_form(tmp_path)
    own = {"rows": 6, "columns": 5, "colour": False, **options}
    corpus = data.DATASETS["image_folder"](tmp_path, False, **own)
    section = {"name": "image_folder", "root": str(tmp_path), "validation": 0.1, "test_fraction": 0.2, **own}
    reader = reader_for({"encoder": ENCODER, "data": section}, "image", corpus.shape, image=corpus.image)
    pixels = np.concatenate([corpus.train_samples, corpus.test_samples])
    assert len(pixels) == 12
    for name, sample in zip(corpus.names, pixels, strict=True):
        wanted = reader.encoder.encode(sample[None], np.zeros(1, np.int64), 0)
        found = reader.read(str(tmp_path / name))
        assert np.array_equal(found.inputs, wanted), name
        assert found.notes == ()


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (28, 28)), ("fashion_mnist", (28, 28)), ("digits", (8, 8)), ("cifar10", (3, 32, 32))]
)
@pytest.mark.parametrize("known", [True, False])  # whether the run's description has the image, as older ones have not
def test_an_image_made_of_a_sample_comes_back_bit_for_bit(
    name: str, shape: tuple[int, ...], known: bool, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels if len(shape) == 2 else pixels.transpose(1, 2, 0)).save(tmp_path / "a.png")
    image = shape if len(shape) == 3 else (1, *shape)
    reader = reader_for({"encoder": ENCODER, "data": {"name": name}}, "image", shape, image=image if known else None)
    wanted = reader.encoder.encode(pixels.reshape(1, -1), np.zeros(1, np.int64), 0)
    assert np.array_equal(reader.read(str(tmp_path / "a.png")).inputs, wanted)


def audio_tree(root: Path) -> None:
    for name in "yes", "no":
        for number in range(3):
            record(root / name / f"{number}.wav", rate=8000, form="WAV")
    record(root / "no" / "9.flac", rate=11_025, form="FLAC")


@pytest.mark.parametrize(
    ("name", "tree"), [("fsdd", fsdd_tree), ("ti46_alpha", ti46_tree), ("audio_folder", audio_tree)]
)
def test_a_recording_is_fed_as_the_corpus_feeds_it(name: str, tree: Any, tmp_path: Path) -> None:
    tree(tmp_path / "ti46" if name == "ti46_alpha" else tmp_path)
    paths = data.DATASETS[name](tmp_path, False).recordings
    for number, path in enumerate(paths):
        form, rate = soundfile.info(path).format, soundfile.info(path).samplerate
        wave = 0.4 * np.sin(2 * np.pi * (200 + 30 * number) * np.arange(rate // 8) / rate)
        soundfile.write(path, wave, rate, format=form, subtype="PCM_16")
    section = {"name": name, "root": str(tmp_path), "validation": 0, "download": False}
    values = {"seed": 3, "outputs": str(tmp_path / "out"), "encoder": EAR, "data": section}
    corpus = build.load(values).dataset
    spikes = np.concatenate([corpus.train.samples[:], corpus.test.samples[:]])
    reader = reader_for(values, "spikes", corpus.shape, 120)
    assert spikes.any()
    for path, sample in list(zip(paths, spikes, strict=True))[:: max(1, len(paths) // 8)]:
        assert np.array_equal(reader.read(str(path)).inputs[0], sample), path


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, None), ({"bin_ms": 2.0, "steps": 100, "polarity": "merged", "stabilise": True}, 80)],
)
def test_a_file_of_events_is_fed_as_the_corpus_feeds_it(
    options: dict[str, Any], steps: int | None, tmp_path: Path
) -> None:
    nmnist_tree(tmp_path)
    section = {"name": "nmnist", "root": str(tmp_path), "validation": 0, "download": False, **options}
    values = {"seed": 3, "outputs": str(tmp_path / "out"), "encoder": STORED | {"steps": steps}, "data": section}
    corpus, encoder = build.load(values)
    names = data.DATASETS["nmnist"](tmp_path, False, **options).names
    spikes = encoder.encode(corpus.test.samples[:], corpus.test.index, 0)
    reader = reader_for(values, "spikes", corpus.shape, spikes.shape[1], image=corpus.image)
    for path, sample in zip(names[-10:], spikes, strict=True):
        found = reader.read(path)
        assert np.array_equal(found.inputs[0], sample)
        late = ["of its events come after the last step and are left out"] if options else []
        assert [note.partition(" ")[2] for note in found.notes] == late
    (tmp_path / "a.bin").write_bytes(b"no event")
    with pytest.raises(SnnrunError, match=r"a.bin: it is cut short: 8 bytes are no whole number of events"):
        reader.read(str(tmp_path / "a.bin"))


@pytest.mark.parametrize("name", ["ntidigits", "utterances"])
def test_spikes_of_a_sample_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    events_file(tmp_path)
    options = {"classes": 2, "samples": 1, "steps": 50} if name == "utterances" else {"steps": 700}
    corpus = data.load(name, root=tmp_path, validation=0, **options)
    reader = reader_for({"encoder": STORED, "data": {"name": name}}, "spikes", corpus.shape, corpus.steps)
    for sample in corpus.train.samples:
        dense = kernels.unpack(torch.from_numpy(sample[None]), corpus.channels)[0].numpy()
        np.save(tmp_path / "a.npy", dense)
        assert np.array_equal(reader.read(str(tmp_path / "a.npy")).inputs[0], sample)


# ---- spikes, indices -----------------------------------------------------------------------------------------------


def test_spikes_go_in_as_they_are_and_are_cut_or_filled_up(run: Path, tmp_path: Path) -> None:
    spikes = np.random.default_rng(0).random((60, 64)) < 0.2
    for name, array in (("same", spikes), ("long", np.vstack([spikes, spikes])), ("float", spikes.astype(float))):
        file = tmp_path / f"{name}.npy"
        np.save(file, array)
        [prediction] = predict.predict(str(run), [str(file)])
        assert (prediction.layers["input"] == spikes).all()
        cut = ("its 120 steps are cut: the run has 60", f"to look at it: snnrun data show digits --file {file}")
        assert prediction.notes == (cut if name == "long" else ())
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
        assert (sample.inputs[0] == recordings_reader.encoder.encode_recording(read, rate)).all()
        spikes = kernels.unpack(torch.from_numpy(sample.inputs), recordings_reader.about.channels)
        assert spikes.shape == (1, 120, recordings_reader.about.channels)
        assert spikes.any()
        assert sample.notes == ("it is cut: the first 0.3 s of its 1 s are heard, 120 steps",)


def test_recordings_that_cannot_be_used(recordings_reader: samples.Reader, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.zeros(1000), 8000)
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
    assert (reader.read(str(tmp_path / "a.npy")).inputs == -1).all()


def test_the_layers_of_one_sample(run: Path) -> None:
    own = trained.load(run, trained_runs.values("strsbp"))
    bits = kernels.pack(torch.ones(1, 60, 64))
    layers = evaluation.rasters(own.network, bits, own.network(bits))
    assert [spikes.shape for spikes in layers.values()] == [(60, 64), (60, 30), (60, 12), (60, 10)]
    assert (layers["output"].sum(axis=0) == own.network(bits).output.counts[0].numpy()).all()


def test_options_may_stand_between_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run), "test:0", "--top", "1", "test:1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert cli.main(["evaluate", str(run), "--split", "validation", "encoder.steps=20"]) == 0
    assert "digits, validation: " in capsys.readouterr().out
