"""Random words by number, in PyTorch: SplitMix64 (Steele, Lea and Flood 2014), on signed numbers of 64 bits.

Word n of the stream of a key is `mixed(key + n STEP)`, n from 1. It depends on nothing else.
"""

from __future__ import annotations

from torch import Tensor

# The constants as signed numbers, since PyTorch multiplies no unsigned ones.
STEP, _MIX1, _MIX2 = (x - 2**64 for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def stream(keys: Tensor, number: int) -> Tensor:
    """The keys (B,) int64 of a stream of their own, for each number from 0."""
    return mixed(keys + _signed(STEP * (number + 1)))


def mixed(word: Tensor) -> Tensor:
    """Words, int64, each of whose bits depends on all bits of those given."""
    mixed: Tensor = (word ^ shifted(word, 30)) * _MIX1
    mixed = (mixed ^ shifted(mixed, 27)) * _MIX2
    return mixed ^ shifted(mixed, 31)


def shifted(word: Tensor, places: int) -> Tensor:
    """The unsigned word, shifted right."""
    mask: int = 2 ** (64 - places) - 1
    return (word >> places) & mask


def _signed(word: int) -> int:
    """The word of 64 bits with these lowest bits, as a signed number."""
    return (word + 2**63) % 2**64 - 2**63
