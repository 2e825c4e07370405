"""`snnrun completion bash|zsh|fish`: the script for a shell, and the words that such a script asks for at every TAB.

Commands, flags and choices come from each command's own parser, which is caught before it reads anything. Groups,
options and keys of `train` come from `conf/` and the schemas. Completion imports neither Hydra nor PyTorch.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from snnrun.errors import UsageError

Command = Callable[[list[str]], int]

BASH = r"""# snnrun's completion for bash: eval "$(snnrun completion bash)", in ~/.bashrc for good
_snnrun() {
    local line="${COMP_LINE:0:COMP_POINT}" word cut
    word="${line##*[[:space:]]}"
    COMPREPLY=()
    while IFS= read -r; do COMPREPLY+=("$REPLY"); done < <("$1" completion --words "$line" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -gt 0 ]] || return 0
    # readline takes what stands before a '=' or ':' for a word of its own
    cut="${word%"${word##*[=:]}"}"
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _snnrun snnrun
"""
ZSH = r"""#compdef snnrun
# snnrun's completion for zsh: eval "$(snnrun completion zsh)" in ~/.zshrc, after compinit
_snnrun() {
    local -a found
    found=("${(@f)$("${words[1]}" completion --words "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    (( $#found )) || { _files; return }
    compadd -S '' -- ${(M)found:#*=}
    compadd -- ${found:#*=}
}
compdef _snnrun snnrun
"""
FISH = r"""# snnrun's completion for fish: snnrun completion fish > ~/.config/fish/completions/snnrun.fish
function __snnrun_words
    set -l before (commandline -opc)
    $before[1] completion --words (commandline -cp) 2>/dev/null
end
complete -c snnrun -a '(__snnrun_words)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

# Flags of `train`: its own, and those of Hydra that are useful. With their values, if these are few.
FLAGS: dict[str, tuple[str, ...]] = {
    "-m": (), "--multirun": (), "-q": (), "--quiet": (), "-v": (), "--verbose": (), "--help": (), "--hydra-help": (),
    "--cfg": ("job", "hydra", "all"), "--resolve": (), "--package": (), "--config-dir": (), "--config-name": (),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}  # fmt: skip
FOLDERS = ("--config-dir", "-cd")


class _Caught(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def main(arguments: list[str], commands: Mapping[str, tuple[Command, str]]) -> int:
    """Print the script of a shell. With `--words LINE`: print each word that may stand at the end of the line."""
    parser = argparse.ArgumentParser(
        "snnrun completion",
        description="Print the completion script of a shell: commands, flags, groups, options and keys of train.",
        epilog='bash: eval "$(snnrun completion bash)"    zsh: eval "$(snnrun completion zsh)"    '
        "fish: snnrun completion fish | source",
    )
    parser.add_argument("shell", choices=SCRIPTS, nargs="?")
    parser.add_argument("--words", metavar="LINE", help="print what may complete this line: for the scripts")
    options = parser.parse_args(arguments)
    if options.words is not None:
        for word in words(options.words, commands):
            print(word)
        return 0
    if options.shell is None:
        raise UsageError(f"completion: for which shell? Allowed: {', '.join(SCRIPTS)}.")
    print(SCRIPTS[options.shell], end="")
    return 0


def words(line: str, commands: Mapping[str, tuple[Command, str]]) -> list[str]:
    """The words that may stand in place of the last word of a line. The line begins with `snnrun`."""
    *before, last = line.split(" ") if " " in line else [line, ""]
    before = [word for word in before[1:] if word]
    if not before:
        found: Iterable[str] = [*commands, "--help", "--version"]
    elif before[0] == "train":
        found = _of_train(before[1:], last)
    elif before[0] in commands:
        found = _of_parser(_parser(commands[before[0]][0]), before[1:])
    else:
        found = ()
    return [word for word in found if word.startswith(last)]


# ---- commands with a parser ------------------------------------------------------------------------------------------


def _parser(command: Command) -> argparse.ArgumentParser | None:
    """The parser that a command makes, caught at the moment when it would read the arguments."""

    def catch(self: argparse.ArgumentParser, *_: Any, **__: Any) -> Any:
        raise _Caught(self)

    names = ("parse_args", "parse_known_args", "parse_intermixed_args")
    before = {name: getattr(argparse.ArgumentParser, name) for name in names}
    for name in names:
        setattr(argparse.ArgumentParser, name, catch)
    try:
        command([])
    except _Caught as caught:
        return caught.parser
    except Exception:  # the command reads its arguments in another way
        return None
    finally:
        for name, method in before.items():
            setattr(argparse.ArgumentParser, name, method)
    return None


def _of_parser(parser: argparse.ArgumentParser | None, before: list[str]) -> list[str]:
    if parser is None:
        return []
    positional: list[argparse.Action] = []
    waiting: argparse.Action | None = None
    found: dict[str, argparse.Action] = {}

    def enter(entered: argparse.ArgumentParser) -> None:
        positional[:] = [action for action in entered._actions if not action.option_strings]
        found.clear()
        found.update({name: action for action in entered._actions for name in action.option_strings})

    enter(parser)
    for word in before:
        if waiting is not None:
            waiting = None
        elif word in found:
            waiting = found[word] if found[word].nargs != 0 else None
        elif positional and isinstance(positional[0], argparse._SubParsersAction):
            if word not in positional[0].choices:
                return []
            enter(positional[0].choices[word])
        elif positional and positional[0].nargs not in ("*", "+"):
            positional.pop(0)
    if waiting is not None:
        return _values_of(waiting)
    return [*(_values_of(positional[0]) if positional else []), *(name for name in found if name.startswith("--"))]


def _values_of(action: argparse.Action) -> list[str]:
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    from snnrun.config import options

    match action.dest:
        case "option":
            return [f"{group}/{name}" for group, entry in options.groups().items() for name in entry.options]
        case "group":
            return list(options.groups())
        case "name" | "corpus":
            return list(options.groups()["data"].options)
        case "table":
            from snnrun.paper.published import tables

            return list(tables())
        case "run" | "runs" | "first" | "second":
            return _runs()
        case "overrides" | "words":
            return _groups_and_keys({})
    return []


def _runs(outputs: str = "outputs") -> list[str]:
    """Names of the latest runs."""
    folder = Path(outputs) / "runs"
    names = sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []
    return [*names[:50], "last"]


# ---- train -----------------------------------------------------------------------------------------------------------


def _of_train(before: list[str], last: str) -> list[str]:
    if before and before[-1] in FLAGS and (FLAGS[before[-1]] or before[-1].startswith("--config")):
        return list(FLAGS[before[-1]])
    if last.startswith("-"):
        return list(FLAGS)
    folders = [Path(value) for flag, value in itertools.pairwise(before) if flag in FOLDERS]
    folders += [Path(word.partition("=")[2]) for word in before if word.startswith("--config-dir=")]
    chosen = dict(word.split("=", 1) for word in before if "=" in word)
    key, equals, value = last.lstrip("+").partition("=")
    if not equals:
        begun = last[: len(last) - len(last.lstrip("+"))]
        return [f"{begun}{word}" for word in _groups_and_keys(chosen)]
    given, comma, _ = value.rpartition(",")  # of a sweep
    return [f"{last[: len(last) - len(value)]}{given}{comma}{choice}" for choice in _choices(key, folders, chosen)]


def _groups_and_keys(chosen: Mapping[str, str]) -> list[str]:
    from snnrun.config import options

    return [f"{name}=" for name in (*options.groups(), *_keys(chosen))]


def _choices(key: str, folders: Iterable[Path], chosen: Mapping[str, str]) -> list[str]:
    from snnrun.config import options

    known = options.groups()
    if key in known:
        own = [path.stem for folder in folders for path in sorted((folder / key).glob("*.yaml"))]
        return [*known[key].options, *own]
    entry = _keys(chosen).get(key)
    if entry is None:
        return []
    if "choices" in entry.metadata:
        return list(entry.metadata["choices"])
    kinds = typing.get_args(entry.type) if isinstance(entry.type, types.UnionType) else (entry.type,)
    return (["true", "false"] if bool in kinds else []) + (["null"] if type(None) in kinds else [])


def _keys(chosen: Mapping[str, str]) -> dict[str, dataclasses.Field[Any]]:
    """Every key that can be set with the chosen options, and its field in the schema."""
    from snnrun.config import options, schemas

    found = {}
    sections: dict[str, type] = {"": schemas.Config}
    for group, schema in schemas.SCHEMAS.items():
        default = options.groups()[group].default if group in options.groups() else ""
        option = chosen.get(group, default)
        if option in schema:
            sections[f"{group}."] = schema[option]
    for name, kind in typing.get_type_hints(schemas.Config).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            sections[f"{name}."] = kind
    for prefix, section in sections.items():
        hints = typing.get_type_hints(section)
        for entry in dataclasses.fields(section):
            if entry.name == "name" or f"{prefix}{entry.name}." in sections:
                continue
            entry.type = hints[entry.name]
            found[f"{prefix}{entry.name}"] = entry
    return found
