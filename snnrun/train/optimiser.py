"""The update of the weights: Adam as in the papers, AdamW, RMSProp or SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

# Adam's constants in the papers.
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
# RMSProp's in Keras, from whose example the papers take their row.
RMS_DECAY, RMS_EPSILON = 0.9, 1e-7
# If at most this share of a parameter's entries exists, they are gathered, and only they are moved.
SPARSE = 0.5


State = dict[str, Tensor]


class Optimiser:
    """Moves parameters by the gradients that they hold.

    Args:
        trained: parameters, each with the mask of the entries that exist, or None: see `Network.trained`. The other
            entries have no gradient.
        name: `adam`, `adamw`, `rmsprop` or `sgd`.
        momentum: of SGD and RMSProp.
        weight_decay: times a weight, it is added to the weight's gradient. `adamw` instead takes this share of a weight
            away at each step, times the learning rate (Loshchilov and Hutter 2019).
        decoupled: with the other names too.
        apart: those of the parameters that do not decay, with the factor of their learning rate.
    """

    def __init__(
        self,
        trained: Iterable[tuple[nn.Parameter, Tensor | None]],
        name: str,
        momentum: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        apart: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        pairs = list(trained)
        self.parameters = [parameter for parameter, _ in pairs]
        self._places = [_places(mask) for _, mask in pairs]
        # Fused Adam copies tensors that are not row by row in memory. Weights are stored input by input, so transposed.
        self._moved = [
            _moved(parameter, parameter, place) for parameter, place in zip(self.parameters, self._places, strict=True)
        ]
        self._state: list[State] = [{} for _ in self._moved]
        self._shrink = weight_decay if decoupled and name != "adamw" else 0.0  # adamw does it by itself
        self._update = partial(_UPDATES[name], momentum=momentum, weight_decay=0.0 if self._shrink else weight_decay)
        factors = [(apart or {}).get(parameter) for parameter in self.parameters]
        self._groups = {
            factor: [number for number, own in enumerate(factors) if own == factor] for factor in dict.fromkeys(factors)
        }

    def clear(self) -> None:
        """Drop the gradients."""
        for tensor in (*self.parameters, *self._moved):
            tensor.grad = None

    def norm(self, most: float | None) -> Tensor:
        """The norm of the gradients. If it is more than `most`, the gradients are scaled down to that norm."""
        for parameter, place, moved in zip(self.parameters, self._places, self._moved, strict=True):
            if parameter.grad is not None:
                moved.grad = _moved(parameter.grad, parameter, place)
        norm = torch.nn.utils.get_total_norm([moved.grad for moved in self._moved if moved.grad is not None])
        if most is not None:
            torch.nn.utils.clip_grads_with_norm_(self._moved, most, norm)
        return norm

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the weights at a learning rate, by the gradients that `norm` has taken. Call `norm` first."""
        gathered = [
            (parameter.view(-1), place, moved)
            for parameter, place, moved in zip(self.parameters, self._places, self._moved, strict=True)
            if place is not None
        ]
        for entries, place, moved in gathered:
            torch.index_select(entries, 0, place, out=moved)
        for factor, group in self._groups.items():
            moving = [number for number in group if self._moved[number].grad is not None]
            tensors, states = [self._moved[number] for number in moving], [self._state[number] for number in moving]
            gradients = [tensor.grad for tensor in tensors]
            if moving and factor is None:
                if self._shrink:
                    torch._foreach_mul_(tensors, 1.0 - lr * self._shrink)
                self._update(tensors, gradients, states, lr=lr)
            elif moving and factor is not None:
                self._update(tensors, gradients, states, lr=lr * factor, weight_decay=0.0)
        for entries, place, moved in gathered:
            entries.scatter_(0, place, moved)

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, `<parameter>/<name>`."""
        return {f"{number}/{name}": value for number, state in enumerate(self._state) for name, value in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises KeyError, IndexError or ValueError if it is of other parameters."""
        for key, value in state.items():
            number, _, name = key.partition("/")
            moved = self._moved[int(number)]
            if value.dim() and value.shape != moved.shape:
                raise ValueError(f"{key} has the shape {tuple(value.shape)} instead of {tuple(moved.shape)}")
            self._state[int(number)][name] = value.to(moved.device).clone()


def by_stride(tensor: Tensor) -> list[int]:
    """The order of the dimensions in which the tensor lies in memory row by row."""
    strides = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda dimension: -strides[dimension])


def _places(mask: Tensor | None) -> Tensor | None:
    """Positions of the entries that exist, (S,). None if most of them exist."""
    if mask is None or mask.sum() > SPARSE * mask.numel():
        return None
    return mask.flatten().nonzero().squeeze(1)


def _moved(tensor: Tensor, parameter: Tensor, place: Tensor | None) -> Tensor:
    """The part of `tensor` (a parameter or its gradient) that is moved: all in memory order, or the entries `place`."""
    if place is not None:
        return tensor.detach().reshape(-1).index_select(0, place)
    return tensor.detach().permute(by_stride(parameter))


# ---- PyTorch's updates ----------------------------------------------------------------------------------------------
# Its optimisers as functions. As objects they import PyTorch's compiler, which takes a second of every run.


def _kept(tensors: list[Tensor], states: list[State], name: str) -> list[Tensor]:
    """The state of this name of each tensor, zeros at first."""
    for tensor, state in zip(tensors, states, strict=True):
        if name not in state:
            state[name] = torch.zeros_like(tensor)
    return [state[name] for state in states]


def _steps(tensors: list[Tensor], states: list[State], *, with_tensor: bool) -> list[Tensor]:
    """How often each tensor was moved; beside the tensor in memory, or on the CPU."""
    for tensor, state in zip(tensors, states, strict=True):
        if "step" not in state:
            state["step"] = torch.zeros((), device=tensor.device if with_tensor else None)
    return [state["step"] for state in states]


def _adam(
    tensors: list[Tensor],
    gradients: list[Tensor],
    states: list[State],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    how: Callable[..., None] = adam,
) -> None:
    del momentum
    how(
        tensors, gradients, _kept(tensors, states, "exp_avg"), _kept(tensors, states, "exp_avg_sq"), [],
        _steps(tensors, states, with_tensor=True), fused=True, amsgrad=False, beta1=ADAM_BETAS[0], beta2=ADAM_BETAS[1],
        lr=lr, weight_decay=weight_decay, eps=ADAM_EPSILON, maximize=False,
    )  # fmt: skip


def _rmsprop(
    tensors: list[Tensor],
    gradients: list[Tensor],
    states: list[State],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    buffers = _kept(tensors, states, "momentum_buffer") if momentum else []
    rmsprop(
        tensors, gradients, _kept(tensors, states, "square_avg"), [], buffers,
        _steps(tensors, states, with_tensor=False), lr=lr, alpha=RMS_DECAY, eps=RMS_EPSILON, weight_decay=weight_decay,
        momentum=momentum, centered=False,
    )  # fmt: skip


def _sgd(
    tensors: list[Tensor],
    gradients: list[Tensor],
    states: list[State],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    buffers: list[Tensor | None] = [state.get("momentum_buffer") for state in states]
    sgd(
        tensors, gradients, buffers, weight_decay=weight_decay, momentum=momentum, lr=lr, dampening=0.0,
        nesterov=False, maximize=False,
    )  # fmt: skip
    for state, buffer in zip(states, buffers, strict=True):
        if buffer is not None:
            state["momentum_buffer"] = buffer


_UPDATES: dict[str, Callable[..., None]] = {
    "adam": _adam,
    "adamw": partial(_adam, how=adamw),
    "rmsprop": _rmsprop,
    "sgd": _sgd,
}
