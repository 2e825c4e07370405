"""The weights of another run as those that a training begins with (`model.weights`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from snnrun.errors import SnnrunError, UsageError
from snnrun.network import Layer, Network
from snnrun.record import names, run_folder
from snnrun.record.run_folder import RunFolder
from snnrun.rules import RULES, LayerKind, LayerWeights, LeeRule, Rule
from snnrun.rules.constants import TENSORS, Constant
from snnrun.rules.delays import Delaying
from snnrun.run import trained

# What a layer may have that those of the source have not.
OWN = {*TENSORS.values(), "delay"}
# The options of rules that say what a neuron makes of its input.
NEURON = (
    *("v_th", "decay", "tau_m", "tau_s", "tau_r", "t_ref", "strict_threshold", "reset", "refractory"),
    *("refractory_scale", "lateral", "inhibition", "adaptation", "tau_adaptation", "adaptation_strength"),
)
ROUNDED = 1e-6  # by so much may a constant of float32 lie beyond its range


def take(network: Network, source: str, outputs: Path, own: Path) -> str:
    """Load the leading layers of `network` that a run or a file also has, and leave the others as they were drawn.

    Layers are compared from the input on, by the shapes of their weights. The first that differs ends it, so a network
    may have other layers or classes behind those that it takes over. Constants that are trained here and not there
    begin at their initial values, and delays that are not there are those that were drawn.

    Trained constants are stored over their initial values. They stay what they were trained to where those of the
    source are known, which is in the folder of a run. What else the neurons are is by the config of this run; the note
    says where that differs.

    Args:
        network: gets the weights.
        source: a file of weights, or a run as `run_folder.find` takes it. Of a run: the best weights if it has them.
        outputs: folder of all runs.
        own: folder of the run that begins, which has no weights of its own yet.

    Returns:
        A note on what was taken, and on what the neurons were there and are not here.

    Raises:
        UsageError: there is no such run or file, or not even the first layer fits, or a trained constant or a delay
            lies beyond what this run allows.
        SnnrunError: the file is damaged.
    """
    path = _file(source, outputs, own)
    found, wanted, taken = trained.read(path), network.state_dict(), list[str]()
    before, kinds, notes = _rule(path.parent, named=not Path(source).is_file()), list[LayerKind](), _Notes()
    for number, (name, layer) in enumerate(zip(network.layer_names, network.layers, strict=True)):
        assert isinstance(layer, Layer)
        here, there = (_layer(state, number) for state in (wanted, found))
        new = {key for key in here.keys() - there.keys() if key.rpartition(".")[2] in OWN}
        if here.keys() - new != there.keys() or any(here[key].shape != there[key].shape for key in there):
            break
        if there:
            tensors: dict[str, Any] = {key.rpartition(".")[2]: value for key, value in there.items()}
            weights = LayerWeights(**tensors)
            for own_name, ratio in _constants_here(f"{path}: {name}", layer.kind, weights, network.rule, before, notes):
                there[f"layers.{number}.{own_name}"] = ratio
            _check_delays(f"{path}: {name}", weights.delay, network.rule)
        wanted |= there
        taken += [name] if there else []
        kinds.append(layer.kind)
    if not taken:
        raise UsageError(
            f"model.weights: {path} does not fit: its first layer is {_shapes(_layer(found, 0))}, and this network's "
            f"{_shapes(_layer(network.state_dict(), 0))}. Give the weights of a network that begins as this one does."
        )
    network.load_state_dict(wanted)
    differing = () if before is None else _differences(before, network.rule, kinds)
    said = [f"Of {path}: the weights of {', '.join(taken)}.", _others(network.layer_names, taken)]
    said += [f"There {'; '.join(differing)}."] if differing else []
    said += ["Constants that were trained there stay what they were."] if notes.rescaled else []
    if notes.unknown:
        said.append(
            f"The initial values that its trained {', '.join(sorted(notes.unknown))} are stored over are not known: "
            "those of this run are taken for them."
        )
    return " ".join(said)


@dataclasses.dataclass
class _Notes:
    """What became of trained constants: some are over other initial values now; names of those nothing is known of."""

    rescaled: bool = False
    unknown: set[str] = dataclasses.field(default_factory=set)


def _file(source: str, outputs: Path, own: Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    try:
        folder = run_folder.find(source, outputs).path
    except UsageError as error:
        raise UsageError(f"model.weights: {error}") from None
    if folder.resolve() == own.resolve():
        raise UsageError(f"model.weights: {source!r} is this run itself, which has none yet. Give another by its name.")
    there = [folder / file for file in trained.WEIGHTS.values() if (folder / file).is_file()]
    if not there:
        raise UsageError(f"model.weights: {trained.no_weights(folder)}")
    return there[0]


def _rule(folder: Path, *, named: bool) -> Rule | None:
    """The rule of the run whose folder this is; None if it is none's, or of no rule that is known.

    Raises SnnrunError if the user named a run and its config is damaged. Beside a file, any other may be `config.yaml`.
    """
    if not (folder / names.CONFIG).is_file():
        return None
    try:
        model = RunFolder(folder).values().get("model")
    except SnnrunError:
        if named:
            raise
        return None
    if not isinstance(model, dict) or model.get("name") not in RULES or "v_th" not in model:
        return None
    made = RULES[model["name"]]
    options = {field.name for field in dataclasses.fields(made)}
    return made(**{key: value for key, value in model.items() if key in options})


def _constants(rule: Rule, kind: LayerKind, weights: LayerWeights) -> dict[str, Constant]:
    """The trained constants of a layer, by the names of their tensors."""
    found = {TENSORS[constant.name]: constant for constant in rule.constants(kind, weights)}
    if isinstance(rule, LeeRule) and weights.threshold is not None:
        initial = rule.initial_threshold(kind, weights.weight[0].numel())
        found["threshold"] = Constant("v_th", "mV", initial, weights.threshold, rule.least_threshold, math.inf)
    return found


def _constants_here(
    where: str, kind: LayerKind, weights: LayerWeights, rule: Rule, before: Rule | None, notes: _Notes
) -> Iterator[tuple[str, Tensor]]:
    """The trained constants of a layer of the source, each as its tensor's name and over the initial value here."""
    theirs = {} if before is None else _constants(before, kind, weights)
    for name, constant in _constants(rule, kind, weights).items():
        ratio = constant.ratio
        if name not in theirs:
            notes.unknown.add(constant.name)
        elif theirs[name].initial != constant.initial:
            notes.rescaled = True
            ratio = ratio * (theirs[name].initial / constant.initial)
        low, high, initial, unit = constant.low, constant.high, constant.initial, constant.unit
        least, most = ratio.min().item(), ratio.max().item()
        if least < low * (1 - ROUNDED) or most > high * (1 + ROUNDED):
            key, turn = ("least_threshold", "Lower") if isinstance(rule, LeeRule) else ("constants_range", "Raise")
            has = f"{constant.name} from {initial * least:.4g} to {initial * most:.4g} {unit}".rstrip()
            raise UsageError(
                f"model.{key}: {where} has {has}, and here it is between {initial * low:.4g} and {initial * high:.4g}. "
                f"{turn} model.{key}, or begin with the initial values and the range of the source."
            )
        yield name, ratio.clamp(low, high)


def _check_delays(where: str, delay: Tensor | None, rule: Rule) -> None:
    """Raise UsageError if delays of a layer are longer than the rule's longest."""
    if delay is not None and isinstance(rule, Delaying) and delay.max() > rule.max_delay:
        raise UsageError(
            f"model.max_delay: {where} has delays of up to {delay.max().item():.4g} steps, and here the longest is "
            f"{rule.max_delay}. Set model.max_delay={math.ceil(delay.max().item())} or more."
        )


def _differences(there: Rule, here: Rule, kinds: Sequence[LayerKind]) -> list[str]:
    """What the neurons of these layers are there and not here, such as `model.v_th=[0.15], here [0.5]`."""
    found = []
    theirs, ours = (next((name for name, made in RULES.items() if made is type(rule)), "") for rule in (there, here))
    if theirs != ours:
        found.append(f"model={theirs}, here {ours}")
    options = {field.name for field in dataclasses.fields(there)} & {field.name for field in dataclasses.fields(here)}
    for name in NEURON:
        if name not in options or not _matters(name, there, here, kinds):
            continue
        old, new = getattr(there, name), getattr(here, name)
        if name == "v_th":
            if any(there.threshold(kind) != here.threshold(kind) for kind in kinds):
                found.append(f"model.v_th={[*old]}, here {[*new]}")
        elif old != new:
            found.append(f"model.{name}={_text(old)}, here {_text(new)}")
    return found


def _matters(name: str, there: Rule, here: Rule, kinds: Sequence[LayerKind]) -> bool:
    """Whether an option says anything of the neurons of these layers."""
    if name == "lateral":
        return any(kind.output for kind in kinds)
    if name == "inhibition":
        return any(kind.window is None for kind in kinds)
    if name in ("adaptation", "tau_adaptation", "adaptation_strength"):
        adapts = any(getattr(rule, "adaptation", "none") != "none" for rule in (there, here))
        return adapts and not all(kind.output for kind in kinds)
    return True


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _layer(state: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.startswith(f"layers.{number}.")}


def _shapes(layer: dict[str, Tensor]) -> str:
    weights = {key.rpartition(".")[2]: tuple(value.shape) for key, value in layer.items() if not key.endswith("mask")}
    return ", ".join(f"{name} {shape}" for name, shape in weights.items()) or "absent"


def _others(layers: list[str], taken: list[str]) -> str:
    rest = layers[layers.index(taken[-1]) + 1 :]
    return f"Those of {', '.join(rest)} are drawn." if rest else "Nothing is drawn."
