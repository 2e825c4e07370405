"""`snnrun export --register`: trained models in MLflow's registry, which answer raw samples as `predict` does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import trained_runs
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from snnrun import cli, data
from snnrun.compiled.packed_arrays import pack
from snnrun.errors import SnnrunError, UsageError
from snnrun.record import run_folder
from snnrun.record.description import Description
from snnrun.run import experiment, served, trained
from snnrun.tracking import registry

# SQLAlchemy's pool keeps its sqlite connections; MLflow's own code has what it deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run that MLflow has."""
    outputs = tmp_path_factory.mktemp("registered") / "outputs"
    run = outputs / "runs" / "one"
    run.mkdir(parents=True)
    values = trained_runs.values("stbp")
    values |= {"outputs": str(outputs), "tracking": {**values["tracking"], "kind": "mlflow"}}
    values["encoder"]["name"], values["train"]["epochs"] = "regular", 1
    del values["encoder"]["frozen"], values["encoder"]["attenuation"]
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    experiment.run(values, run, command=["test"])
    return run


@pytest.fixture
def store(recorded: Path) -> Iterator[str]:
    address = f"sqlite:///{recorded.parents[1] / 'mlflow.db'}"
    yield address
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_registered_model_answers_as_the_network_does(
    recorded: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for version in (1, 2):
        assert cli.main(["export", str(recorded), "--register", "digits"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith(f"models:/digits/{version}: the best weights of one, in {store}\n  serve it: ")
        assert err == ""
    assert "MLFLOW_TRACKING_URI" not in os.environ, "later commands of this process would take it for their store"
    mlflow.set_tracking_uri(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import pyfunc
    model = pyfunc.load_model("models:/digits/2")
    client = MlflowClient(store)
    entry = client.get_model_version("digits", "2")
    assert entry.run_id == run_folder.RunFolder(recorded).run_id
    assert client.get_run(entry.run_id).info.status == "FINISHED"
    assert (
        str(recorded.parents[1] / "mlartifacts")
        in client.get_logged_model(entry.source.removeprefix("models:/")).artifact_location
    )
    signature, flavor = model.metadata.signature, model.metadata.flavors["python_function"]
    assert flavor["loader_module"] == "snnrun.run.served"
    assert [(each.type, each.shape) for each in signature.inputs] == [(np.uint8, (-1, 8, 8))]
    assert signature.outputs.input_names() == ["class", "scores"]
    assert model.input_example.shape == (1, 8, 8)

    corpus = data.load(seed=3, **run_folder.RunFolder(recorded).values()["data"])
    pixels = np.asarray(corpus.test.samples[np.arange(70)]).reshape(-1, 8, 8)
    found = model.predict(pixels)
    own = served._load_pyfunc(str(recorded))
    bits = own._encoder.encode(pixels.reshape(70, -1), np.zeros(70, np.int64), 0)  # type: ignore[union-attr]
    counts = own._model(torch.from_numpy(bits)).scores.numpy()
    assert counts.any()
    assert (found["scores"] == counts).all()
    assert (found["class"] == np.array(corpus.classes)[counts.argmax(axis=1)]).all()
    assert (model.predict(pixels[3:4])["scores"] == counts[3:4]).all()
    with pytest.raises(MlflowException, match=r"\(-1, 8, 8\)"):
        model.predict(np.zeros((1, 8, 7), np.uint8))


@pytest.mark.slow
def test_what_cannot_be_registered_is_refused(
    digits_run: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_runs.copied(digits_run("stbp"), tmp_path)
    for words, said in (
        ([], "--format nir|onnx|pytorch|safetensors or --register NAME is needed"),
        (["--register", "a/b"], "a model needs a name without / and :"),
        (["--register", "a", "--out", "x"], "--out: it is for --format"),
        (["--register", "a", "--format", "onnx", "--quantise", "int8"], "a registered model is in float32"),
        (["--format", "onnx", "--uri", "x"], "--uri: it is for --register"),
        (
            ["--register", "a", "--uri", f"sqlite:///{tmp_path}/mlflow.db"],
            f"{run}: this run is not in MLflow. First: snnrun runs import {run}",
        ),
    ):
        assert cli.main(["export", str(run), *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def model_of(kind: str, shape: tuple[int, ...], *, encoder: dict[str, Any], steps: int = 20) -> served.Served:
    values = trained_runs.values("stbp") | {"encoder": encoder, "seed": 3}
    about = Description("mine", "recorded", "", kind, shape, ("a", "b", "c"), steps, {})
    network = trained.build.network(values, about).requires_grad_(False)
    return served.Served(trained.Trained(Path("run"), values, about, network, "best"), torch.device("cpu"))


@pytest.mark.slow
def test_spikes_values_and_recordings_are_samples_too() -> None:
    spiking = model_of("spikes", (70,), encoder={"name": "stored", "steps": None})
    trains = (np.random.default_rng(2).random((3, 20, 70)) < 0.4).astype(np.uint8)
    bits = np.stack([pack(train.astype(bool)) for train in trains]).astype(np.int64)
    assert spiking.shape == (20, 70)
    assert (spiking.predict(trains)["scores"] == spiking._model(torch.from_numpy(bits)).scores.numpy()).all()
    with pytest.raises(UsageError, match="values other than 0 and 1"):
        spiking.predict(trains * 2)
    with pytest.raises(UsageError, match=r"of the shape \(20, 69\): this model takes \(20, 70\)"):
        spiking.predict(trains[:, :, 1:])

    series = model_of("series", (6,), encoder={"name": "direct", "steps": 40})
    assert series.shape == (20, 6)
    assert series.predict(series.example())["scores"].shape == (1, 3)

    image = model_of("image", (8, 8), encoder={"name": "regular", "steps": 20})
    for wrong in (np.full((1, 8, 8), 0.5), np.full((1, 8, 8), 256)):
        with pytest.raises(UsageError, match="whole numbers from 0 to 255"):
            image.predict(wrong)
    assert image.predict(np.zeros((0, 8, 8), np.uint8))["scores"].shape == (0, 3)

    heard = model_of("audio", (40,), encoder={"name": "mel"})
    assert heard.params == {"sample_rate": 16000}
    wave = heard.example()
    assert heard.predict(wave)["scores"].any()
    slower = heard.predict(wave, {"sample_rate": 8000})["scores"]
    assert (slower != heard.predict(wave)["scores"]).any()
    with pytest.raises(SnnrunError, match="a recording cannot be used"):
        heard.predict(wave * np.nan)


@pytest.mark.parametrize("name", ["", " ", "a:b", "a/b"])
def test_names_of_models(name: str) -> None:
    with pytest.raises(UsageError, match="a model needs a name"):
        registry.check_name(name)
