"""How often Python's collector looks for cycles of objects that nobody has any more.

It goes through all objects that are there. The packages of a training make half a million of them while they are
imported, none of which is ever given back. At the usual rate the collector took a second of a short run.
"""

from __future__ import annotations

import gc

# So many new objects before the youngest are looked at, and so often before the older and all are; usually 700, 10, 10.
THRESHOLDS = (100_000, 20, 50)


def seldom() -> None:
    """Look for cycles seldom, in a process that belongs to a command."""
    gc.set_threshold(*THRESHOLDS)
