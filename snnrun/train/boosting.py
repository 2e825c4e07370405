"""Boosting as in the papers: samples that were classified wrongly weigh more in the next epoch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Boosting constant of the papers.
RATE = 20.0


def boost_wrong(boost: NDArray[np.float32], labels: NDArray[np.int64], wrong: NDArray[np.bool_]) -> None:
    """In place: wrong samples of class c grow by exp(error_c / 20), error_c the weighted share of them."""
    for label in np.unique(labels):
        of_class = labels == label
        error = boost[of_class & wrong].sum() / boost[of_class].sum()
        boost[of_class & wrong] *= np.exp(error / RATE)
