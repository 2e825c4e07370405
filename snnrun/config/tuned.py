"""What a pair's tuned settings rest on, and the learning rate that goes with a batch of another size.

A tuned file names its rate by `lr: ${scaled_lr:0.02,64}`, the rate 0.02 for batches of 64. With another
`train.batch_size` the rate follows by the law `train.lr_scaling`. A rate that is given as a number is never scaled.

Its section `tuning` holds the facts of the measurement that `snnrun tune` made. They are those of one pair and of the
settings beside them, so a file that builds on another has not inherited them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf

from snnrun.config import options
from snnrun.train.options import Options, scaled

RESOLVER = "scaled_lr"
# What decides what a run learns, and the keys of it that do not: places, laws of the rate, what is tested.
SECTIONS = ("model", "train", "encoder", "data")
APART = ("data.root", "data.download", "data.test_limit", "train.lr", "train.lr_scaling", "train.test")
SHOWN = 5  # changes that are named
_RATE = re.compile(rf"^\$\{{{RESOLVER}: *([^,}}]+), *(\d+)\}}$")


class Rate(NamedTuple):
    """A learning rate and the batch size that it belongs to."""

    lr: float
    batch_size: int

    def __str__(self) -> str:
        """As a tuned file writes it."""
        return f"${{{RESOLVER}:{self.lr:g},{self.batch_size}}}"


def register() -> None:
    """Let OmegaConf know how a tuned rate is written. Without it no config with such a rate can be read."""

    def resolve(lr: float, batch_size: int, *, _root_: DictConfig) -> float:
        train = _root_.train
        return scaled(float(lr), train.batch_size / batch_size, train.lr_scaling)

    OmegaConf.register_new_resolver(RESOLVER, resolve, replace=True)


def rate(text: Any) -> Rate | None:
    """The rate that a value of `train.lr` stands for; None if it is a number, which belongs to any batch."""
    found = _RATE.match(text) if isinstance(text, str) else None
    return Rate(float(found[1]), int(found[2])) if found else None


def standing(cfg: DictConfig, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, str | None]:
    """What a run says of its settings: `about`, what they rest on, and `rate`, the tuned rate if it was scaled.

    Both are None if the learning rate was given, on the command line or by an experiment: such settings are the user's
    own.

    Args:
        cfg: the composed config.
        values: its plain values.
        overrides: what was given on the command line, as far as that is known.
    """
    tuned = rate(OmegaConf.to_container(cfg.train, resolve=False)["lr"])  # type: ignore[index, call-overload]
    if tuned is None:
        return {"about": None, "rate": None}
    lr, batch_size, law = (values["train"][key] for key in ("lr", "batch_size", "lr_scaling"))
    note = f"{tuned.lr:g} at batches of {tuned.batch_size}, times {_LAWS[law]}" if lr != tuned.lr else None
    facts = OmegaConf.to_container(cfg.tuning, resolve=True)
    assert isinstance(facts, dict)
    return {
        "about": about({str(key): value for key, value in facts.items()}, values, overrides),
        "rate": note and note.format(batch_size, tuned.batch_size),
    }


_LAWS = {"sqrt_down": "sqrt({}/{})", "sqrt": "sqrt({}/{})", "linear": "{}/{}"}


def about(facts: Mapping[str, Any], values: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """One line on what the settings of a run rest on: the measurement of its pair, if there is one."""
    model, data = values["model"]["name"], values["data"]["name"]
    if facts.get("pair") != f"{model}_{data}" or facts.get("accuracy") is None:
        return not_measured(model, data)
    return measured(facts) + _changed(facts.get("settings") or {}, values) + _besides(facts, values, overrides)


def not_measured(model: str, data: str) -> str:
    """One line on a pair without a measurement, with the remedy."""
    return f"not measured. To measure: snnrun tune model={model} data={data}"


def measured(facts: Mapping[str, Any]) -> str:
    """One line on the measurement of a pair."""
    spread = "" if facts.get("deviation") is None else f" ± {100 * facts['deviation']:.2f}"
    place = " on the surrogate corpus" if facts.get("origin") == "surrogate" else ""
    text = f"measured{place}: validation {100 * facts['accuracy']:.2f}{spread} %"
    seeds = facts.get("seeds")
    if facts.get("trials") is None:
        return text + (f" ({seeds} seed{'s' if seeds != 1 else ''})" if seeds else "") + ", chosen by hand"
    short = f" of {facts['epochs']} epoch{'s' if facts['epochs'] != 1 else ''}"
    some = f" on {facts['samples']:,} samples" if facts.get("samples") else ""
    return (
        f"{text} ({seeds} seed{'s' if seeds != 1 else ''}), chosen by {facts['trials']} trials{short}{some}, "
        f"snnrun {facts['version']}, {facts['date']}"
    )


def _changed(settings: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """What a run changes of the settings that were measured."""
    found = []
    for key, value in settings.items():
        section, _, name = key.partition(".")
        now = values.get(section, {}).get(name)
        if now != value and key != "train.lr":  # the rate goes with the batch
            found.append(f"{key}={_text(value)}")
    return f"; with {', '.join(found)}, which this run changes" if found else ""


def _besides(facts: Mapping[str, Any], values: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """What the command line sets of what the tuned file leaves as it is, so that it was not measured."""
    found, known = [], facts.get("settings") or {}
    for word in overrides:
        key = word.partition("=")[0].lstrip("+~")
        section, _, name = key.partition(".")
        if key == "input" or (key == "encoder" and values["encoder"]["name"] != facts.get("encoder")):
            found.append(f"{key}={word.partition('=')[2]}")
        if not name or section not in SECTIONS or key in known or key in APART:
            continue
        value = values[section].get(name)
        if section == "encoder" or value != _default(section, name, values):
            found.append(f"{key}={_text(value)}")
    some = [*found[:SHOWN], *([f"{len(found) - SHOWN} more"] if len(found) > SHOWN else [])]
    return f"; not measured with {', '.join(some)}" if found else ""


def _default(section: str, name: str, values: Mapping[str, Any]) -> Any:
    """What a key has where nobody sets it. Of an encoder it depends on the corpus, so this is not for encoders."""
    if section == "train":
        found = {entry.name: entry.default for entry in fields(Options)}.get(name)
        return list(found) if isinstance(found, tuple) else found
    text = options.files(section).get(values[section]["name"], "")
    return (yaml.safe_load(text) or {}).get(name)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else f"{value}"
