"""Models without spikes, for comparison: they see pixels, values, or counts of spikes in bins, and learn by PyTorch.

Each is a frozen dataclass of options (`Design`) that builds a module (`Model`) of PyTorch's own parts.
"""

from snnrun.ann.cnn import Cnn
from snnrun.ann.lra import Lra
from snnrun.ann.mlp import Mlp
from snnrun.ann.phased_lstm import PhasedLstm
from snnrun.ann.recurrent import Gru, Lstm

__all__ = ["Cnn", "Gru", "Lra", "Lstm", "Mlp", "PhasedLstm"]
