"""The update of the weights: Adam as in the papers, or SGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

# Adam's constants in the papers.
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8


class Optimiser:
    """Moves parameters by the gradients that they hold."""

    def __init__(self, parameters: Sequence[nn.Parameter], name: str, lr: float, momentum: float) -> None:
        self.parameters = list(parameters)
        # Fused Adam copies what does not lie in memory row by row; weights, stored input by input, do so transposed.
        self.moved = [parameter.detach().permute(by_stride(parameter)) for parameter in self.parameters]
        if name == "sgd":
            self._optimizer: torch.optim.Optimizer = torch.optim.SGD(self.moved, lr=lr, momentum=momentum)
        else:
            self._optimizer = torch.optim.Adam(self.moved, lr=lr, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True)

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, lr: float) -> None:
        """Move the weights at a learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        for parameter, moved in zip(self.parameters, self.moved, strict=True):
            moved.grad = None if parameter.grad is None else parameter.grad.permute(by_stride(parameter))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)  # the parameters hold them

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, `<parameter>/<name>`."""
        return {
            f"{number}/{name}": value
            for number, moved in enumerate(self.moved)
            for name, value in self._optimizer.state[moved].items()
            if value is not None
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises KeyError or IndexError for that of other parameters."""
        for key, value in state.items():
            number, _, name = key.partition("/")
            moved = self.moved[int(number)]
            self._optimizer.state[moved][name] = value.to(moved.device).clone()


def by_stride(tensor: Tensor) -> list[int]:
    """The order of the dimensions in which the tensor lies in memory row by row."""
    strides = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda dimension: -strides[dimension])
