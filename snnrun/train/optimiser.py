"""The update of the weights: Adam as in the papers, AdamW, RMSProp or SGD."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

# Adam's constants in the papers.
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
# RMSProp's in Keras, from whose example the papers take their row.
RMS_DECAY, RMS_EPSILON = 0.9, 1e-7
# If at most this share of a parameter's entries exists, they are gathered, and only they are moved.
SPARSE = 0.5


class Optimiser:
    """Moves parameters by the gradients that they hold.

    Args:
        trained: parameters, each with the mask of the entries that exist, or None: see `Network.trained`. The other
            entries have no gradient.
        name: `adam`, `adamw`, `rmsprop` or `sgd`.
        lr: learning rate.
        momentum: of SGD and RMSProp.
        weight_decay: times a weight, it is added to the weight's gradient. `adamw` instead takes this share of a weight
            away at each step, times the learning rate (Loshchilov and Hutter 2019).
    """

    def __init__(
        self,
        trained: Iterable[tuple[nn.Parameter, Tensor | None]],
        name: str,
        lr: float,
        momentum: float,
        weight_decay: float = 0.0,
    ) -> None:
        pairs = list(trained)
        self.parameters = [parameter for parameter, _ in pairs]
        self._places = [_places(mask) for _, mask in pairs]
        # Fused Adam copies tensors that are not row by row in memory. Weights are stored input by input, so transposed.
        self._moved = [
            _moved(parameter, parameter, place) for parameter, place in zip(self.parameters, self._places, strict=True)
        ]
        self._optimizer = _of_torch(name, self._moved, lr, momentum, weight_decay)

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
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        gathered = [
            (parameter.view(-1), place, moved)
            for parameter, place, moved in zip(self.parameters, self._places, self._moved, strict=True)
            if place is not None
        ]
        for entries, place, moved in gathered:
            moved.copy_(entries[place])
        self._optimizer.step()
        for entries, place, moved in gathered:
            entries[place] = moved

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, `<parameter>/<name>`."""
        return {
            f"{number}/{name}": value
            for number, moved in enumerate(self._moved)
            for name, value in self._optimizer.state[moved].items()
            if value is not None
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises KeyError, IndexError or ValueError if it is of other parameters."""
        for key, value in state.items():
            number, _, name = key.partition("/")
            moved = self._moved[int(number)]
            if value.dim() and value.shape != moved.shape:
                raise ValueError(f"{key} has the shape {tuple(value.shape)} instead of {tuple(moved.shape)}")
            self._optimizer.state[moved][name] = value.to(moved.device).clone()


def _of_torch(name: str, moved: list[Tensor], lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """PyTorch's optimiser of these tensors."""
    if name == "sgd":
        return torch.optim.SGD(moved, lr=lr, momentum=momentum, weight_decay=weight_decay)
    if name == "rmsprop":
        return torch.optim.RMSprop(moved, lr, RMS_DECAY, RMS_EPSILON, weight_decay, momentum)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(moved, lr=lr, betas=ADAM_BETAS, eps=ADAM_EPSILON, weight_decay=weight_decay, fused=True)


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
        return tensor.detach().reshape(-1)[place]
    return tensor.detach().permute(by_stride(parameter))
