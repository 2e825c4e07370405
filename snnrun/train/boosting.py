"""Boosting as in the papers: wrongly classified samples weigh more in the next epoch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Boosting constant of the papers.
RATE = 20.0


def boost_wrong(boost: NDArray[np.float32], labels: NDArray[np.int64], wrong: NDArray[np.bool_]) -> None:
    """Multiply the weights of wrong samples of class c by exp(error_c / 20), in place.

    error_c is the weighted share of wrong samples in the class.
    """
    for label in np.unique(labels):
        of_class = labels == label
        error = boost[of_class & wrong].sum() / boost[of_class].sum()
        boost[of_class & wrong] *= np.exp(error / RATE)
