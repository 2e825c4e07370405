"""The file of tuned settings: the pair's own of before, with what a tuning has changed, and the facts of the tuning."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from snnrun.config import options, tuned
from snnrun.errors import SnnrunError
from snnrun.record import atomic

OWN = Path("my_conf")  # the user's folder, where the package's cannot be written to
SECTIONS = ("data", "encoder", "model", "train")
COMMENT_AT = 29  # the column of comments
_LINE = re.compile(r"^  (\w+): (.*?)\s+# (.*)$")

Settings = dict[str, dict[str, Any]]


def settings_of(pair: str) -> tuple[Settings, list[Any]]:
    """The settings of a pair's tuned file, with those of the files that it builds on, and its other defaults."""
    file = yaml.safe_load(options.files("tuned").get(pair, "")) or {}
    found: Settings = {}
    others: list[Any] = []
    for entry in file.get("defaults", ()):
        if isinstance(entry, str) and entry != "_self_":
            base, more = settings_of(entry)
            others += more
            for section, keys in base.items():
                found[section] = found.get(section, {}) | keys
        elif entry != "_self_":
            others.append(entry)
    for section in SECTIONS:
        if section in file:
            found[section] = found.get(section, {}) | file[section]
    return found, others


def building_on(pair: str) -> list[str]:
    """The pairs whose files build on that of a pair, directly or not."""
    found = [name for name, text in options.files("tuned").items() if pair in _bases(text)]
    return sorted({*found, *(further for name in found for further in building_on(name))})


def _bases(text: str) -> list[Any]:
    return list((yaml.safe_load(text) or {}).get("defaults", ()))


def changed(settings: Settings, words: Sequence[str], values: Mapping[str, Any]) -> Settings:
    """The settings, changed by overrides, and with what a measurement needs beside them.

    `values` is the config of the run: its network, epochs, batch size and rate are written down whatever their source.
    """
    found = {section: dict(keys) for section, keys in settings.items()}
    for word in words:
        key, _, _ = word.partition("=")
        section, dot, name = key.lstrip("+").partition(".")
        if dot and section in SECTIONS:
            found.setdefault(section, {})[name] = values[section][name]
    for section, names in (("model", ("network", "layers")), ("train", ("epochs", "batch_size"))):
        known = {name: values[section][name] for name in names if name in values[section]}
        found[section] = known | found.get(section, {})
    found["train"]["lr"] = str(tuned.Rate(values["train"]["lr"], values["train"]["batch_size"]))
    return {section: found[section] for section in SECTIONS if section in found}


def text(
    pair: str, title: str, settings: Settings, others: Sequence[Any], facts: Mapping[str, Any], command: str
) -> str:
    """The text of a tuned file, in the form of those that are there. Comments stay beside values that stay."""
    before = options.files("tuned").get(pair, "")
    about = re.search(r"^# (?!@)(.+)$", before, re.MULTILINE)
    comments = dict(_comments(pair))
    lines = ["# @package _global_", f"# {about[1] if about else title}", "#", f"#   {command}"]
    if others:
        lines += ["defaults:", *(f"  - {_value(entry)}" for entry in others), "  - _self_"]
    for section, keys in settings.items():
        lines.append(f"{section}:")
        for name, value in keys.items():
            line = f"  {name}: {_value(value)}"
            old = comments.get((section, name))
            kept = old is not None and (yaml.safe_load(old[0]) == value)
            lines.append(f"{line:<{COMMENT_AT - 2}}  # {old[1]}" if kept and old else line)
    lines.append("tuning:")
    lines += [f"  {key}: {_value(value)}" for key, value in facts.items() if value is not None]
    lines.append("  settings:")
    measured = {f"{section}.{name}": value for section, keys in settings.items() for name, value in keys.items()}
    lines += [f"    {key}: {_value(_number(value))}" for key, value in measured.items()]
    return "\n".join(lines) + "\n"


def _number(value: Any) -> Any:
    rate = tuned.rate(value)
    return value if rate is None else rate.lr


def _comments(pair: str) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Value and comment of each key in a pair's file and in those that it builds on."""
    source = options.files("tuned").get(pair, "")
    for base in _bases(source):
        if isinstance(base, str) and base != "_self_":
            yield from _comments(base)
    section = ""
    for line in source.splitlines():
        if re.match(r"^\w+:", line):
            section = line.partition(":")[0]
        found = _LINE.match(line)
        if found:
            yield (section, found[1]), (found[2], found[3])


def _value(value: Any) -> str:
    """A value as YAML, in a line."""
    if isinstance(value, str):
        plain = value.startswith("${") or yaml.safe_load(value) == value
        return value if plain else f'"{value}"'
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_value(entry)}" for key, entry in value.items())
    shown: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return shown.removesuffix("...\n").strip()


# ---- where it goes ---------------------------------------------------------------------------------------------------


def package() -> Path:
    """The folder of the tuned files of snnrun."""
    return Path(str(resources.files("snnrun.conf") / "tuned"))


def target(pair: str, out: Path | None, *, plain: bool) -> tuple[Path, str]:
    """The file to write, and how it is used. `plain`: whether the settings are the pair's own, for all to take.

    Those are written to the package where it can be written to. Others get a file of their own, in a folder of the
    user's.
    """
    if out is None and plain and os.access(package(), os.W_OK):
        return package() / f"{pair}.yaml", "Every run of the pair takes these settings from now on."
    folder, name = OWN if out is None else out, f"{pair}_tuned"
    return folder / "tuned" / f"{name}.yaml", f"To use them: snnrun train --config-dir {folder} tuned={name}"


def write(path: Path, content: str) -> None:
    """Write a tuned file. Raises SnnrunError if that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, content.encode())
    except OSError as error:
        raise SnnrunError(
            f"{path}: cannot be written ({error.strerror}). Name another folder by --out; the study is kept, and the "
            "same command goes on with it."
        ) from None
