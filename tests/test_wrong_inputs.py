"""Twenty things that users do wrong with data of their own: each ends in one line that says what to do, and a code.

`pytest tests/test_wrong_inputs.py -n0 -rP` prints the lines.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from corpora import events_file, heidelberg_tree, nmnist_tree, picture_tree

from snnrun import cli

RNG = np.random.default_rng(0)
Y = np.arange(20) % 2


class Wrong(NamedTuple):
    """Arguments of `snnrun`, after what a function puts into a folder; the exit code, and words of the message."""

    arguments: str
    code: int
    words: str
    prepare: Callable[[Path], object] = str
    needs: str = "snnrun"


def arrays(**own: Any) -> Callable[[Path], object]:
    """Write `my.npz` with these arrays, and with vectors and labels where they are not given."""
    return lambda root: np.savez(root / "my.npz", **{"x": RNG.random((20, 5)), "y": Y, **own})


def holed(root: Path) -> None:
    x = RNG.random((20, 8, 8))
    x[7, 3, 3] = np.nan
    np.savez(root / "my.npz", x=x, y=Y)


def backwards(root: Path) -> None:
    """An SHD file with a unit beyond the 700."""
    with h5py.File(heidelberg_tree(root) / "shd_train.h5", "r+") as file:
        file["spikes/units"][4] = np.array([3, 900], np.uint16)
        file["spikes/times"][4] = np.array([0.1, 0.2], np.float16)


def cut_short(root: Path) -> None:
    path = heidelberg_tree(root) / "shd_test.h5"
    path.write_bytes(path.read_bytes()[:1000])


MINE = "data show arrays --root {root}/my.npz"
SHD = "data show shd --root {root}"
WRONG = {
    "NaN within a sample": Wrong(MINE, 1, "NaN", holed),
    "a label too few": Wrong(MINE, 1, "19", arrays(y=Y[:19])),
    "one class": Wrong(MINE, 1, "two classes or more are needed", arrays(y=np.zeros(20, int))),
    "no x": Wrong(MINE, 1, "no x", lambda root: np.savez(root / "my.npz", data=RNG.random((20, 5)), y=Y)),
    "labels that are fractions": Wrong(MINE, 1, "label", arrays(y=Y + 0.5)),
    "values beyond the declared range": Wrong(MINE + " data.range=[0,0.5]", 1, "range", arrays()),
    "a kind that does not fit": Wrong(MINE + " data.kind=image", 2, "data.kind=image: x has samples of", arrays()),
    "a file that is no array": Wrong(MINE, 1, "by its first bytes", lambda root: (root / "my.npz").write_text("x")),
    "no file": Wrong(MINE, 1, "my.npz"),
    "SHD, a unit that is none": Wrong(SHD + " --sample 4 data.validation=0", 1, "outside 0 to 699", backwards),
    "SHD, cut short": Wrong(SHD, 1, "shd_test.h5", cut_short),
    "SHD, no step of 0 ms": Wrong(SHD + " data.bin_ms=0", 2, "data.bin_ms: 0 is out of range", heidelberg_tree),
    "SHD, moved too far": Wrong(SHD + " data.channel_shift=700", 2, "below the 700 channels", heidelberg_tree),
    "tonic, a corpus near another": Wrong(
        "data show tonic data.dataset=DVSGestures", 2, "DVSGesture", needs="tonic"
    ),
    "torchvision, a corpus near another": Wrong(
        "data show torchvision data.dataset=KMNST", 2, "KMNIST", needs="torchvision"
    ),
    "events through an encoder of images": Wrong(
        "data show ntidigits --root {root} encoder=poisson tuned=none", 2, "encoder: poisson takes", events_file
    ),
    "vectors through an ear": Wrong(MINE + " encoder=lyon_bsa tuned=none", 2, "lyon_bsa takes audio data", arrays()),
    "pixels moved like channels": Wrong(
        "data show nmnist --root {root} +data.channel_shift=2", 2, "channel_shift", nmnist_tree
    ),
    "a class that is near another": Wrong(
        "data show image_folder --root {root} --class DOG", 2, "Did you mean dog?", picture_tree
    ),
    "a figure of no format": Wrong("data show digits --out {root}/x.bmp", 2, "x.bmp: a file ending in .png"),
}  # fmt: skip


def said(wrong: Wrong, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and message."""
    wrong.prepare(root)
    code = cli.main([word.format(root=root) for word in wrong.arguments.split(" ")])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_end_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = WRONG[name]
    if importlib.util.find_spec(wrong.needs) is None:
        pytest.skip(f"{wrong.needs} is not installed")
    code, message = said(wrong, tmp_path, capsys)
    print(f"{name}: exit {code}: {message.strip().replace(str(tmp_path), 'DIR')}")
    assert code == wrong.code, message
    assert message.startswith("snnrun: ")
    assert len(message.splitlines()) == 1
    assert wrong.words in message
