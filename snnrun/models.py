"""The models that are no `Network` of a rule, by the name that `model.name` gives them. `rules.RULES` has the rules."""

from __future__ import annotations

from snnrun.ann import Cnn, Gru, Lra, Lstm, Mlp, PhasedLstm
from snnrun.liquid import Lsm, SpiLinC
from snnrun.network.model import Design

# A new model is one line here.
MODELS: dict[str, type[Design]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "lstm": Lstm,
    "gru": Gru,
    "phased_lstm": PhasedLstm,
    "lra": Lra,
    "lsm": Lsm,
    "spilinc": SpiLinC,
}
