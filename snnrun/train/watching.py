"""What of a model's real-valued activities is not 0, layer by layer, while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from snnrun.network.model import Connection, Model


@dataclass
class Seen:
    """Totals of a layer, over all samples and, in a recurrent model, the steps that each has.

    Attributes:
        inputs: How often each of its inputs was not 0, int64 (I,), or (C, rows, columns) of images.
        recurrent: How often each output of the step before was not 0, int64 (N,); None in a layer that gets none.
        passes: How often inputs came.
        active: Number of activities that were not 0.
        activities: Number of all activities; 0 if the layer has none.
    """

    inputs: Tensor
    recurrent: Tensor | None
    passes: int = 0
    active: int = 0
    activities: int = 0


@dataclass
class Watch:
    """Watches the modules of `Model.connections` while it is entered. After each batch, `add` it.

    Attributes:
        model: Nothing of it changes.
        seen: The totals, by layer. A layer without inputs so far is not there.
    """

    model: Model
    seen: dict[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._connections = self.model.connections()
        self._given: dict[str, tuple[Tensor, Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Watch:
        for name, connection in self._connections.items():

            def keep(_: nn.Module, arguments: tuple[Tensor, ...], output: Any, name: str = name) -> None:
                self._given[name] = arguments[0], output if isinstance(output, Tensor) else output[0]

            self._hooks.append(connection.module.register_forward_hook(keep))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def add(self, steps: Tensor | None) -> None:
        """Add what the modules got and gave in the last batch.

        Args:
            steps: Of each sample, (B,), which count where values have time; None if none have.
        """
        for name, (inputs, outputs) in self._given.items():
            connection = self._connections[name]
            there = None if inputs.dim() != 3 else _within(steps, inputs)
            found = _seen(connection, inputs, outputs, there)
            before = self.seen.get(name)
            self.seen[name] = found if before is None else _sum(before, found)
        self._given.clear()


def _within(steps: Tensor | None, values: Tensor) -> Tensor:
    """Which steps of values (B, T, N) the samples have, (B, T, 1)."""
    batch, length = values.shape[:2]
    place = torch.arange(length, device=values.device)
    ends = torch.full((batch,), length) if steps is None else steps
    return (place < ends.to(values.device)[:, None])[..., None]


def _seen(connection: Connection, inputs: Tensor, outputs: Tensor, there: Tensor | None) -> Seen:
    """The totals of a batch. `there`: see `_within`, for values in time."""
    nonzero = inputs != 0 if there is None else (inputs != 0) & there
    over = (0,) if there is None else (0, 1)
    passes = len(inputs) if there is None else int(there.sum())
    recurrent = None
    if connection.recurrent is not None:
        # The output of a sample's last step comes to no other.
        assert there is not None
        recurrent = (outputs != 0)[:, :-1][there[:, 1:, 0]].sum(dim=0).cpu()
    found = Seen(nonzero.sum(dim=over).cpu(), recurrent, passes)
    if connection.activity is not None:
        activities = connection.activity(outputs)
        present = activities != 0 if there is None else (activities != 0) & there
        found.active = int(present.sum())
        found.activities = passes * activities[0].numel() if there is None else passes * activities.shape[2]
    return found


def _sum(one: Seen, other: Seen) -> Seen:
    both = None if one.recurrent is None or other.recurrent is None else one.recurrent + other.recurrent
    return Seen(
        one.inputs + other.inputs,
        both,
        one.passes + other.passes,
        one.active + other.active,
        one.activities + other.activities,
    )
