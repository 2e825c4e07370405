"""README and docs/ say what is so: links, commands, options, statuses and examples."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from made_runs import train

from snnrun import cli
from snnrun.cli import COMMANDS
from snnrun.commands import completion
from snnrun.config import options
from snnrun.config.compose import compose
from snnrun.runs import collect

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
# Lines of code blocks that call snnrun, without their comments.
CALLS = {line for text in TEXT.values() for line in re.findall(r"^(?: {4}){1,2}(snnrun .*?)(?:\s+#.*)?$", text, re.M)}
OF_HYDRA = {"--cfg", "--config-dir", "--help", "..."}
STARTED = {line: shlex.split(line)[2:] for line in CALLS if line.startswith("snnrun train ")}


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", TEXT)
def test_every_table_has_its_head(page: str) -> None:
    """A blank line inside a table makes bare text of the rows below it."""
    for table in re.findall(r"(?:^\|.*\n)+", TEXT[page], re.M):
        head, rule = ([*table.splitlines(), ""])[:2]
        assert re.fullmatch(r"\|(?: ?:?-+:? ?\|)+", rule), head


@pytest.mark.parametrize("page", TEXT)
def test_no_line_inside_a_paragraph_begins_a_list(page: str) -> None:
    """A minus that is wrapped to the begin of a line makes a point of a list."""
    assert re.findall(r"^(?![-| ]|\d+\. ).+\n(- .*)", re.sub(r"```.*?```", "", TEXT[page], flags=re.S), re.M) == []


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


# Options of a folder of one's own are for Hydra to read; see also the tests of plugins and of tutorials.
@pytest.mark.slow
@pytest.mark.parametrize("call", sorted(line for line, words in STARTED.items() if not set(words) & OF_HYDRA))
def test_trainings_can_be_composed(call: str) -> None:
    words = ["hardware=cpu" if word == "hardware=gpu" else word for word in STARTED[call] if word != "-m"]
    assert compose([first_point(word) for word in words if not word.startswith("hydra")])["model"]


def first_point(word: str) -> str:
    """An override of a sweep with the first of its values, or the lower end of its interval."""
    [override] = OverridesParser.create().parse_overrides([word])
    if not override.is_sweep_override():
        return word
    if isinstance(override.value(), IntervalSweep):
        return f"{override.key_or_group}={override.value().start}"
    return f"{override.key_or_group}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize("call", sorted(line for line in CALLS - set(STARTED) if len(line.split()) > 1))
def test_other_commands_can_be_read(call: str) -> None:
    _, name, *words = shlex.split(call)
    parser = completion._parser(COMMANDS[name][0])
    if parser is None:
        return
    _, more = parser.parse_known_args(words)
    assert all(re.match(r"[\w./]+=", word) for word in more), more


@pytest.mark.slow  # kernels are read or compiled
def test_the_examples_in_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "outputs", "run", "strsbp", 0, tracking={"kind": "none"})
    monkeypatch.chdir(tmp_path)
    blocks, names = re.findall(r"^```python\n(.*?)^```", TEXT["docs/python.md"], re.M | re.S), dict[str, Any]()
    code = "".join(block for block in blocks if "torch.export" not in block)  # which test_ops runs
    exec(compile(code, "docs/python.md", "exec"), names)
    assert names["hidden1"].shape == (8, 12, 8)
    assert names["activity"].output.counts.shape == (32, 10)


def commands_of(page: str) -> list[list[str]]:
    """The words of the commands of a tutorial. Trainings are short, and leave MLflow out."""
    lines = re.findall(r"^ {4}snnrun (.*?)(?:\s+#.*)?$", TEXT[page], re.M)
    words = [shlex.split(line) for line in lines]
    return [[*line, "train.epochs=1", "tracking=none"] if line[0] == "train" else line for line in words]


@pytest.mark.slow
def test_the_tutorial_on_arrays_runs(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"^```python\n(.*?)^```", TEXT["docs/tutorials/arrays.md"], re.M | re.S)
    exec(compile(code, "arrays.md", "exec"), {})
    for words in commands_of("docs/tutorials/arrays.md"):
        assert cli.main(words) == 0, words
    assert "my.npz:3" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tutorial_on_recordings_runs(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    times, draw = np.arange(4000) / 8000, np.random.default_rng(0)
    for name, pitch in (("yes", 300), ("no", 1200)):
        Path("my_recordings", name).mkdir(parents=True)
        for number in range(10):
            tone = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.02 * draw.normal(size=times.size)
            soundfile.write(Path("my_recordings", name, f"{number}.wav"), tone, 8000)
    Path("new.wav").write_bytes(Path("my_recordings/yes/0.wav").read_bytes())
    for words in commands_of("docs/tutorials/recordings.md"):
        assert cli.main(words) == 0, words
    assert re.search(r"new.wav: (yes|no)\n", capsys.readouterr().out)
    assert Path("yes.png").is_file()
