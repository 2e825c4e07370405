"""The inner loops. Every backend is one file with the same functions; this is the one place that chooses between them.

Shapes, used throughout: `B` samples, `T` steps of 1 ms, `N` neurons of the layer, `I` inputs. Spikes are `(B, T, N)`.
"""

from snnrun.kernels.neuron import Lif, Stbp
from snnrun.kernels.reference import (
    hm2bp_readout,
    lif_forward,
    solve,
    spsp,
    spsp_activation,
    spsp_backward,
    stbp_backward,
    stbp_forward,
    strsbp_readout,
)

__all__ = [
    "Lif",
    "Stbp",
    "hm2bp_readout",
    "lif_forward",
    "solve",
    "spsp",
    "spsp_activation",
    "spsp_backward",
    "stbp_backward",
    "stbp_forward",
    "strsbp_readout",
]
