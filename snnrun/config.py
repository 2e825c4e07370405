"""What can be configured: one dataclass per option of every config group, and the checks that types cannot express.

The dataclasses say which keys exist, of which type and in which range; the default values stand in `conf/`, each beside
the reason for it. OmegaConf refuses an unknown key or a wrong type while it composes; `check` does the rest.
"""

# ruff: noqa: RUF009 - _number and _choice return dataclass fields

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from snnrun.errors import UsageError


def _number(*, low: float | None = None, above: float | None = None, below: float | None = None) -> Any:
    """A field with a range: at least `low`, greater than `above`, less than `below`."""
    return field(default=MISSING, metadata={"range": (low, above, below)})


def _choice(*allowed: str) -> Any:
    """A field with a closed list of values."""
    return field(default=MISSING, metadata={"choices": allowed})


# ---- data, encoder --------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """A corpus."""

    name: str = MISSING
    root: str | None = MISSING
    limit: int | None = _number(low=1)
    validation: float = _number(low=0, below=1)
    download: bool = MISSING


@dataclass
class Images(Data):
    """`data=digits`, `mnist`, `fashion_mnist`."""

    mirror: bool = MISSING
    shift: int = _number(low=0)


@dataclass
class Utterances(Data):
    """`data=utterances`."""

    classes: int = _number(low=2)
    samples: int = _number(low=1)
    steps: int = _number(low=2)
    variant: int = _number(low=0)


@dataclass
class Ti46Alpha(Data):
    """`data=ti46_alpha`."""


@dataclass
class Ti46Digits(Data):
    """`data=ti46_digits`."""

    test_limit: int | None = _number(low=1)


@dataclass
class Fsdd(Data):
    """`data=fsdd`."""

    split: str = _choice("official", "speaker")
    held_out: list[str] = MISSING


@dataclass
class AudioFolder(Data):
    """`data=audio_folder`."""

    test_fraction: float = _number(above=0, below=1)
    split_seed: int = _number(low=0)


@dataclass
class Ntidigits(Data):
    """`data=ntidigits`."""

    split: str = _choice("official", "ab")
    class_order: str = _choice("zero_first", "oh_first")
    bin_ms: float = _number(above=0)
    steps: int = _number(low=1)


@dataclass
class Poisson:
    """`encoder=poisson`: a spike with probability pixel / 255 / attenuation in steps 1 to steps - 1."""

    name: str = MISSING
    steps: int = _number(low=2)
    frozen: bool = MISSING
    attenuation: float = _number(low=1)


@dataclass
class Bernoulli:
    """`encoder=bernoulli`: a spike with probability pixel / 255 / attenuation in every step."""

    name: str = MISSING
    steps: int = _number(low=1)
    frozen: bool = MISSING
    attenuation: float = _number(low=1)


@dataclass
class Stored:
    """`encoder=stored`: the samples are spikes."""

    name: str = MISSING
    steps: int | None = _number(low=1)


@dataclass
class LyonBsa:
    """`encoder=lyon_bsa`: recordings through Lyon's passive ear and Ben's Spiker Algorithm."""

    name: str = MISSING
    steps: int = _number(low=2)
    sample_rate: int = _number(low=1)
    loudness: str = _choice("none", "rms")
    loudness_rms: float = _number(above=0)
    decimation: int = _number(low=1)
    ear_q: float = _number(above=0.5)
    step_factor: float = _number(above=0)
    agc: bool = MISSING
    difference: bool = MISSING
    tau_factor: float = _number(above=0)
    gain: float = _number(above=0)
    hold: int = _number(low=1)
    threshold: float = _number(low=0, below=1)


# ---- model ----------------------------------------------------------------------------------------------------------


@dataclass
class SpikeTrainModel:
    """What the two rules on spike trains, ST-RSBP and HM2-BP, share. Times in ms (steps), thresholds in mV."""

    name: str = MISSING
    network: str = MISSING
    v_th: Any = _number(above=0)  # a number or a list of them: no OmegaConf type allows both
    tau_m: float = _number(low=1)
    tau_s: float = _number(low=1)
    t_ref: int = _number(low=0)
    desired: float = _number(above=0)
    undesired: float = _number(low=0)
    margin: float = _number(low=0)
    revive: bool = MISSING
    loss: str = _choice("count", "softmax")
    lateral: float = _number(low=0)
    lateral_factor: bool = MISSING
    silent_ratio: float = _number(low=0)
    regulariser: float = _number(low=0)
    regulariser_beta: float = _number(above=0)
    weight_limit: float = _number(above=0)
    regulariser_fan_in: str = _choice("own", "authors")
    init: str = _choice("uniform", "fixed")
    init_scale: float = _number(above=0)
    init_fixed_inputs: int = _number(low=1)
    connectivity: str = _choice("two_sided", "one_sided", "full")
    recurrent_init: str = _choice("uniform", "sign")


@dataclass
class StRsbp(SpikeTrainModel):
    """`model=strsbp`."""

    slope: str = _choice("none", "counts", "table")
    slope_tables: str = _choice("own", "authors")
    slope_rows: int = _number(low=5)
    extrapolate_slope: bool = MISSING
    solve: str = _choice("paper", "authors")
    self_coupling: bool = MISSING


@dataclass
class Hm2Bp(SpikeTrainModel):
    """`model=hm2bp`."""

    effect_ratio: bool = MISSING
    silent_effect: float = _number(low=0)


@dataclass
class Stbp:
    """`model=stbp`."""

    name: str = MISSING
    network: str = MISSING
    v_th: Any = _number(above=0)
    decay: float = _number(low=0, below=1)
    surrogate: str = _choice("rectangle", "polynomial", "sigmoid", "gaussian")
    surrogate_width: float = _number(above=0)
    temporal_gradient: bool = MISSING
    strict_threshold: bool = MISSING
    reset: str = _choice("hard", "exponential")
    bias: bool = MISSING
    init: str = _choice("unit_norm", "torch")
    connectivity: str = _choice("full", "two_sided", "one_sided")
    loss: str = _choice("squared", "mean_squared")


# ---- training, hardware, tracking -----------------------------------------------------------------------------------


@dataclass
class Train:
    """The section `train`: the loop and the optimiser."""

    epochs: int = _number(low=1)
    batch_size: int = _number(low=1)
    lr: float = _number(above=0)
    schedule: str = _choice("constant", "cosine", "inverse_sqrt", "inverse_sqrt_late", "step")
    schedule_milestones: list[int] = _number(low=1)
    schedule_factor: float = _number(above=0)
    optimizer: str = _choice("adam", "sgd")
    momentum: float = _number(low=0, below=1)
    clip_norm: float | None = _number(above=0)
    shuffle: str = _choice("full", "transpositions")
    boosting: bool = MISSING


@dataclass
class Hardware:
    """`hardware=auto`, `cpu`, `gpu`."""

    device: str = _choice("auto", "cpu", "cuda")
    threads: int | None = _number(low=1)
    kernels: str = _choice("auto", "reference", "cpu", "gpu")


@dataclass
class Tracking:
    """`tracking=mlflow`, `none`."""

    kind: str = _choice("mlflow", "none")
    uri: str | None = MISSING
    experiment: str = MISSING
    run_name: str | None = MISSING
    system_metrics: bool = MISSING


@dataclass
class Config:
    """The whole, in the order in which a run uses it. The groups are typed by the option that is chosen."""

    seed: int = _number(low=0, below=2**32)
    outputs: str = MISSING
    data: Any = MISSING
    encoder: Any = MISSING
    model: Any = MISSING
    train: Train = field(default_factory=Train)
    hardware: Any = MISSING
    tracking: Any = MISSING


SCHEMAS: dict[str, dict[str, type]] = {
    "data": {
        "digits": Images,
        "mnist": Images,
        "fashion_mnist": Images,
        "utterances": Utterances,
        "ti46_alpha": Ti46Alpha,
        "ti46_digits": Ti46Digits,
        "fsdd": Fsdd,
        "audio_folder": AudioFolder,
        "ntidigits": Ntidigits,
    },
    "encoder": {"poisson": Poisson, "bernoulli": Bernoulli, "stored": Stored, "lyon_bsa": LyonBsa},
    "model": {"strsbp": StRsbp, "hm2bp": Hm2Bp, "stbp": Stbp},
    "hardware": {"auto": Hardware, "cpu": Hardware, "gpu": Hardware},
    "tracking": {"mlflow": Tracking, "none": Tracking},
}


def register() -> None:
    """Put the schemas where Hydra finds them: `train_schema` and `<group>/<option>_schema`."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=Config)
    for group, options in SCHEMAS.items():
        for option, schema in options.items():
            store.store(group=group, name=f"{option}_schema", node=schema)


# ---- checks ---------------------------------------------------------------------------------------------------------


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest spelling of `word`, or nothing."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def check(cfg: DictConfig) -> None:
    """Raise UsageError for a value out of range and for values that cannot work together. Loads no data."""
    _check_section("", cfg, Config)
    for group, options in SCHEMAS.items():
        schema = OmegaConf.get_type(cfg[group])
        if schema is None or schema not in options.values():
            raise UsageError(
                f"{group}: this option has no schema, so its keys cannot be checked. Begin its file with "
                f"defaults: [<one of {', '.join(options)}>, _self_]"
            )
        _check_section(f"{group}.", cfg[group], schema)
        name = cfg[group].get("name")
        if name is not None and options.get(name) is not schema:
            raise UsageError(f"{group}.name: {name!r} does not belong to these keys. Choose it by {group}={name}")
    _check_section("train.", cfg.train, Train)
    _check_model(cfg.model)
    if cfg.train.momentum and cfg.train.optimizer != "sgd":
        raise UsageError("train.momentum: only train.optimizer=sgd has one. Set train.momentum=0 or choose sgd.")
    _check_hardware(cfg.hardware)


def _check_section(prefix: str, section: DictConfig, schema: type) -> None:
    known = [entry.name for entry in fields(schema)]
    for name in map(str, section):
        if name not in known and name != "hydra":  # added by +key=value
            raise UsageError(f"{prefix}{name}: no such key. Allowed: {', '.join(known)}.{did_you_mean(name, known)}")
    for entry in fields(schema):
        key = prefix + entry.name
        if OmegaConf.is_missing(section, entry.name):
            raise UsageError(f"{key}: has no value. Write {key}=VALUE")
        value = section[entry.name]
        if value is None:
            continue
        if "choices" in entry.metadata and value not in entry.metadata["choices"]:
            allowed = entry.metadata["choices"]
            raise UsageError(
                f"{key}: {value!r} is not allowed. Allowed: {', '.join(allowed)}.{did_you_mean(value, allowed)}"
            )
        if "range" in entry.metadata:
            for number in value if OmegaConf.is_list(value) else [value]:
                _check_number(key, number, *entry.metadata["range"])


def _check_number(key: str, value: Any, low: float | None, above: float | None, below: float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{key}: {value!r} is not a number")
    limits = {"at least": low, "greater than": above, "less than": below}
    within = (low is None or value >= low) and (above is None or value > above) and (below is None or value < below)
    if not (math.isfinite(value) and within):
        allowed = " and ".join(f"{word} {limit}" for word, limit in limits.items() if limit is not None)
        raise UsageError(f"{key}: {value:g} is out of range. Allowed: {allowed}.")


def _check_model(model: DictConfig) -> None:
    if "desired" in model and not model.undesired < model.desired:
        raise UsageError(f"model.undesired: {model.undesired:g} is not less than model.desired, {model.desired:g}.")
    if model.get("name") == "hm2bp" and model.tau_m == model.tau_s:
        raise UsageError(
            f"model.tau_s: {model.tau_s:g} equals model.tau_m, for which HM2-BP's closed form has no value."
        )
    from snnrun.network import check_thresholds

    check_thresholds(_thresholds(model.v_th), model.network)


def _check_hardware(hardware: DictConfig) -> None:
    from snnrun import hardware as machine
    from snnrun import kernels

    # In this order a wrong pair of settings is told as such on a machine without the device, too.
    kernels.choose(hardware.kernels, machine.choose("auto") if hardware.device == "auto" else hardware.device)
    machine.choose(hardware.device)


# ---- to plain values ------------------------------------------------------------------------------------------------


def _thresholds(v_th: Any) -> list[float]:
    return [float(value) for value in (v_th if OmegaConf.is_list(v_th) or isinstance(v_th, list) else [v_th])]


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain, resolved dictionaries; `model.v_th` always a list of floats."""
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    values["model"]["v_th"] = _thresholds(values["model"]["v_th"])
    return {str(key): value for key, value in values.items()}
