"""The kernels as operators of PyTorch, `torch.ops.snnrun.*`. The rules call them; compilation and export see them.

Each runs the function of the same name of the backend in use; `reference` describes it. An operator takes only tensors
and plain numbers, so each has a wrapper that takes the neuron and the synapses as the backends do. The fakes give
shapes and types, so that PyTorch can trace without running. `docs/python.md` compiles and exports a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.neuron import Lif, Synapses
from snnrun.kernels.packed import words
from snnrun.kernels.plastic import Liquids, Stdp

_Function = TypeVar("_Function", bound=Callable[..., Any])

# The module whose functions run; `kernels.use` chooses it.
backend: Any = reference

_NO_SYNAPSES = (None, None, None)


def _synapses(weight: Tensor | None, pre: Tensor | None, post: Tensor | None) -> Synapses | None:
    return None if weight is None or pre is None or post is None else Synapses(weight, pre, post)


# torch.library.custom_op would do all this too, but each call would cost three times as much.
_library = torch.library.Library("snnrun", "DEF")  # type: ignore[no-untyped-call]


def operator(function: Callable[..., Any]) -> Any:
    """Register a function as an operator, by its name without underscore; returns a callable that runs it."""
    name = function.__name__.removeprefix("_")
    schema = name + torch.library.infer_schema(function, mutates_args=())
    _library.define(schema)  # type: ignore[no-untyped-call]
    _library.impl(name, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    return getattr(torch.ops.snnrun, name).default


def fake(name: str) -> Callable[[_Function], _Function]:
    """Register a function that gives only the shapes and types of an operator's results."""
    register: Callable[[_Function], _Function] = torch.library.register_fake(f"snnrun::{name}", lib=_library)
    return register


@operator
def _count_spikes(spikes: Tensor, neurons: int, dtype: torch.dtype = torch.float32) -> Tensor:
    counts: Tensor = backend.count_spikes(spikes, neurons, dtype)
    return counts


@fake("count_spikes")
def _(spikes: Tensor, neurons: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return spikes.new_empty(spikes.shape[0], neurons, dtype=dtype)


def count_spikes(spikes: Tensor, neurons: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """See `packed.count_spikes`."""
    counts: Tensor = _count_spikes(spikes, neurons, dtype)
    return counts


def by_input(weight: Tensor) -> Tensor:
    """A gradient of the weight, stored input by input as layers store their weights, in any case."""
    return weight.new_empty(weight.shape[1], weight.shape[0]).T


# ---- spike-train-level rules ----------------------------------------------------------------------------------------


@operator
def _lif_forward(
    spikes_in: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    pre: Tensor | None,
    post: Tensor | None,
    tau_m: float,
    tau_s: float,
    t_ref: int,
    v_th: float,
) -> tuple[Tensor, Tensor]:
    recurrent = _synapses(recurrent_weight, pre, post)
    result: tuple[Tensor, Tensor] = backend.lif_forward(spikes_in, weight, recurrent, Lif(tau_m, tau_s, t_ref, v_th))
    return result


@fake("lif_forward")
def _(spikes_in: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, steps = spikes_in.shape[:2]
    return spikes_in.new_empty(batch, steps, words(weight.shape[0])), weight.new_empty(batch, weight.shape[0])


def lif_forward(spikes_in: Tensor, weight: Tensor, recurrent: Synapses | None, lif: Lif) -> tuple[Tensor, Tensor]:
    """See `reference.lif_forward`."""
    result: tuple[Tensor, Tensor] = _lif_forward(spikes_in, weight, *(recurrent or _NO_SYNAPSES), *lif)
    return result


@operator
def _spsp_activation(
    rule: str, spikes_in: Tensor, spikes: Tensor, weight: Tensor, tau_m: float, tau_s: float, t_ref: int, v_th: float
) -> Tensor:
    result: Tensor = backend.spsp_activation(rule, Lif(tau_m, tau_s, t_ref, v_th), spikes_in, spikes, weight)
    return result


@fake("spsp_activation")
def _(_rule: str, spikes_in: Tensor, _spikes: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return weight.new_empty(spikes_in.shape[0], weight.shape[0])


def spsp_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor) -> Tensor:
    """See `reference.spsp_activation`."""
    result: Tensor = _spsp_activation(rule, spikes_in, spikes, weight, *lif)
    return result


@operator
def _spsp_backward(
    rule: str,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    gain_slope: Tensor | None,
    tau_m: float,
    tau_s: float,
    t_ref: int,
    v_th: float,
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = backend.spsp_backward(
        rule, Lif(tau_m, tau_s, t_ref, v_th), spikes_in, spikes, gain, credit, weight, gain_slope
    )
    return result


@fake("spsp_backward")
def _(
    _rule: str,
    spikes_in: Tensor,
    _spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    gain_slope: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, (neurons, inputs) = spikes_in.shape[0], weight.shape
    gradient = weight.new_empty(0, 0) if gain is None else by_input(weight)
    below = weight.new_empty(batch, 0 if credit is None else inputs)
    return gradient, below, weight.new_empty(batch, 0 if gain_slope is None else neurons)


def spsp_backward(
    rule: str,
    lif: Lif,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    gain_slope: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.spsp_backward`."""
    result: tuple[Tensor, Tensor, Tensor] = _spsp_backward(
        rule, spikes_in, spikes, gain, credit, weight, gain_slope, *lif
    )
    return result


# ---- recurrent layers -----------------------------------------------------------------------------------------------


@operator
def _recurrent_spsp(
    rule: str,
    spikes: Tensor,
    weight: Tensor,
    pre: Tensor,
    post: Tensor,
    neurons: int,
    tau_m: float,
    tau_s: float,
    t_ref: int,
    v_th: float,
) -> Tensor:
    lif, recurrent = Lif(tau_m, tau_s, t_ref, v_th), Synapses(weight, pre, post)
    e: Tensor = backend.recurrent_spsp(rule, lif, spikes, recurrent, neurons, weight.dtype)
    return e


@fake("recurrent_spsp")
def _(_rule: str, spikes: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return weight.new_empty(spikes.shape[0], weight.shape[0])


def recurrent_spsp(rule: str, lif: Lif, spikes: Tensor, recurrent: Synapses, neurons: int) -> Tensor:
    """See `reference.recurrent_spsp`. The result has the type of the weights."""
    result: Tensor = _recurrent_spsp(rule, spikes, *recurrent, neurons, *lif)
    return result


@operator
def _coupling(
    e: Tensor, counts: Tensor, weight: Tensor, pre: Tensor, post: Tensor, v_th: float, silent_ratio: float
) -> Tensor:
    theta: Tensor = backend.coupling(e, counts, Synapses(weight, pre, post), v_th, silent_ratio)
    return theta


@fake("coupling")
def _(e: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(e)


def coupling(e: Tensor, counts: Tensor, recurrent: Synapses, v_th: float, silent_ratio: float) -> Tensor:
    """See `reference.coupling`."""
    result: Tensor = _coupling(e, counts, *recurrent, v_th, silent_ratio)
    return result


@operator
def _coupling_solve(
    theta: Tensor,
    weight: Tensor,
    pre: Tensor,
    post: Tensor,
    diagonal: Tensor,
    right: Tensor,
    self_coupling: bool,
) -> Tensor:
    x: Tensor = backend.coupling_solve(theta, Synapses(weight, pre, post), diagonal, right, self_coupling)
    return x


@fake("coupling_solve")
def _(
    _theta: Tensor, _weight: Tensor, _pre: Tensor, _post: Tensor, _diagonal: Tensor, right: Tensor, _own: bool
) -> Tensor:
    return torch.empty_like(right)


def coupling_solve(
    theta: Tensor, recurrent: Synapses, diagonal: Tensor, right: Tensor, self_coupling: bool = True
) -> Tensor:
    """See `reference.coupling_solve`."""
    result: Tensor = _coupling_solve(theta, *recurrent, diagonal, right, self_coupling)
    return result


@operator
def _recurrent_gradient(e: Tensor, gain: Tensor, weight: Tensor, pre: Tensor, post: Tensor) -> Tensor:
    gradient: Tensor = backend.recurrent_gradient(e, gain, Synapses(weight, pre, post))
    return gradient


@fake("recurrent_gradient")
def _(_e: Tensor, _gain: Tensor, weight: Tensor, _pre: Tensor, _post: Tensor) -> Tensor:
    return torch.empty_like(weight)


def recurrent_gradient(e: Tensor, gain: Tensor, recurrent: Synapses) -> Tensor:
    """See `reference.recurrent_gradient`."""
    result: Tensor = _recurrent_gradient(e, gain, *recurrent)
    return result


@operator
def _slope_sum(
    table: Tensor,
    counts_in: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    pre: Tensor | None,
    post: Tensor | None,
    counts: Tensor,
) -> Tensor:
    slopes: Tensor = backend.slope_sum(table, counts_in, weight, _synapses(recurrent_weight, pre, post), counts)
    return slopes


@fake("slope_sum")
def _(table: Tensor, *others: Any) -> Tensor:
    return table.new_empty(others[-1].shape)


def slope_sum(table: Tensor, counts_in: Tensor, weight: Tensor, recurrent: Synapses | None, counts: Tensor) -> Tensor:
    """See `reference.slope_sum`."""
    slopes: Tensor = _slope_sum(table, counts_in, weight, *(recurrent or _NO_SYNAPSES), counts)
    return slopes


# ---- liquids whose input synapses learn; no operators, since nothing differentiates or compiles them ----------------


def liquid_learn(
    spikes_in: Tensor, liquids: Liquids, weight: Tensor, raised: Tensor, stdp: Stdp, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.liquid_learn`."""
    result: tuple[Tensor, Tensor, Tensor, Tensor] = backend.liquid_learn(spikes_in, liquids, weight, raised, stdp, rate)
    return result


def liquid_respond(
    spikes_in: Tensor, liquids: Liquids, weight: Tensor, raised: Tensor, stdp: Stdp
) -> tuple[Tensor, Tensor]:
    """See `reference.liquid_respond`."""
    result: tuple[Tensor, Tensor] = backend.liquid_respond(spikes_in, liquids, weight, raised, stdp)
    return result
