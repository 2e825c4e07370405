"""`snnrun config`: list, show and copy the options that `snnrun train` composes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from snnrun.config import options
from snnrun.config.paths import folder
from snnrun.errors import SnnrunError, UsageError, unknown


def main(arguments: list[str]) -> int:
    """Run one of its commands; returns the exit code."""
    parser = argparse.ArgumentParser("snnrun config", description="Look at the options that `snnrun train` composes.")
    commands = parser.add_subparsers(required=True, metavar="list | show | copy")
    listing = commands.add_parser("list", help="every option with what it is")
    listing.add_argument("group", nargs="?", help="one group only, such as model")
    listing.set_defaults(run=_list)
    show = commands.add_parser("show", help="one option with its values and comments")
    show.add_argument("option", help="such as model/strsbp")
    show.set_defaults(run=_show)
    copy = commands.add_parser(
        "copy",
        help="write an option to a file of your own, to edit it",
        description="Write an option to a file of your own: snnrun config copy model/strsbp my_conf/model/mine.yaml. "
        "Edit it, then snnrun train --config-dir my_conf model=mine.",
    )
    copy.add_argument("option", help="such as model/strsbp")
    copy.add_argument("file", type=folder, help="such as my_conf/model/mine.yaml: in a folder of the group's name")
    copy.set_defaults(run=_copy)
    for command in listing, show:
        command.add_argument("--json", action="store_true", help="for programs")
    for command in listing, show, copy:
        command.add_argument("--config-dir", "-cd", type=Path, metavar="FOLDER", help="with your own options, too")
    request = parser.parse_args(arguments)
    code: int = request.run(request)
    return code


def _list(request: argparse.Namespace) -> int:
    known = options.groups(request.config_dir)
    if request.group not in (None, *known):
        raise UsageError(unknown("group", request.group, known))
    if request.json:
        entries = {
            name: {"default": group.default, "about": group.about, "options": group.options}
            for name, group in known.items()
            if request.group in (None, name)
        }
        print(json.dumps(entries, indent=2))
    else:
        print(options.listing(request.group, request.config_dir))
    return 0


def _show(request: argparse.Namespace) -> int:
    pair = _pair(request.option)
    if pair is not None and options.text(request.option, request.config_dir) is None:
        text = f"# no settings for model={pair[0]} data={pair[1]}: the defaults of the groups apply\n"
    else:
        text = _text(request.option, request.config_dir)
    text += _measurement(request.option, pair, text)
    if not request.json:
        print(text, end="")
        return 0
    import yaml  # type: ignore[import-untyped]

    values = yaml.safe_load(text) or {}
    defaults = values.pop("defaults", [])
    print(json.dumps({"option": request.option, "defaults": defaults, "values": values, "text": text}, indent=2))
    return 0


def _pair(option: str) -> tuple[str, str] | None:
    """Model and corpus of an option such as `tuned/strsbp_digits`; None if it is not that of a pair."""
    group, _, name = option.partition("/")
    known = options.groups()
    pairs = [
        (model, name.removeprefix(f"{model}_")) for model in known["model"].options if name.startswith(f"{model}_")
    ]
    return next((pair for pair in pairs if group == "tuned" and pair[1] in known["data"].options), None)


def _measurement(option: str, pair: tuple[str, str] | None, text: str) -> str:
    """A line on what the settings in a tuned file rest on. Facts of a file that it builds on are not its own."""
    import yaml

    from snnrun.config import tuned

    facts = (yaml.safe_load(text) or {}).get("tuning") or {} if option.startswith("tuned/") else {}
    if facts.get("accuracy") is not None and facts.get("pair") == ("_".join(pair) if pair else facts.get("pair")):
        return f"# {tuned.measured(facts)}\n"
    return f"# {tuned.not_measured(*pair)}\n" if pair else ""


def _copy(request: argparse.Namespace) -> int:
    text = _text(request.option, request.config_dir)
    group, _, option = request.option.partition("/")
    file: Path = request.file
    if file.suffix != ".yaml" or file.parent.name != group:
        wanted = (file.parent if file.suffix == ".yaml" else file) / group / f"{file.stem or option}.yaml"
        raise UsageError(
            f"{file}: an option of the group {group} is a file NAME.yaml in a folder {group}, such as {wanted}"
        )
    if file.stem in options.groups()[group].options:
        raise UsageError(f"{file}: {group}={file.stem} is snnrun's own and would go before it. Choose another name.")
    use = f"snnrun train --config-dir {file.parent.parent} {group}={file.stem}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as copy:
            copy.write(_with_note(text, f"# A copy of {request.option}. {use}"))
    except FileExistsError:
        raise UsageError(f"{file}: is there already. Choose another name, or remove it first.") from None
    except OSError as error:
        raise SnnrunError(f"{file}: cannot be written: {error.strerror}") from None
    print(f"{file} is yours to edit. Then: {use}")
    return 0


def _with_note(text: str, note: str) -> str:
    """The text of a file with the note below the comments at its beginning."""
    lines = text.splitlines()
    head = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join([*lines[:head], note, *lines[head:]]) + "\n"


def _text(option: str, config_dir: Path | None) -> str:
    text = options.text(option, config_dir)
    if text is None:
        known = options.groups(config_dir)
        everything = [f"{group}/{name}" for group, entry in known.items() for name in entry.options]
        raise UsageError(unknown("option", option, everything))
    return text
