"""Models with a liquid, a random recurrent network of spiking neurons: `model=lsm` and `model=spilinc`.

Each is a frozen dataclass of options (`Design`) that builds a module (`Model`).
"""

from snnrun.liquid.lsm import Lsm
from snnrun.liquid.spilinc import SpiLinC

__all__ = ["Lsm", "SpiLinC"]
