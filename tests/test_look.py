"""`snnrun data show` and `snnrun data stats`, and what they draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import events_file, fsdd_tree, nmnist_tree, picture_tree
from PIL import Image

from snnrun import cli, data, encoders
from snnrun.config.compose import compose
from snnrun.data.corpus import Corpus, unseen
from snnrun.display import terminal_plots
from snnrun.run import build, census
from snnrun.run.look import Samples


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun data`: exit code, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        code = cli.main(["data", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def chirps(root: Path) -> Path:
    """Recordings of 0.3 s in two classes, and one of 2 s; returns the folder."""
    for name, hertz in ("low", 300), ("high", 2500):
        for number in range(5):
            seconds = 2.0 if (name, number) == ("high", 4) else 0.3
            time = np.arange(int(seconds * 12_500)) / 12_500
            path = root / name / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.4 * np.sin(2 * np.pi * (hertz + 10 * number) * time), 12_500, subtype="PCM_16")
    return root


def values_of(name: str, *overrides: str) -> dict[str, Any]:
    return compose([f"data={name}", *overrides])


def in_a_run(values: dict[str, Any], part: str, number: int) -> np.ndarray:
    """Spikes (T, N) of a sample as the evaluation of a run gets them."""
    dataset, encoder = build.load(values)
    split, at = getattr(dataset, part), np.array([number])
    bits = encoder.encode(split.samples[at], split.index[at], 0)
    return np.unpackbits(bits[0].view(np.uint8), axis=1, bitorder="little")[:, : dataset.channels].astype(bool)


# ---- one sample -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("name", ["digits", "audio_folder", "nmnist", "ntidigits", "image_folder"])
def test_a_sample_is_what_a_run_gets(name: str, part: str, tmp_path: Path) -> None:
    make = {"audio_folder": chirps, "nmnist": nmnist_tree, "ntidigits": events_file, "image_folder": picture_tree}
    make.get(name, str)(tmp_path / "data")  # type: ignore[operator]
    more = {"audio_folder": ["encoder.steps=200"], "nmnist": ["data.bin_ms=10", "data.steps=32"]}.get(name, [])
    place = [f"outputs={tmp_path}", "data.validation=0.25", "seed=3"]
    place += [] if name == "digits" else [f"data.root={tmp_path / 'data'}"]
    values = values_of(name, *more, *place)
    look = Samples(values).read(part, 0)
    dataset = build.load(values).dataset
    assert np.array_equal(look.input, in_a_run(values, part, 0))
    assert look.label == dataset.classes[getattr(dataset, part).labels[0]]
    assert (look.wave is not None) == (name == "audio_folder")
    assert (look.picture is not None) == (name in ("digits", "nmnist", "image_folder"))


def test_nothing_but_the_sample_is_encoded(run: Any, tmp_path: Path) -> None:
    chirps(tmp_path / "data")
    code, out, _ = run("show", "audio_folder", "--root", tmp_path / "data", f"outputs={tmp_path / 'out'}")
    assert code == 0
    assert "train:0" in out
    assert not (tmp_path / "out").exists()


def test_the_facts(run: Any, tmp_path: Path) -> None:
    trains = {"man-ae-a-z": ([3, 3, 5], [0.0, 0.016, 0.8]), "man-ae-b-1": ([], [])}
    events_file(tmp_path, {"train": trains, "test": trains})
    arguments = ["show", "ntidigits", "--root", tmp_path, "data.validation=0", "data.steps=700"]
    code, out, _ = run(*arguments, "--json", "--class", "z")
    assert code == 0
    [facts] = json.loads(out)
    assert (facts["source"], facts["file"], facts["label"]) == ("train:0", "man-ae-a-z", "z")
    assert (facts["spikes"], facts["first_step"], facts["last_step"], facts["steps"]) == (3, 0, 500, 700)
    assert facts["rate_hz"] == pytest.approx(3 / 64 / 1.12)
    assert facts["silent_channels"] == [k for k in range(64) if k not in (3, 5)]
    out = run(*arguments, "--class", "z")[1]
    assert "700 of 1.6 ms: 1.12 s" in out
    assert "64, 62 of them silent (0-2, 4, 6-63)" in out
    assert "3: 0.0419 Hz a channel; the first at step 0, the last at step 500 (800 ms)" in out
    out = run(*arguments, "--class", "1")[1]
    assert "note: it has no input spike" in out


def test_samples_of_a_class_are_numbered_among_themselves(run: Any) -> None:
    labels = data.load("digits").train.labels
    _, out, _ = run("show", "digits", "--class", "7", "--sample", "2", "--grid", "3", "--json")
    entries = json.loads(out)
    assert [entry["source"] for entry in entries] == [f"train:{k}" for k in np.flatnonzero(labels == 7)[2:5]]
    assert {entry["label"] for entry in entries} == {"7"}
    assert len(json.loads(run("show", "digits", "--split", "test", "--sample", "358", "--grid", "9", "--json")[1])) == 2


def test_a_training_epoch_is_shown_with_its_augmentation() -> None:
    values = values_of("utterances", "data.samples=3", "data.classes=2", "data.steps=80", "data.time_shift=20")
    samples, (dataset, _) = Samples(values), build.load(values)
    at = np.array([1])
    assert dataset.augment is not None
    for epoch in (1, 2):
        bits = dataset.augment(dataset.train.samples[at], dataset.train.index[at], epoch)
        shown = np.unpackbits(bits[0].view(np.uint8), axis=1, bitorder="little")[:, :78].astype(bool)
        assert np.array_equal(samples.read("train", 1, epoch).input, shown)
    assert not np.array_equal(samples.read("train", 1, 1).input, samples.read("train", 1).input)


@pytest.mark.slow
def test_a_file_is_prepared_as_the_corpus_prepares_its_own(run: Any, tmp_path: Path) -> None:
    sounds, pictures = chirps(tmp_path / "sounds"), tmp_path / "pictures"
    picture_tree(pictures)
    own = values_of("audio_folder", f"data.root={sounds}", "data.validation=0")
    samples = Samples(own)
    first = samples.read("train", 0)
    assert np.array_equal(samples.read_file(Path(first.name)).input, first.input)
    code, out, _ = run("show", first.name)  # without a corpus, by its extension
    assert code == 0
    assert f"{int(first.input.sum()):,}: " in out
    out = run("show", sounds / "high" / "4.wav")[1]
    assert "note: it is cut: the first 1.12 s of its 2 s are heard" in out
    files = Samples(values_of("image_folder", f"data.root={pictures}", "data.validation=0"))
    assert files.read("train", 0).picture is not None
    code, out, _ = run("show", pictures / "cat" / "0.png")
    assert code == 0
    assert "1,024, " in out
    np.save(tmp_path / "spikes.npy", np.eye(30, 64, dtype=np.uint8))
    code, out, _ = run("show", "digits", "--file", tmp_path / "spikes.npy", "encoder.steps=40", "--json")
    assert json.loads(out)[0]["spikes"] == 30
    assert run("show", "digits", "--file", pictures / "cat" / "0.png", "--invert")[0] == 0


@pytest.mark.slow
@pytest.mark.figures
def test_the_figure_has_the_source_above_the_input(run: Any, tmp_path: Path) -> None:
    chirps(tmp_path / "data")
    out = tmp_path / "new" / "out.png"
    place = ["--root", tmp_path / "data", "data.validation=0"]
    code, _, err = run("show", "audio_folder", *place, "--out", out)
    assert (code, err) == (0, f"wrote {out}\n")
    with Image.open(out) as image:
        pixels = np.asarray(image.convert("L"))
    middle = pixels.shape[0] * 2 // 5
    for part in pixels[:middle], pixels[middle:]:
        assert (part[:, 100:-100] < 128).mean() > 0.001
    wide = tmp_path / "six.png"
    assert run("show", "digits", "--grid", "6", "--out", wide)[0] == 0
    with Image.open(wide) as image:
        assert image.size[0] > 1500


# ---- what cannot be shown -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_wrong_requests_are_one_line(run: Any, tmp_path: Path) -> None:
    fsdd_tree(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"1")
    (tmp_path / "text.txt").write_text("no picture")
    (tmp_path / "file").touch()
    digits = ["show", "digits"]
    for code, words, arguments in (
        (2, "--sample 2000: no such sample in the part train of data=digits; those are numbered from 0 to 1,292.",
         [*digits, "--sample", 2000]),
        (2, "those of class 3 are numbered from 0 to 13", [*digits, "--class", 3, "--sample", 900]),
        (2, "11: no such class of data=digits. Allowed: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9. Did you mean 1?",
         [*digits, "--class", 11]),
        (2, "--split validation: no sample of data=digits is in this part (data.validation=0",
         [*digits, "--split", "validation", "data.validation=0"]),
        (2, "--out x.gif: a file ending in .png, .svg, .pdf.", [*digits, "--out", "x.gif"]),
        (1, f"--out {tmp_path}/file/x.png: it cannot be written", [*digits, "--out", tmp_path / "file" / "x.png"]),
        (2, "--grid 0: a whole number from 1 up is needed.", [*digits, "--grid", 0]),
        (2, "--sample -1: a whole number from 0 up is needed.", [*digits, "--sample", -1]),
        (2, "digit: no such corpus.", ["show", "digit"]),
        (2, f"{tmp_path}/a.bin: a file of this kind needs its corpus: snnrun data show CORPUS --file",
         ["show", tmp_path / "a.bin"]),
        (1, "text.txt: ", ["show", tmp_path / "text.txt"]),
        (2, "nothing.wav: there is no such file", ["show", "fsdd", "--root", tmp_path, "--file", "nothing.wav"]),
        (2, "is a file already", ["show", tmp_path / "a.bin", "--file", tmp_path / "text.txt"]),
        (2, "poisson takes image", ["show", "fsdd", "--root", tmp_path, "encoder=poisson", "tuned=none"]),
        (2, "data.time_shift=700: a number below", ["show", "fsdd", "--root", tmp_path, "data.time_shift=700"]),
        (2, "data.rows: ", [*digits, "data.rows=4"]),
        (2, "--split validation: no sample", ["stats", "digits", "--split", "validation", "data.validation=0"]),
    ):  # fmt: skip
        found, _, err = run(*arguments)
        assert found == code, arguments
        assert words in err, (arguments, err)
        assert err.startswith("snnrun: ")
        assert len(err.splitlines()) == 1, err


def test_a_missing_corpus_is_not_downloaded_and_said_with_the_remedy(run: Any, tmp_path: Path) -> None:
    code, _, err = run("show", "mnist", "--root", tmp_path)
    assert code == 1
    assert "not tried: data.download=false" in err
    assert err.endswith("have it downloaded: snnrun data prepare mnist\n")


def test_a_damaged_recording_is_named(run: Any, tmp_path: Path) -> None:
    place = fsdd_tree(tmp_path)
    (place / "0_george_5.wav").write_bytes(b"none")
    code, _, err = run("show", "fsdd", "--root", tmp_path, "data.validation=0")
    assert code == 1
    assert "0_george_5.wav: it is no audio file" in err


# ---- a corpus -------------------------------------------------------------------------------------------------------


def test_the_census_counts_as_numpy_does(tmp_path: Path) -> None:
    chirps(tmp_path / "data")
    values = values_of("audio_folder", f"data.root={tmp_path / 'data'}", f"outputs={tmp_path}", "data.validation=0")
    found = census.take(values, "train", None)
    dataset = build.load(values).dataset
    spikes = np.stack([in_a_run(values, "train", k) for k in range(len(dataset.train))])
    assert np.array_equal(found.per_sample, spikes.sum(axis=(1, 2)))
    assert np.array_equal(found.per_channel, spikes.sum(axis=(0, 1)))
    assert np.array_equal(found.by_step, spikes.sum(axis=(0, 2)))
    assert found.rates.mean() == pytest.approx(spikes.mean() / 0.0016)
    times = [np.flatnonzero(sample.any(axis=1)) for sample in spikes]
    assert found.first.tolist() == [time[0] for time in times]
    assert found.last.tolist() == [time[-1] for time in times]
    assert found.silent_channels.tolist() == np.flatnonzero(~spikes.any(axis=(0, 1))).tolist()
    assert found.cut == sum(time[-1] >= 693 for time in times)
    facts = found.as_dict()
    assert facts["per_sample"]["median"] == np.median(spikes.sum(axis=(1, 2)))
    assert {name: entry["samples"] for name, entry in facts["classes"].items()} == {"high": 4, "low": 4}
    half = facts["spikes_come_by_step"]["50 %"]
    assert spikes[:, : half + 1].sum() >= spikes.sum() / 2 > spikes[:, :half].sum()


def test_silent_and_saturated(run: Any, tmp_path: Path) -> None:
    steps = 20
    trains: dict[str, Any] = {
        "man-ae-a-z": ([7] * steps, [0.0016 * k + 0.0001 for k in range(steps)]),
        "man-ae-b-1": ([], []),
        "man-ae-b-2": ([7] * steps, [0.0016 * k + 0.0001 for k in range(steps)]),
    }
    events_file(tmp_path, {"train": trains, "test": trains})
    arguments = ["stats", "ntidigits", "--root", tmp_path, f"data.steps={steps}", "data.validation=0"]
    code, out, _ = run(*arguments)
    assert code == 0
    assert "saturated channels  1 (7)   (at more than half of all steps)" in out
    assert "silent channels     63 (0-6, 8-63)" in out
    assert "silent samples      1 (snnrun data show ntidigits --split train --sample 1)" in out
    assert "spikes a sample     0 .. 10 | 20 | 20 .. 20, mean 13.3" in out
    assert "50 % by step 9, 90 % by step 17" in out
    facts = json.loads(run(*arguments, "--json")[1])
    assert facts["silent_samples"] == {"count": 1, "first": [1]}
    assert facts["saturated_channels"] == [7]
    assert facts["by_channel"][7] == pytest.approx(40 / 3, abs=1e-5)


def test_some_samples_stand_for_many(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from snnrun.commands import look

    monkeypatch.setattr(look, "LOOKED_AT", 50)
    assert "1,293, 50 of them looked at" in run("stats", "digits", "encoder.steps=10")[1]
    assert "looked at" not in run("stats", "digits", "encoder.steps=10", "--all")[1]


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def values(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The training samples of a corpus of values that stands for the digits: "image", "vector", or "series" of F."""
    kind, channels = request.param
    shape, rng = {"image": (1, 4, 6), "vector": (24,), "series": (channels,)}[kind], np.random.default_rng(0)
    samples = rng.random((9, 30, channels) if kind == "series" else (9, 24)).astype(np.float32)
    samples[..., 1] = 0
    if kind == "series":
        samples[2, 20:] = np.nan
    labels = np.arange(9) % 2
    image = (1, 4, 6) if kind == "image" else None
    own = Corpus(kind, shape, ("even", "odd"), samples[:6], labels[:6], samples[6:], labels[6:], image=image)
    monkeypatch.setitem(data.DATASETS, "digits", lambda root, download: own)
    return samples[:6]


KINDS = [("image", 1), ("vector", 1), ("series", 2), ("series", 9)]
NONE = ["digits", "encoder=none", "tuned=none", "data.validation=0"]


@pytest.mark.slow
@pytest.mark.parametrize("values", KINDS, indirect=True)
def test_values_are_shown_as_they_are(values: np.ndarray, run: Any, tmp_path: Path) -> None:
    code, out, _ = run("show", *NONE, "--sample", 2, "--json")
    assert code == 0
    [facts] = json.loads(out)
    own = values[2].reshape(-1, facts["channels"])
    assert facts["constant"] == (len(own) == 1)
    assert facts["length"] == (1 if len(own) == 1 else 20)
    assert facts["most"] == pytest.approx(np.nanmax(own))
    assert facts["mean"] == pytest.approx(np.nanmean(own))
    assert facts["silent_channels"] == [1]
    for more in [], ["--grid", 4]:
        code, out, _ = run("show", *NONE, *more, "--out", tmp_path / "x.png")
        assert code == 0
        assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("values", KINDS, indirect=True)
def test_the_census_of_values(values: np.ndarray, run: Any) -> None:
    code, out, _ = run("stats", *NONE, "--json")
    assert code == 0
    facts = json.loads(out)
    whole = np.nan_to_num(values.astype(np.float64)).reshape(6, -1, facts["channels"])
    assert facts["input"] == "values"
    assert facts["silent_channels"] == [1]
    assert facts["by_channel"] == pytest.approx(whole.mean(axis=(0, 1)), abs=1e-5)
    assert facts["by_step"] == pytest.approx(whole.mean(axis=(0, 2)), abs=1e-5)
    assert facts["per_sample"]["median"] == pytest.approx(np.median(whole.mean(axis=(1, 2))), abs=1e-5)
    assert facts["last_step"]["least"] == (0 if whole.shape[1] == 1 else 19)
    out = run("stats", *NONE)[1]
    assert ("the same values at every step" in out) == (whole.shape[1] == 1)


@pytest.mark.parametrize("values", [("series", 2)], indirect=True)
def test_points_that_are_held_for_several_steps(values: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders.Unencoded, "steps", 90)
    own = values_of(*NONE[:1], *NONE[1:])
    facts = Samples(own).read("train", 2).facts()
    assert (facts["steps"], facts["length"]) == (90, 60)
    found = census.take(own, "train", None)
    assert found.last.tolist() == [59 if np.isnan(sample).any() else 89 for sample in values]
    assert (found.steps, len(found.by_step)) == (90, 30)
    assert found.largest == pytest.approx(np.nanmax(values))


@pytest.mark.parametrize("by_file", [False, True])
def test_currents_are_as_long_as_their_series(by_file: bool, run: Any, tmp_path: Path) -> None:
    """The encoder makes 0 of the time after the end."""
    file, rng = tmp_path / "my.npz", np.random.default_rng(0)
    samples = rng.uniform(2, 3, (20, 30, 2)).astype(np.float32)
    samples[0, 12:] = np.nan
    np.savez(file, x=samples, y=np.arange(20) % 2)
    settings = ["arrays", "--root", file, "encoder=direct", "encoder.steps=60", "encoder.attenuation=1"]
    settings += ["tuned=none", "data.validation=0", "--json"]
    rest = ["--file", f"{file}:0"] if by_file else ["--sample", 0]
    code, out, err = run("show", *settings, *rest)
    assert code == 0, err
    [facts] = json.loads(out)
    wanted = (samples[0, :12] - np.nanmin(samples, axis=(0, 1))) / np.ptp(samples[1:], axis=(0, 1))
    assert (facts["steps"], facts["length"]) == (60, 24)
    assert [facts[key] for key in ("least", "mean", "most")] == pytest.approx(
        [wanted.min(), wanted.mean(), wanted.max()], abs=0.05
    )
    assert facts["least"] > 0


@pytest.mark.slow
def test_a_file_of_arrays_needs_no_corpus(run: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trains, file = rng.random((20, 30, 7)) < 0.2, tmp_path / "my.npz"
    np.savez(file, x=trains, y=np.array(["up", "down"] * 10))
    code, out, _ = run("show", file, "--json", "--grid", "3")
    assert code == 0
    shown = json.loads(out)
    assert {entry["label"] for entry in shown} == {"up", "down"}
    for entry in shown:
        assert entry["spikes"] == trains[int(entry["file"].rpartition(" ")[2])].sum()
    [entry] = json.loads(run("show", "arrays", "--root", file, "--file", f"{file}:3", "--json")[1])
    assert (entry["spikes"], entry["label"]) == (trains[3].sum(), "down")
    np.savez(file, x=rng.random((20, 30, 2)).astype(np.float32), y=np.arange(20) % 2)
    series = Samples(values_of("arrays", f"data.root={file}")).read("train", 0)
    assert series.spiking
    assert series.series is not None
    assert series.series.shape == (30, 2)
    assert run("show", file, "--out", tmp_path / "series.png")[0] == 0


def test_a_curve_goes_through_its_values() -> None:
    rising = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    shown = dots(terminal_plots.curves(rising, 20, 10))
    assert np.array_equal(shown, np.eye(40, dtype=bool)[:, ::-1])
    rising[20:] = np.nan
    assert not dots(terminal_plots.curves(rising, 20, 10))[21:].any()
    assert len(terminal_plots.curves(np.full((5, 1), np.nan), 20, 10)) == 10


# ---- in the terminal ------------------------------------------------------------------------------------------------


def dots(lines: list[str]) -> np.ndarray:
    """The dots of lines of braille, (columns, rows)."""
    bits = [[1, 2, 4, 64], [8, 16, 32, 128]]
    found = np.zeros((2 * len(lines[0]), 4 * len(lines)), bool)
    for y, line in enumerate(lines):
        for x, sign in enumerate(line):
            for i in range(2):
                for j in range(4):
                    found[2 * x + i, 4 * y + j] = bool((ord(sign) - 0x2800) & bits[i][j])
    return found


def test_every_spike_is_a_dot_where_there_is_room() -> None:
    spikes = np.random.default_rng(0).random((60, 40)) < 0.1
    assert np.array_equal(dots(terminal_plots.picture(spikes, 30, 10)), spikes)
    larger = dots(terminal_plots.picture(spikes, 60, 20))  # neighbours stand two dots apart
    assert np.array_equal(larger[:119:2, :79:2], spikes)
    assert larger.sum() == spikes.sum()


def test_no_spike_goes_unseen_where_there_is_less_room() -> None:
    spikes = np.zeros((700, 300), bool)
    places = np.random.default_rng(1).integers(0, (700, 300), (25, 2))
    spikes[tuple(places.T)] = True
    shown = dots(terminal_plots.picture(spikes, 40, 10))
    bins = [np.searchsorted(np.arange(most) * size // most, at, "right") - 1 for at, size, most in (
        (places[:, 0], 700, 80), (places[:, 1], 300, 40)
    )]  # fmt: skip
    assert shown[tuple(bins)].all()
    assert shown.sum() <= 25


def test_dots_are_as_dense_as_the_spikes() -> None:
    rng = np.random.default_rng(2)
    spikes = np.concatenate([rng.random((400, 400)) < p for p in (0.2, 0.8)])
    shown = dots(terminal_plots.picture(spikes, 40, 20))
    left, right = shown[:40].mean(), shown[40:].mean()
    assert 0.15 < left < 0.35
    assert right > 0.85


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (7, 5), (5000, 3)])
@pytest.mark.parametrize("unicode", [True, False])
def test_a_picture_fits_its_place(shape: tuple[int, int], unicode: bool) -> None:
    for values in np.ones(shape, bool), np.zeros(shape, bool), np.full(shape, np.nan, np.float32):
        lines = terminal_plots.picture(values, 21, 6, unicode)
        assert 1 <= len(lines) <= 6
        assert max(map(len, lines)) <= 21
        assert unicode or "".join(lines).isascii()
    assert len(terminal_plots.bars(np.arange(100), 20)) == 20


@pytest.mark.slow
def test_the_raster_fits_the_window(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr(Console, "is_terminal", True)
    for columns, rows in (40, 14), (200, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(rows))
        for more in [], ["--grid", 3]:
            lines = run("show", "digits", *more)[1].splitlines()
            assert max(map(len, lines)) <= columns
            assert more or len(lines) < rows


@pytest.mark.slow
def test_ascii_and_no_colour_where_the_output_is_no_terminal(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    assert "\x1b" not in run("show", "digits")[1]
    monkeypatch.setattr(Console, "encoding", "ascii")
    for command in ["show", "digits"], ["show", "digits", "--grid", "3"], ["stats", "digits", "encoder.steps=9"]:
        assert run(*command)[1].isascii()


# ---- the messages that send here ------------------------------------------------------------------------------------


def test_every_note_on_silent_or_cut_input_names_the_commands(tmp_path: Path) -> None:
    chirps(tmp_path / "data")
    values = values_of("audio_folder", f"data.root={tmp_path / 'data'}", f"outputs={tmp_path}")
    [cut] = [note for note in build.load(values).dataset.notes if "are cut there" in note]
    assert "`snnrun data show`" in cut
    assert "`snnrun data stats`" in unseen(700, *np.array([[0, 3], [0, 0], [5, 5]]))[0]
    labels = np.array([0, 1])
    dim = Corpus("image", (4,), ("a", "b"), np.array([[0, 1, 2, 3], [5] * 4], np.uint8), labels, *[
        np.array([[9, 1, 2, 3]] * 2, np.uint8), labels,
    ])  # fmt: skip
    silent = Corpus(
        "spikes", (4,), ("a", "b"), np.zeros((2, 3, 1), np.int64), labels, np.ones((2, 3, 1), np.int64), labels
    )
    found = [*data.blank.notes(dim), *data.blank.notes(silent)]
    assert len(found) == 3
    assert all("`snnrun data show`" in note or "`snnrun data stats`" in note for note in found)
