"""README and docs/ say what is so: links, commands, options, statuses and examples."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from snnrun.cli import COMMANDS
from snnrun.config import options
from snnrun.config.compose import compose
from snnrun.runs import collect

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name if page.parent == ROOT else f"docs/{page.name}": page.read_text(encoding="utf-8") for page in PAGES}
# Lines of code blocks that call snnrun, without their comments.
CALLS = {line for text in TEXT.values() for line in re.findall(r"^ {4}(snnrun .*?)(?:\s+#.*)?$", text, re.M)}
STARTED = {line: shlex.split(line)[2:] for line in CALLS if line.startswith("snnrun train ")}


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_listed() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in TEXT["docs/README.md"]


def test_every_command_is_there_and_no_other() -> None:
    assert {line.split()[1] for line in CALLS} <= set(COMMANDS)
    assert all(f"snnrun {command}" in TEXT["docs/commands.md"] for command in COMMANDS)


def test_every_option_and_status_is_told() -> None:
    for name, group in options.groups().items():
        if name not in ("tuned", "input", "experiment", "search/space"):
            page = TEXT["docs/data.md" if name == "data" else "docs/options.md"]
            assert [option for option in group.options if f"`{option}`" not in page] == []
    told = re.findall(r"^\| `(\w+)` \|", TEXT["docs/commands.md"].partition("| status |")[2], re.M)
    assert sorted(told) == sorted(collect.STATUSES)


# Sweeps, and options of a folder of one's own, are for Hydra to read.
@pytest.mark.parametrize("call", sorted(line for line, words in STARTED.items() if not words[0].startswith("-")))
def test_trainings_can_be_composed(call: str) -> None:
    assert compose(STARTED[call])["model"]


@pytest.mark.slow  # kernels are read or compiled
def test_the_example_in_python_runs() -> None:
    blocks, names = re.findall(r"^```python\n(.*?)^```", TEXT["docs/python.md"], re.M | re.S), dict[str, Any]()
    code = "".join(block for block in blocks if "torch.export" not in block)  # which test_ops runs
    exec(compile(code, "docs/python.md", "exec"), names)
    assert names["activity"].output.counts.shape == (32, 10)
