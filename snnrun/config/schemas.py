"""The schema of every option of every config group: which keys exist, of which type and in which range.

The default values stand in `conf/`, each beside the reason for it. `config` composes and checks.
"""

# ruff: noqa: RUF009 - _number and _choice return dataclass fields

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


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
    """`data=digits`, `mnist`, `fashion_mnist`, `cifar10`."""

    mirror: bool = MISSING
    shift: int = _number(low=0)
    elastic: float = _number(low=0)
    rotation: float = _number(low=0)
    scale: float = _number(low=0)
    distortion: str = _choice("own", "authors")


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
class Nmnist(Data):
    """`data=nmnist`."""

    bin_ms: float = _number(low=0.001)
    steps: int = _number(low=2)
    polarity: str = _choice("kept", "merged")
    stabilise: bool = MISSING


@dataclass
class ImageFolder(Images):
    """`data=image_folder`."""

    rows: int = _number(low=1)
    columns: int = _number(low=1)
    colour: bool = MISSING
    fit: str = _choice("stretch", "pad", "crop")
    background: int = _number(low=0, below=256)
    levels: list[float] | None = MISSING
    test_fraction: float = _number(above=0, below=1)
    split_seed: int = _number(low=0)


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
    conv_init_scale: float = _number(above=0)
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
    convolution: str = _choice("spsp", "authors")


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


# ---- training, hardware, tracking, sweeps ---------------------------------------------------------------------------


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
class Checkpoint:
    """The section `checkpoint`."""

    every_minutes: float | None = _number(low=0)


@dataclass
class Hardware:
    """`hardware=auto`, `cpu`, `gpu`."""

    device: str = _choice("auto", "cpu", "cuda")
    threads: int | None = _number(low=1, below=1025)
    processes: int = _number(low=1)
    wait_minutes: float = _number(above=0)
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
class Search:
    """`search=grid`, `random`, `optuna`."""

    method: str = _choice("grid", "random", "optuna")
    trials: int = _number(low=1)
    startup: int = _number(low=1)
    parallel: int | None = _number(low=1)
    prune: bool = MISSING
    prune_after: int = _number(low=1)
    space: Any = MISSING


@dataclass
class Sweep:
    """The section `sweep`."""

    resume: str | None = MISSING
    fail_fast: bool = MISSING


@dataclass
class Config:
    """The whole, in the order in which a run uses it. The groups are typed by the option that is chosen."""

    seed: int = _number(low=0, below=2**32)
    outputs: str = MISSING
    plugin: Any = None  # a name or a list of names
    data: Any = MISSING
    encoder: Any = MISSING
    model: Any = MISSING
    train: Train = field(default_factory=Train)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    hardware: Any = MISSING
    tracking: Any = MISSING
    search: Any = MISSING
    sweep: Sweep = field(default_factory=Sweep)


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
        "nmnist": Nmnist,
        "cifar10": Images,
        "image_folder": ImageFolder,
    },
    "encoder": {"poisson": Poisson, "bernoulli": Bernoulli, "stored": Stored, "lyon_bsa": LyonBsa},
    "model": {"strsbp": StRsbp, "hm2bp": Hm2Bp, "stbp": Stbp},
    "hardware": {"auto": Hardware, "cpu": Hardware, "gpu": Hardware},
    "tracking": {"mlflow": Tracking, "none": Tracking},
    "search": {"grid": Search, "random": Search, "optuna": Search},
}
# Of these, what plugins have registered: an option's file need not name its schema.
PLUGINS: dict[tuple[str, str], type] = {}
