"""Learning rules: how a layer fires, what its loss is, and how the error comes back through it.

A rule is a frozen dataclass of plain options. A network asks it to draw the weights of a layer (`initialise`) and to
run the layer (`layer`). It asks for the regulariser (`weight_penalty`); training asks for the loss (`sample_loss`).
"""

from snnrun.rules.authors import StRsbp
from snnrun.rules.base import Currents, LayerKind, LayerWeights, Rule, SpikeTrain
from snnrun.rules.hm2bp import Hm2Bp
from snnrun.rules.lee import LeeRule
from snnrun.rules.slayer import SlayerRule
from snnrun.rules.stbp import StbpRule

RULES: dict[str, type[Rule]] = {
    "strsbp": StRsbp,
    "hm2bp": Hm2Bp,
    "stbp": StbpRule,
    "slayer": SlayerRule,
    "lee": LeeRule,
}

__all__ = [
    "RULES",
    "Currents",
    "Hm2Bp",
    "LayerKind",
    "LayerWeights",
    "LeeRule",
    "Rule",
    "SlayerRule",
    "SpikeTrain",
    "StRsbp",
    "StbpRule",
]
