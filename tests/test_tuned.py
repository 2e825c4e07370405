"""Tuned settings: what they rest on, and the learning rate that goes with another batch size."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from snnrun import cli
from snnrun.config import options, tuned
from snnrun.config.compose import compose
from snnrun.config.tuned import Rate
from snnrun.errors import UsageError
from snnrun.runs.compare import settings_of
from snnrun.sweep import points
from snnrun.tracking import flatten
from snnrun.train.options import scaled
from tests.made_runs import invented

FILES = {name: yaml.safe_load(text) or {} for name, text in options.files("tuned").items()}
FACTS = {
    **{"pair": "strsbp_digits", "accuracy": 0.9861, "deviation": 0.0021, "seeds": 3, "trials": 20, "epochs": 5},
    **{"samples": 1000, "version": "0.1.0", "date": "2026-11-29"},
    "settings": {"model.v_th": [5.0], "train.batch_size": 64, "train.lr": 0.02},
}


def test_the_laws() -> None:
    laws = ("sqrt_down", "sqrt", "linear", "none")
    assert [scaled(0.02, 4.0, law) for law in laws] == [0.02, 0.04, 0.08, 0.02]
    assert [scaled(0.02, 0.25, law) for law in laws] == [0.01, 0.01, 0.005, 0.02]
    assert scaled(0.3, 1.0, "sqrt") == 0.3, "to the bit"


def test_every_tuned_rate_belongs_to_a_batch_size() -> None:
    for name, file in FILES.items():
        given, batch_size = (file.get("train", {}).get(key) for key in ("lr", "batch_size"))
        assert (given is None) <= (batch_size is None), f"{name}: another batch size would scale an inherited rate"
        rate = tuned.rate(given)
        assert given is None or rate is not None, name
        assert rate is None or batch_size in (None, rate.batch_size), name


@pytest.mark.parametrize(
    ("overrides", "rate", "note"),
    [
        ([], 0.004, None),
        (["train.batch_size=64"], 0.004, None),
        (["train.batch_size=4"], 0.002, "0.004 at batches of 16, times sqrt(4/16)"),
        (["train.batch_size=64", "train.lr_scaling=sqrt"], 0.008, "0.004 at batches of 16, times sqrt(64/16)"),
        (["train.batch_size=64", "train.lr_scaling=linear"], 0.016, "0.004 at batches of 16, times 64/16"),
        (["train.batch_size=4", "train.lr_scaling=none"], 0.004, None),
        (["train.batch_size=64", "train.lr=0.03"], 0.03, None),
    ],
)
def test_a_tuned_rate_follows_the_batch_size_and_a_given_one_does_not(
    overrides: list[str], rate: float, note: str | None
) -> None:
    values = compose(["tuned=none", *overrides])
    assert values["train"]["lr"] == pytest.approx(rate, rel=1e-15)
    assert values["tuned"]["rate"] == note


def test_an_experiment_keeps_its_rate() -> None:
    values = compose(["experiment=mnist_strsbp_15C5-P2-40C5-P2-300", "train.batch_size=64"])
    assert values["train"]["lr"] == compose(["experiment=mnist_strsbp_15C5-P2-40C5-P2-300"])["train"]["lr"]
    assert values["tuned"] == {"about": None, "rate": None}


def test_a_batch_size_out_of_range_is_the_message() -> None:
    with pytest.raises(UsageError, match=r"^train\.batch_size: -1 is out of range"):
        compose(["train.batch_size=-1"])


def test_a_pair_without_a_measurement_says_so_with_the_remedy() -> None:
    assert tuned.about({}, compose(["model=cnn", "data=fsdd"])) == (
        "not measured. To measure: snnrun tune model=cnn data=fsdd"
    )
    assert tuned.about(FACTS, compose(["model=hm2bp"])).startswith("not measured"), "its file builds on strsbp_digits"


def test_a_measurement_names_its_figures_and_what_a_run_changes() -> None:
    told = (
        "measured: validation 98.61 ± 0.21 % (3 seeds), chosen by 20 trials of 5 epochs on 1,000 samples, "
        "snnrun 0.1.0, 2026-11-29"
    )
    values: dict[str, Any] = {
        "model": {"name": "strsbp", "v_th": [5.0]},
        "data": {"name": "digits"},
        "train": {"batch_size": 64, "lr": 0.02},
    }
    assert tuned.about(FACTS, values) == told
    values["train"] = {"batch_size": 256, "lr": 0.04}
    values["model"]["v_th"] = [7.0]
    assert tuned.about(FACTS, values) == f"{told}; with model.v_th=[5], train.batch_size=64, which this run changes"
    by_hand = {"pair": "lsm_fsdd", "accuracy": 0.973, "origin": "surrogate"}
    assert tuned.measured(by_hand) == "measured on the surrogate corpus: validation 97.30 %, chosen by hand"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["encoder=latency"], "encoder=latency"),
        (["encoder=bernoulli"], ""),
        (["encoder.steps=3", "train.optimizer=sgd"], "encoder.steps=3, train.optimizer=sgd"),
        (["data.limit=100", "data.validation=0.5", "data.root=x"], "data.limit=100, data.validation=0.5"),
        (["data.validation=0.1", "train.optimizer=adam", "train.test=end", "train.average=none"], ""),
        (["input=none"], "input=none"),
        (["train.boosting=true", "model.label_smoothing=0.1"], "train.boosting=true, model.label_smoothing=0.1"),
        ([f"data.{key}=1" for key in ("shift", "elastic", "rotation", "scale", "erase")] + ["data.mirror=true"],
         "data.shift=1, data.elastic=1, data.rotation=1, data.scale=1, data.erase=1, 1 more"),
    ],
)  # fmt: skip
def test_what_a_run_sets_beside_what_was_measured_is_named(given: list[str], said: str) -> None:
    about = compose(["model=stbp", "data=digits", *given])["tuned"]["about"]
    assert about.startswith("measured: validation")
    assert about.partition("; not measured with ")[2] == said
    assert "; not measured with" not in compose(["model=stbp", "data=digits"])["tuned"]["about"]


def test_every_measurement_says_with_which_encoder() -> None:
    for name, file in FILES.items():
        facts = file.get("tuning", {})
        if facts.get("accuracy") is not None:
            model, _, data = name.partition("_")
            pair = [f"model={model}", f"data={data}"] if not name.startswith("phased") else []
            assert not pair or facts["encoder"] == compose(pair)["encoder"]["name"], name


def test_what_settings_rest_on_makes_no_other_point_and_no_other_group() -> None:
    values = compose([])
    assert points.identity(values) == points.identity({**values, "tuned": {"about": "measured", "rate": None}})
    run, other = invented(), invented()
    other.params |= flatten({"tuned": {"about": "measured", "rate": None}})
    assert settings_of(run) == settings_of(other)


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("tuned/spilinc_ti46_digits", "# measured on the surrogate corpus: validation 74.80 %, chosen by hand"),
        ("tuned/hm2bp_tonic", "# not measured. To measure: snnrun tune model=hm2bp data=tonic"),
        ("tuned/cnn_fsdd", "# not measured. To measure: snnrun tune model=cnn data=fsdd"),
        ("tuned/none", "# no settings for a pair: the defaults of the groups apply"),
        ("tuned/phased_lstm_mnist", "# not measured. To measure: snnrun tune model=phased_lstm data=mnist"),
    ],
)
def test_config_show_says_what_a_pair_rests_on(option: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "show", option]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == wanted
    assert cli.main(["config", "show", option, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"].endswith(f"{wanted}\n")


@pytest.mark.slow
def test_a_run_says_what_its_settings_rest_on_and_records_the_rate_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tuned.rate(FILES["stbp_digits"]["train"]["lr"])
    assert base is not None
    tiny = ["data.limit=64", "encoder.steps=8", "model.network=6", "train.epochs=1", "tracking=none", "hydra.run.dir=a"]
    tiny += ["hardware=cpu", "hardware.kernels=reference"]
    assert cli.main(["train", "model=stbp", "train.batch_size=32", "train.schedule=cosine", *tiny]) == 0
    out = " ".join(capsys.readouterr().out.split())
    rate = base.lr * math.sqrt(32 / base.batch_size)
    note = f"{base.lr:g} at batches of {base.batch_size}, times sqrt(32/{base.batch_size})"
    assert re.search(rf"learning rate {rate:g} \(\w+; {re.escape(note)}\)", out)
    assert re.search(r"settings (not )?measured", out)
    kept = yaml.safe_load(Path("a/config.yaml").read_text("utf-8"))
    assert kept["train"]["lr"] == rate
    assert "measured" in kept["tuned"]["about"]


def test_a_rate_is_written_as_it_is_read() -> None:
    assert tuned.rate(str(Rate(2e-05, 16))) == Rate(2e-05, 16)
    assert tuned.rate(0.02) is None
