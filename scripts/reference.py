"""Writes the reference of the options, docs/reference/*.md, from the schemas and the files in conf/.

    python scripts/reference.py            # after a change of an option or of what conf/ says of it

A key's type and limits are the schema's. Its default and its description stand in the option's file. A test fails where
the pages are not what this writes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from snnrun.config import options
from snnrun.config.schemas import SCHEMAS, Checkpoint, Config, Sweep, Train
from snnrun.declared import Range

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
TRAIN = Path(__file__).parents[1] / "conf" / "train.yaml"
MADE = "<!-- Made by scripts/reference.py from conf/ and the schemas. Edit those. -->\n"
WORDS = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text"}
SECTIONS = {"train": Train, "checkpoint": Checkpoint, "sweep": Sweep}
LIMITS = ("at least", "above", "below", "at most")  # in the order of `Range`
# Page: its title, and the groups that it lists.
PAGES = {
    "model": ("Options of the models", ("model",)),
    "data": ("Options of the corpora", ("data",)),
    "encoder": ("Options of the encoders", ("encoder",)),
    "run": ("Options of a run", ("hardware", "tracking", "search")),
}


class Key(NamedTuple):
    """What an option's file says of a key: its default, as it is written, and what it means."""

    default: str
    about: str


def keys(text: str) -> dict[str, Key]:
    """The keys of an option's file. A section's are `section.key`; a comment may go on in the lines below."""
    found: dict[str, Key] = {}
    section = last = ""
    for line in text.splitlines():
        match = re.match(r"( *)(\w+):(.*)", line)
        if match is None:
            more = re.match(r"\s+# (.*)", line)
            if more and last in found:
                found[last] = found[last]._replace(about=f"{found[last].about} {more[1]}".strip())
            continue
        value, _, about = match[3].partition(" #")
        section = "" if not match[1] else section
        last = f"{section}.{match[2]}" if section else match[2]
        found[last] = Key(value.strip(), about.strip())
        if not value.strip():
            section = match[2]
    return found


def allowed(field: dataclasses.Field[Any]) -> str:
    """The type and limits of a key, in words."""
    if "choices" in field.metadata:
        return ", ".join(f"`{choice}`" for choice in field.metadata["choices"])
    kind, several = field.type, False
    parts = getattr(kind, "__args__", ())
    if getattr(kind, "__origin__", None) is list:
        kind, several = parts[0], True
    none = type(None) in parts
    if none:
        [kind] = [part for part in parts if part is not type(None)]
    words = WORDS.get(kind if isinstance(kind, str) else getattr(kind, "__name__", ""), "")
    if several:
        words = f"list: {words}"
    if "range" in field.metadata:
        limits = zip(LIMITS, Range(*field.metadata["range"]), strict=True)
        near = " and ".join(f"{word} {limit:,}" for word, limit in limits if limit is not None)
        words = f"{words or 'number'}, {near}"
    return f"{words}; or null" if none else words


def rows(declared: Sequence[dataclasses.Field[Any]], told: Mapping[str, Key], section: str = "") -> list[str]:
    """A table's rows of the fields of a schema, in the order of the file."""
    found, fields = [], {field.name: field for field in declared}
    order = [name for name in told if name in fields] + [name for name in fields if name not in told]
    for name in order:
        if name == "name":
            continue
        default, about = told.get(name, Key("", ""))
        cells = (f"`{section}{name}`", allowed(fields[name]), f"`{default}`" if default else "", about)
        found.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return found


def table(lines: Sequence[str]) -> str:
    """A table of keys."""
    return "\n".join(["| key | allowed | default | |", "|---|---|---|---|", *lines]) + "\n"


def page(name: str) -> str:
    """The text of a page."""
    title, groups = PAGES[name]
    parts = [f"# {title}\n", MADE]
    if name == "run":
        parts.append(whole_run())
    else:
        parts.append(
            f"`{groups[0]}=NAME` chooses, `{groups[0]}.KEY=VALUE` changes a key. Defaults are those of the option's "
            "file; a pair of model and corpus may have others ([tuning](../tune.md)), and `snnrun train --cfg job` "
            "shows what a run would take.\n"
        )
    for group in groups:
        texts = options.files(group)
        for option, schema in SCHEMAS[group].items():
            told = keys(texts[option])
            about = options.groups()[group].options[option]
            parts += [f"## {group}={option}\n", f"{sentence(about)}\n" if about else ""]
            lines = rows(dataclasses.fields(schema), told, f"{group}.")
            parts.append(table(lines) if lines else "It has no keys.\n")
    return "\n".join(part for part in parts if part)


def sentence(text: str) -> str:
    """A description as a sentence."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def whole_run() -> str:
    """The sections that every run has."""
    told = keys(TRAIN.read_text("utf-8"))
    plain = [field for field in dataclasses.fields(Config) if field.name in ("seed", "outputs", "plugin")]
    parts = ["`KEY=VALUE` changes a key of any section.\n", "## Top level\n", table(rows(plain, told))]
    for name, schema in SECTIONS.items():
        inner = {key.removeprefix(f"{name}."): value for key, value in told.items() if key.startswith(f"{name}.")}
        parts += [f"## {name}\n", table(rows(dataclasses.fields(schema), inner, f"{name}."))]
    return "\n".join(parts)


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        (FOLDER / f"{name}.md").write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    main()
