"""Arrays of one's own from the command line: verify, predict, resume."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trained_runs
from safetensors.torch import load_file
from written_arrays import SERIES, Y, labels, load, ragged, write

from snnrun import cli
from snnrun.errors import SnnrunError
from snnrun.record import description
from snnrun.record.run_folder import RunFolder
from snnrun.run import build, experiment, resume, samples


def test_verify_says_what_it_understood(tmp_path, capsys):
    root = write(tmp_path, "npz", x=np.random.default_rng(0).random((20, 8, 8)) * 16, y=labels(20))
    assert cli.main(["data", "verify", "arrays", f"data.root={root}"]) == 0
    said = capsys.readouterr().out
    for words in (
        "kind: images of 8 x 8\n",
        "range: 0.",
        "samples: 16 to train, 4 to test",
        "  0               8           2",
        "note: images: x has square rows of 8 x 8, float64",
        "note: test: no x_test",
        "no fault",
    ):
        assert words in said, said
    assert cli.main(["data", "verify", "arrays", f"data.root={root}", "data.kind=spikes"]) == 1
    assert "spike trains are 0 and 1" in capsys.readouterr().out
    assert cli.main(["data", "verify", "arrays", f"data.root={root}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["form"]["kind"] == "image"


def values_of(root: Path, model: str = "strsbp", **own) -> dict:
    """The config of a run on a file."""
    return {
        **trained_runs.values(model),
        "data": {"name": "arrays", "root": str(root), "validation": 0.2, **own},
        "encoder": {"name": "auto", "steps": 30, "attenuation": None},
        "train": {"epochs": 1, "batch_size": 8, "lr": 0.01},
    }


def one_of_each(folder: Path) -> dict[str, Path]:
    """A file of each kind, 20 samples in 2 classes."""
    rng, y, own = np.random.default_rng(0), np.array(["no", "yes"] * 10), {}
    rows = [rng.standard_normal((3 + k % 4, 2)) for k in range(20)]
    for name, x in {
        "image": rng.integers(0, 256, (20, 5, 4), dtype=np.uint8),
        "grey": rng.random((20, 5, 5)) * 7,
        "vector": rng.standard_normal((20, 6)),
        "series": rng.standard_normal((20, 9, 2)),
        "ragged": ragged(*rows),
        "spikes": rng.random((20, 40, 5)) < 0.3,
    }.items():
        (folder / name).mkdir()
        own[name] = write(folder / name, "npz", x=x, y=y)
    return own


CHOSEN = {
    "image": {"strsbp": "poisson", "stbp": "bernoulli"},
    "vector": {"strsbp": "poisson", "stbp": "bernoulli"},
    "series": {"strsbp": "population", "stbp": "population"},
    "spikes": {"strsbp": "stored", "stbp": "stored"},
}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["strsbp", "stbp"])
@pytest.mark.parametrize("name", ["image", "grey", "vector", "series", "ragged", "spikes"])
def test_a_row_is_fed_as_the_corpus_feeds_it(tmp_path, name, model):
    """From a run's folder alone, bit for bit; the run's config says which encoder was chosen."""
    root = one_of_each(tmp_path)[name]
    (tmp_path / "run").mkdir()
    run = RunFolder(trained_runs.train_with(values_of(root, model), tmp_path / "run"))
    kept, about = run.values(), description.load(run.path)
    kind = {"grey": "image", "ragged": "series"}.get(name, name)
    assert about.kind == kind
    assert kept["encoder"]["name"] == CHOSEN[kind][model]
    dataset, encoder = build.load(kept)
    assert encoder == build.load(values_of(root, model)).encoder
    reader = samples.Reader(kept, about)
    for split in dataset.train, dataset.test:
        row = int(corpus_row(root, split.index[0]))
        found = reader.read(f"{root}:{row}")
        assert np.array_equal(found.inputs, encoder.encode(split.samples[[0]], np.zeros(1, np.int64), 0))
        assert found.label == split.labels[0]
        assert split is dataset.test or found.notes == ()


def corpus_row(root: Path, index: int) -> str:
    return load(root).names[index].split()[-1]


@pytest.mark.slow
def test_single_samples_and_rows_of_other_files(tmp_path, capsys):
    root = one_of_each(tmp_path)["series"]
    (tmp_path / "run").mkdir()
    run = trained_runs.train_with(values_of(root), tmp_path / "run")
    x = np.load(root)["x"]
    np.save(tmp_path / "one.npy", x[3])
    np.savez(tmp_path / "more.npz", x=np.pad(x, ((0, 0), (0, 2), (0, 0))), x_test=x[:, :4] * 100)
    kept, about = RunFolder(run).values(), description.load(run)
    reader = samples.Reader(kept, about)
    wanted = reader.read(f"{root}:3").inputs
    assert np.array_equal(reader.read(str(tmp_path / "one.npy")).inputs, wanted)
    cut = reader.read(f"{tmp_path / 'more.npz'}:3")
    assert np.array_equal(cut.inputs, wanted)
    assert cut.notes == ("its 11 steps are cut to the 9 of the run",)
    short = reader.read(f"{tmp_path / 'more.npz'}:x_test:3")
    assert "lie beyond those that the network was trained on and are clipped" in short.notes[0]
    np.save(tmp_path / "other.npy", x[3, :, :1])
    for source, words in (
        (str(root), "which sample of it?"),
        (f"{root}:77", "x has no sample 77; it has 20, numbered from 0"),
        (f"{root}:x_test:0", "it has no samples called x_test. There are x"),
        (f"{tmp_path}/no.npz:0", "there is no"),
        (str(tmp_path / "other.npy"), "it is float64 (9, 1); wanted are numbers (steps, 2), 9 at most"),
    ):
        assert cli.main(["predict", str(run), source]) in (1, 2)
        error = capsys.readouterr().err
        assert words in error, error
        assert error.count("\n") == 1
    assert cli.main(["predict", str(run), f"{root}:3"]) == 0
    assert "(it is yes)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_encoder_that_was_chosen(tmp_path):
    """To the same weights, though its command left the encoder open."""
    values = values_of(one_of_each(tmp_path)["series"])
    values["train"] = {**values["train"], "epochs": 2}
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    for folder in folders:
        folder.mkdir()
    trained_runs.train_with(values, folders[0])

    def stop(_metrics: object) -> None:
        raise KeyboardInterrupt

    with contextlib.redirect_stdout(io.StringIO()):
        experiment.run(values, folders[1], command=["test"], on_epoch=stop)
        go_on = resume.prepare(RunFolder(folders[1]))
        assert go_on["encoder"]["name"] == "population"
        experiment.run(go_on, folders[1], command=["test"], resumed=True)
    whole, stopped = (load_file(folder / "last.safetensors") for folder in folders)
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)


@pytest.mark.parametrize("form", ["npz", "compressed", "npy", "h5"])
def test_files_that_changed_anywhere_are_read_or_refused(tmp_path, form):
    """Whatever the bytes are, nothing but a message comes of them."""
    rng = np.random.default_rng(5)
    x = SERIES if form == "h5" else ragged(*[SERIES[0, : 2 + k % 3] for k in range(6)])
    root = write(tmp_path, form, x=x, y=Y)
    path = root / "x.npy" if form == "npy" else root
    whole, refused = path.read_bytes(), list[str]()
    for _ in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, min(len(content), rng.choice([150, 10_000])), 3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            load(root).digest()
        except SnnrunError as error:
            refused.append(str(error))
    assert refused
    assert all(message.startswith(str(tmp_path)) or message.startswith(root.name) for message in refused), refused
