"""Options that do nothing beside the others are named at the start of a run."""

from __future__ import annotations

import pytest

from snnrun.config import options
from snnrun.config.compose import compose
from snnrun.config.effects import without_effect


@pytest.mark.parametrize(
    ("given", "needed", "said"),
    [
        ("train.swa_lr=0.05", "train.average=swa", "train.swa_lr=0.05 has no effect without train.average=swa."),
        ("train.swa_start=0.2", "train.average=swa", "train.swa_start=0.2"),
        ("train.average_decay=0.9", "train.average=ema", "train.average_decay=0.9"),
        ("train.decoupled_decay=true", "train.weight_decay=0.01", "train.decoupled_decay=True"),
        ("train.schedule_factor=0.5", "train.schedule=step", "train.schedule_factor=0.5"),
        ("model.constants_lr=5", "model.train_constants=all", "model.constants_lr=5.0"),
        ("model.delays_lr=3", "model.delays=trained", "model.delays_lr=3.0"),
        ("model.max_delay=30", "model.delays=fixed", "model.max_delay=30"),
        ("model.tau_adaptation=50", "model.adaptation=threshold", "model.tau_adaptation=50.0"),
    ],
)
def test_what_has_no_effect_is_said(given: str, needed: str, said: str) -> None:
    found = without_effect(compose(["model=stbp", "data=digits", given]))
    assert len(found) == 1
    assert found[0].startswith(said)
    assert not without_effect(compose(["model=stbp", "data=digits", "train.epochs=50", given, needed]))


def test_steps_that_come_after_the_end_are_said() -> None:
    found = without_effect(compose(["data=digits", "train.schedule=step", "train.epochs=10"]))
    assert len(found) == 1
    assert found[0].startswith("train.schedule=step has no effect: none of train.schedule_milestones=[40, 80]")


@pytest.mark.parametrize("experiment", sorted(options.files("experiment")))
def test_every_experiment_means_what_it_sets(experiment: str) -> None:
    assert not without_effect(compose([f"experiment={experiment}"]))


@pytest.mark.parametrize("model", sorted(options.files("model")))
def test_defaults_need_no_word(model: str) -> None:
    assert not without_effect(compose([f"model={model}", "data=digits"]))
