from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

from snnrun import cli, data, encoders
from snnrun.config import check
from snnrun.display import console
from snnrun.errors import UsageError
from snnrun.kernels import pack, unpack
from snnrun.network import Network
from snnrun.rules import RULES, StRsbp
from snnrun.run import build
from snnrun.train import engine

SMALL = {"classes": 3, "samples": 5, "steps": 120}


def load(**options: Any) -> data.Dataset:
    return data.load("utterances", **{"validation": 0, **SMALL, **options})


def bits(samples: np.ndarray) -> np.ndarray:
    return unpack(torch.from_numpy(samples), 78).numpy()


# ---- the corpus -----------------------------------------------------------------------------------------------------


def test_shapes_and_labels() -> None:
    corpus = load()
    assert (corpus.kind, corpus.shape, corpus.channels, corpus.steps) == ("spikes", (78,), 78, 120)
    assert corpus.classes == ("synthetic 1", "synthetic 2", "synthetic 3")
    assert corpus.train.samples.dtype == np.int64
    assert corpus.train.samples.shape == (15, 120, 2)
    assert corpus.test.samples.shape == (6, 120, 2)
    assert corpus.train.labels.tolist() == [0, 1, 2] * 5
    assert corpus.test.labels.tolist() == [0, 1, 2] * 2
    spikes = unpack(torch.from_numpy(corpus.train.samples), 128)
    assert spikes[:, :, 78:].sum() == 0
    assert torch.equal(pack(spikes), torch.from_numpy(corpus.train.samples))


def test_images_tell_their_channels_too() -> None:
    digits = data.load("digits")
    assert (digits.channels, digits.steps) == (64, 0)


def test_the_corpus_depends_on_its_variant_and_not_on_the_runs_seed() -> None:
    one = load(seed=1)
    assert one.digest == load(seed=2).digest
    assert one.digest != load(variant=1).digest


def test_more_samples_extend_the_corpus() -> None:
    one, more = load(), load(samples=9)
    assert np.array_equal(more.train.samples[: len(one.train)], one.train.samples)
    assert np.array_equal(more.test.samples[: len(one.test)], one.test.samples)
    every = [sample.tobytes() for split in (more.train, more.test) for sample in split.samples]
    assert len(set(every)) == len(every)


def test_the_density_is_that_of_encoded_speech() -> None:
    corpus = data.load("utterances", validation=0, samples=8)
    counts = bits(corpus.train.samples).sum(axis=1, dtype=np.int64)
    spikes = counts.sum(axis=1)
    assert 3700 < spikes.mean() < 4300
    low, high = np.percentile(spikes, [5, 95])
    assert 2000 < low < 3000
    assert 5000 < high < 7000
    assert 55 < (counts > 0).sum(axis=1).mean() < 70


def test_the_density_does_not_depend_on_the_length() -> None:
    short, long = (bits(load(steps=steps, samples=20).train.samples).mean() for steps in (100, 400))
    assert short == pytest.approx(long, rel=0.1)


def test_an_utterance_has_a_beginning_and_an_end() -> None:
    for sample in bits(load(steps=700).train.samples):
        first, *_, last = np.flatnonzero(sample.any(axis=1))
        assert 0 <= first < 140
        assert 450 < last < 700


def test_samples_of_a_class_resemble_each_other() -> None:
    """The nearest mean of the counts tells most of the classes, and not all: there is something left to learn."""
    corpus = data.load("utterances", validation=0, samples=16, classes=10)
    train, test = (np.sqrt(bits(split.samples).sum(axis=1)) for split in (corpus.train, corpus.test))
    means = np.stack([train[corpus.train.labels == label].mean(axis=0) for label in range(10)])
    nearest = np.linalg.norm(test[:, None] - means, axis=2).argmin(axis=1)
    assert 0.7 < (nearest == corpus.test.labels).mean() < 1.0


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"classes": 1}, "data.classes: 1 is out of range. Allowed: at least 2"),
        ({"samples": 0}, "data.samples: 0 is out of range"),
        ({"steps": 1}, "data.steps: 1 is out of range"),
        ({"variant": -1}, "data.variant: -1 is out of range"),
    ],
)
def test_numbers_out_of_range(option: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(**option)


# ---- the encoder ----------------------------------------------------------------------------------------------------


def test_stored_spikes_come_as_they_are() -> None:
    split = load().train
    encoder = encoders.build("stored", seed=3)
    assert encoder.steps is None
    assert np.array_equal(encoder.encode(split.samples[4:7], split.index[4:7], 5), split.samples[4:7])
    assert encoder.encode(split.samples[:0], split.index[:0], 0).shape == (0, 120, 2)


def test_fewer_steps_take_the_beginning() -> None:
    split = load().train
    spikes = encoders.build("stored", seed=0, steps=50).encode(split.samples, split.index, 1)
    assert spikes.flags.c_contiguous
    assert np.array_equal(spikes, split.samples[:, :50])


def test_more_steps_than_there_are() -> None:
    split = load().train
    with pytest.raises(UsageError, match=r"encoder\.steps=121: the stored spike trains have 120 steps"):
        encoders.build("stored", seed=0, steps=121).encode(split.samples, split.index, 1)
    with pytest.raises(UsageError, match=r"encoder\.steps: 0 is out of range. Allowed: at least 1"):
        encoders.build("stored", seed=0, steps=0)


@pytest.mark.parametrize("samples", [np.zeros((2, 5), np.uint8), np.zeros((2, 5), np.int64)])
def test_what_is_no_spike_train_is_refused(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match="packed spikes"):
        encoders.build("stored", seed=0).encode(samples, np.arange(2), 0)


# ---- in a run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", RULES)
def test_the_corpus_brings_its_encoder(model: str) -> None:
    check.register()
    with initialize_config_module("snnrun.conf", version_base="1.3"):
        cfg = compose("train", ["data=utterances", f"model={model}"])
        assert (cfg.encoder.name, cfg.encoder.steps) == ("stored", None)
        check.check(cfg)
        assert compose("train", ["data=utterances", f"model={model}", "encoder=poisson"]).encoder.name == "poisson"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("data.classes=1", "data.classes: 1 is out of range. Allowed: at least 2."),
        ("encoder.steps=0", "encoder.steps: 0 is out of range. Allowed: at least 1."),
        (
            "encoder=poisson",
            "encoder: poisson takes image or vector or series data, and data=utterances has the kind 'spikes'",
        ),
        (
            "data=digits tuned=none encoder=stored",
            "encoder: stored takes spikes data, and data=digits has the kind 'image'",
        ),
        ("data=digits data.classes=3", "data.classes: data=digits has no such key"),
    ],
)
def test_wrong_settings_are_one_message(
    request_: str, words: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["data=utterances", "tracking=none", "hardware=cpu", *request_.split()]
    assert cli.main(["train", *overrides]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_a_network_is_built_for_its_channels() -> None:
    model = {"name": "strsbp", "network": "5", "v_th": [1.0]}
    assert build.network({"seed": 0, "model": model, "encoder": {"name": "lyon_bsa"}}, load()).inputs == 78


def test_a_network_learns_the_classes() -> None:
    corpus = load(samples=20, steps=200)
    network = Network(StRsbp(v_th=[4.0]), inputs=corpus.channels, topology="R20", outputs=3)
    result = engine.train(
        network,
        corpus,
        encoders.Stored(0),
        engine.Options(epochs=4, batch_size=10, lr=0.03),
        seed=0,
        device=torch.device("cpu"),
        observer=console.Display(quiet=True),
    )
    assert result.history[-1]["train/accuracy"] > 0.8
    assert result.summary["test/accuracy_last"] > 0.6
