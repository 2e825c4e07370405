"""The config groups and their options, as the files in `conf/` describe them. Read as text, without Hydra."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

WIDTH = 120  # of the help
# "  - optional tuned: ${model}_${data}  # what it is" in the defaults list of train.yaml
_DEFAULT = re.compile(r"^  - (?:optional )?(\w+): (\S+) +# (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Group:
    """A config group: its default option, one line on what it decides, and one line for each option."""

    default: str
    about: str
    options: dict[str, str]


def _root() -> Traversable:
    return resources.files("snnrun.conf")


def groups(config_dir: Path | None = None) -> dict[str, Group]:
    """All groups in the order of the defaults list of `train.yaml`; options of `--config-dir` follow snnrun's."""
    return {
        name: Group(default, about, {option: _about(text) for option, text in files(name, config_dir).items()})
        for name, default, about in _DEFAULT.findall((_root() / "train.yaml").read_text("utf-8"))
    }


def files(group: str, config_dir: Path | None = None) -> dict[str, str]:
    """The text of each file of a group, by option. If two have one name, Hydra takes snnrun's, and so does this."""
    found: dict[str, str] = {}
    for folder in (_root() / group, *([] if config_dir is None else [config_dir / group])):
        files = sorted(folder.iterdir(), key=lambda file: file.name) if folder.is_dir() else []
        for file in files:
            if file.name.endswith(".yaml"):
                found.setdefault(file.name.removesuffix(".yaml"), file.read_text("utf-8"))
    return found


def _about(text: str) -> str:
    """The first comment of an option's file that is not a directive to Hydra."""
    comments = (line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    return next((line for line in comments if not line.startswith("@package")), "")


def text(option: str, config_dir: Path | None = None) -> str | None:
    """The file of an option such as `model/strsbp`, or None if there is none."""
    group, _, name = option.partition("/")
    return files(group, config_dir).get(name) if group in groups() else None


def keys(text: str) -> list[str]:
    """The keys that the text of an option's file sets."""
    return re.findall(r"^(\w+):", text, re.MULTILINE)


def overview() -> str:
    """The groups, one line each, with their options below: for `snnrun train --help`."""
    lines = []
    for name, group in groups().items():
        if "$" in group.default:  # chosen by other groups
            choices = [re.sub(r"\$\{(\w+)\}", r"<\1>", group.default), "none"]
        else:
            choices = [group.default, *(option for option in group.options if option != group.default)]
        lines.append(f"  {name:<11} {group.about}")
        lines += textwrap.wrap(
            " | ".join(choices),
            WIDTH,
            initial_indent=f"  {'':<11} = ",
            subsequent_indent=f"  {'':<11}   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def listing(only: str | None = None, config_dir: Path | None = None) -> str:
    """Each option on its own line, with its description: for `snnrun config list`."""
    lines = []
    for name, group in groups(config_dir).items():
        if only in (None, name):
            lines.append(f"{name}: {group.about}")
            lines += [f"  {option:<28} {about}" for option, about in group.options.items()]
    return "\n".join(lines)
