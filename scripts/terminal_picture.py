"""Makes docs/terminal.svg: what `snnrun train` leaves in a terminal, without the lines that vanish.

python scripts/terminal_picture.py [override ...]
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from snnrun import cli
from snnrun.display import console as display

PICTURE = Path(__file__).parents[1] / "docs" / "terminal.svg"
WIDTH = 105  # columns


class Window(Console):
    """A terminal that shows the end of a long line in the next one."""

    def print(self, *objects: Any, **rest: Any) -> None:
        """Print, and break lines at words."""
        super().print(*objects, **(rest | {"soft_wrap": False}))


class Still:
    """In place of the lines that change while a run goes on."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


def main(overrides: list[str]) -> None:
    """Run the command in an empty folder, and write its picture. Its fonts are the reader's own."""
    console = Window(record=True, width=WIDTH, force_terminal=True, color_system="truecolor", file=StringIO())
    display.Console, display.Live = lambda *_, **__: console, Still  # type: ignore[misc, assignment]
    command = shlex.join(["snnrun", "train", *overrides])
    console.print(Text(f"$ {command}"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if code := cli.main(["train", *overrides]):
            sys.exit(code)
        os.chdir(PICTURE.parent)
    svg = console.export_svg(title=command, unique_id="terminal")
    svg = re.sub(r",\s*url\([^;]*;", ";", svg)  # fonts that a browser would fetch
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
