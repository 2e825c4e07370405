"""Models without spikes as runs like any other: trained, swept, recorded, evaluated, predicted, reported, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import fsdd_tree
from PIL import Image

from snnrun import cli, data
from snnrun.compiled import parallel
from snnrun.config import compose
from snnrun.paper.published import network_of
from snnrun.record import journal
from snnrun.run import build
from snnrun.train import hardware

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections

POINTS = {
    "mlp": "model.network=12 model.dropout=0.2 train.optimizer=rmsprop train.momentum=0.5",
    "cnn": "model.network=3C3-P2-8 train.optimizer=adamw train.weight_decay=0.01",
    "lstm": "model.layers=[7] train.lr=0.01",
    "gru": "model.layers=[7,6] model.dense=[5] train.lr=0.01",
    "phased_lstm": "model.layers=[6] train.lr=0.01",
    "lra": "model.network=12-9 model.init_scale=0.2 train.optimizer=sgd train.momentum=0.9",
}
TINY = ["data.limit=60", "train.epochs=2", "hardware=cpu", "hardware.threads=1"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of one sweep, recorded in MLflow, with a run of each model."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        points = ",".join(f'"{name}: model={name} {words}"' for name, words in POINTS.items())
        # A tuned pair would set what the points leave out.
        assert cli.main(["train", "-m", "-q", "search=list", f"search.points=[{points}]", *TINY, "tuned=none"]) == 0
        yield folder


def folder_of(swept: Path, name: str) -> Path:
    [sweep] = (swept / "outputs" / "sweeps").iterdir()
    return sweep / str([*POINTS].index(name))


def command(swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: str) -> tuple[int, str, str]:
    monkeypatch.chdir(swept)
    code = cli.main(list(words))
    return code, *capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_a_run_leaves_what_makes_sense_without_spikes(name: str, swept: Path) -> None:
    run = folder_of(swept, name)
    files = {path.name for path in run.iterdir()}
    assert {
        "best.safetensors",
        "last.safetensors",
        "network.json",
        "curves.png",
        "confusion.png",
        "weights.png",
    } < files
    assert not {"raster.png", "rates.png", "cost.png"} & files
    spent = json.loads((run / "cost.json").read_text())
    assert spent["macs"] > 0
    assert spent["mac_energy_nj"] == pytest.approx(4.6e-3 * spent["macs"])
    assert not [key for key in spent if "spike" in key or "synaptic" in key]
    recorded = {key for entry in journal.read(run) for key in entry}
    assert {"cost/macs", "cost/effective_macs", "train/loss", "validation/accuracy", "test/accuracy"} < recorded
    assert not [key for key in recorded if key.startswith("rate/") or "spikes" in key or "synaptic" in key]
    about = json.loads((run / "network.json").read_text())
    assert list(about["layers"])[-1] == "output"


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_its_weights_are_evaluated_and_asked(
    name: str, swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(folder_of(swept, name))
    code, out, err = command(swept, monkeypatch, capsys, "evaluate", run, "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    assert " MAC" in out
    assert "spikes" not in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", "confusion.png"}
    pixels = data.load("digits").test.samples[3]
    Image.fromarray(pixels.reshape(8, 8)).save(tmp_path / "three.png")
    sources = [str(tmp_path / "three.png"), "test:3"]
    code, out, err = command(swept, monkeypatch, capsys, "predict", run, *sources, "--json")
    assert (code, err) == (0, "")
    of_file, of_corpus = json.loads(out)
    assert of_file["scores"] == of_corpus["scores"]
    assert sum(score["probability"] for score in of_file["scores"]) == pytest.approx(1.0)
    assert "spikes" not in of_file
    code, out, _ = command(swept, monkeypatch, capsys, "predict", run, "test:3")
    assert " % " not in out.splitlines()[0]
    assert "spikes" not in out


@pytest.mark.slow
def test_runs_are_compared_and_reported(
    swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = command(swept, monkeypatch, capsys, "runs", "compare", "data=digits", "--json")
    assert code == 0
    assert all(name in out for name in POINTS)
    code, out, _ = command(swept, monkeypatch, capsys, "report", "--out", str(swept / "page"), "--format", "md")
    assert code == 0
    page = (swept / "page" / "report.md").read_text()
    for told in ("GRN, 7-6-5", "LSTM, 7", "Phased LSTM, 6", "MLP, LRA-E, 12-9", "CNN, BP, 3C3-P2-8"):
        assert told in page, told


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["pytorch", "onnx"])
def test_models_are_exported_and_give_the_same_answers(
    format_: str, swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for point in POINTS:
        words = "export", str(folder_of(swept, point)), "--format", format_, "--check", "40"
        code, out, err = command(swept, monkeypatch, capsys, *words)
        assert code == 0, err
        assert ": 40 samples: 100.000 % of the logits and 100.00 % of the classes are the same" in out, (point, out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "--format", "nir"), "is no network of a learning rule"),
        (("predict", "test:0", "--raster", "a.png"), "spik"),
    ],
)
def test_what_needs_spikes_is_refused_in_one_line(
    words: tuple[str, ...], said: str, swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(swept, monkeypatch, capsys, words[0], str(folder_of(swept, "gru")), *words[1:])
    assert code == 2
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (["model=lstm", "model.network=400-R400"], "model.network: model=lstm has no such key. Allowed: name, layers"),
        (["model=mlp", "model.network=400-R400"], "'R400' is no layer of model=mlp"),
        (["model=cnn", "model.network=R30"], "'R30' is recurrent"),
        (["model=cnn", "data=utterances", "data.limit=4"], "looks at images"),
        (["model=gru", "model.layers=[]"], "model.layers: at least one recurrent layer"),
        (["model=gru", "model.layers=[0]"], "model.layers: 0 is out of range"),
        (["model=mlp", "model.dropout=1"], "model.dropout: 1 is out of range"),
        (["model=mlp", "model.components=65"], "model.components: 65 of 64 inputs"),
        (
            ["model=mlp", "model.components=64", "encoder=poisson", "encoder.steps=200", "model.bin=1"],
            "model.components: the components of 12,800 inputs take too much memory. Allowed: up to 10,000 inputs. "
            "Choose null, or wider bins",
        ),
        (
            ["model=mlp", "model.components=64", "data.limit=50"],
            "model.components: 50 training samples do not have 64 components. Choose fewer.",
        ),
        (["model=mlp", "model.network=999999-999999"], "Lower the layers of model=mlp"),
        (["model=strsbp", "encoder=none", "tuned=none"], "encoder: none hands on values"),
        (["model=mlp", "train.momentum=0.5"], "train.momentum: train.optimizer=adam has none"),
        (["model=mlp", "train.optimizer=rmsprob"], "Did you mean rmsprop?"),
        (["model=mlq"], "Did you mean mlp?"),
        (
            ["model=stbp", "model.decay=0", "model.reset=exponential"],
            "model.reset=exponential: eq. 6 of the paper divides",
        ),
        (
            ["model=mlp", "data=fsdd", "encoder=none", "tuned=none"],
            "none takes image or vector",
        ),
    ],
)
def test_a_wrong_request_is_one_line(
    request_: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fsdd_root: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNNRUN_DATA", str(fsdd_root))
    assert cli.main(["train", "tracking=none", *request_]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def fsdd_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of a few recordings in the form of FSDD."""
    root = tmp_path_factory.mktemp("data")
    fsdd_tree(root)
    return root


def test_spikes_of_an_encoder_are_counted() -> None:
    """`encoder=poisson` with a model without spikes: it sees counts, and an average of them is the pixels."""
    values = compose.compose(["model=mlp", "encoder=poisson", "encoder.steps=2000", "model.network=5", "data.limit=4"])
    inputs = build.load(values)
    model = build.network(values, inputs.dataset)
    split = inputs.dataset.train
    bits = torch.from_numpy(inputs.encoder.encode(split.samples, split.index, 1))
    rates: Any = model.values(bits)  # type: ignore[operator]
    assert np.abs(rates[:, 0].numpy() - split.samples / 255 / 5.5).max() < 0.04


def test_pytorch_has_the_threads_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    values = compose.compose(["model=mlp", "model.network=5"])
    hardware.set_up("cpu", 2, "reference")
    torch.set_num_threads(1)
    inputs = build.load(values)
    build.learner(values, inputs, torch.device("cpu"))
    assert torch.get_num_threads() == parallel.threads() == 2


def test_principal_components_are_found_once_and_kept() -> None:
    values = compose.compose(["model=mlp", "model.network=5", "model.components=10"])
    inputs = build.load(values)
    model, _ = build.learner(values, inputs, torch.device("cpu"))
    pixels = inputs.dataset.train.samples.astype(np.float64) / 255
    deviation = pixels.std(axis=0)
    scaled = (pixels - pixels.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    _, _, axes = np.linalg.svd(scaled, full_matrices=False)
    seen: Any = model._seen(torch.from_numpy((pixels[:50, None]).astype(np.float32)))  # type: ignore[operator]
    wanted = scaled[:50] @ axes[:10].T
    assert np.abs(np.abs(seen.numpy()) - np.abs(wanted)).max() < 1e-3
    assert model.synapses() == 10 * 5 + 5 + 5 * 10 + 10
    again = build.network(values, inputs.dataset)
    again.load_state_dict(model.state_dict())
    batch = torch.from_numpy(pixels[:3, None].astype(np.float32))
    assert torch.equal(again(batch).scores, model(batch).scores)


def test_a_run_is_known_by_its_layers() -> None:
    assert network_of({"model.network": "400-R400"}) == "400-R400"
    assert network_of({"model.layers": "[200, 200]", "model.dense": "[100]"}) == "200-200-100"
    assert network_of({}) == "?"


def test_the_parameters_that_the_papers_print() -> None:
    """Those of the tables, or what the experiments say of them."""
    pixels, events = (1, 28, 28), {"steps": 700}

    class Task:
        def __init__(self, channels: int, classes: int, kind: str, image: Any = None, steps: int = 0) -> None:
            self.channels, self.classes, self.kind = channels, ["x"] * classes, kind
            self.image, self.steps = image, steps

    def weights(experiment: str, task: Task, *more: str) -> int:
        return build.network(compose.compose([f"experiment={experiment}", *more]), task).synapses()

    fashion = Task(784, 10, "image", pixels)
    assert weights("fashion_mnist_mlp_5x256_paper", fashion) == 465_408
    assert weights("fashion_mnist_lra_5x256_paper", fashion) == 465_408
    assert weights("fashion_mnist_mlp_3x512_paper", fashion) == 662_026
    assert weights("fashion_mnist_mlp_512-512_paper", fashion) == 669_706
    digits = Task(64, 11, "spikes", **events)
    output = 100 * 11 + 11
    two_of_100 = weights("ntidigits_gru_200-200-100_paper", digits, "model.layers=[100,100]", "model.dense=[]",
                         "model.bias=false")  # fmt: skip
    assert two_of_100 - output == 109_200
    lstm = weights("ntidigits_lstm_250-250_paper", digits, "model.bias=false")
    assert (lstm - 250 * 11 - 11) * 3 == 610_500 * 4
