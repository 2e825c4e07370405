"""Several presentations of a sample to a trained model: the encoder draws its spikes anew for each.

Scores, spikes and operations are summed over them, so one of several is as dear as several inferences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.data import Split
from snnrun.encoders import Encoder
from snnrun.errors import UsageError

# The epochs of the second presentation and of those after it, far from those of any training, so that no training
# sample is shown with the spikes that it was trained with.
FURTHER = 1 << 40
# So many samples are compared to see whether an encoder draws.
COMPARED = 16


def epoch(presentation: int) -> int:
    """The epoch for which the encoder draws a presentation, from 0: the first is that of every evaluation."""
    return FURTHER + presentation if presentation else 0


def check_draws(number: int, split: Split, encoder: Encoder) -> None:
    """Raise UsageError if several presentations of the samples are wanted and would be the same."""
    if number == 1:
        return
    samples, index = split.samples[:COMPARED], split.index[:COMPARED]
    refuse_equal(number, [encoder.encode(samples, index, epoch(k)) for k in range(2)], "the samples")


def refuse_equal(number: int, inputs: list[NDArray[Any]], what: str) -> None:
    """Raise UsageError if the first two presentations are the same."""
    if len(inputs) > 1 and np.array_equal(inputs[0], inputs[1], equal_nan=True):
        raise UsageError(
            f"--presentations {number}: each presentation of {what} would be the same, since their spikes are recorded "
            "or their encoder draws nothing anew. Leave it out, or evaluate a run whose encoder draws spikes, with "
            "encoder.frozen=false."
        )
