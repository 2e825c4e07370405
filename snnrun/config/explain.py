"""One message for each error of Hydra or OmegaConf: the key, what is wrong, what is allowed, the nearest spelling."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from hydra.errors import (
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import MarkedYAMLError  # type: ignore[import-untyped]

from snnrun.config.options import groups
from snnrun.config.schemas import SCHEMAS, Train
from snnrun.errors import did_you_mean, first_line

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def explain(error: BaseException, overrides: list[str]) -> str | None:
    """The message for an error that Hydra or OmegaConf raised about the config, or None for any other error.

    `overrides` are the arguments of the command line. They serve for errors that do not name the wrong argument.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException):
        return _no_such_option(error)
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        return f"{where}: not valid YAML: {error.problem or error.context}"
    pairs = ("${model}_${data}", "${model}_${encoder}")
    if str(error).startswith(tuple(f"Error resolving interpolation '{pair}'" for pair in pairs)):
        return "model, data, encoder: each must name one option: model=NAME data=NAME encoder=NAME, or be left alone."
    if isinstance(error, InterpolationKeyError) and "--resolve" in overrides and "hydra" in overrides:
        return "--resolve: Hydra's own settings refer to the run's. Write --cfg all --resolve, or leave --resolve out."
    if isinstance(error, HydraException | OmegaConfBaseException):
        inner = next(_omegaconf_errors(error), None)
        if inner is not None:
            return _of_key(inner) + _file(error)
        return _composition(str(error))
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return _no_name(overrides)
    if isinstance(error, ValueError) and re.match("(Only one of|The) --", str(error)):  # flags that exclude each other
        return str(error)
    return None


def _omegaconf_errors(error: BaseException | None) -> Iterator[OmegaConfBaseException]:
    while error is not None:
        if isinstance(error, OmegaConfBaseException):
            yield error
        error = error.__cause__ or error.__context__


def _file(error: BaseException) -> str:
    """The words that name the option's file with the error, or an empty text."""
    found = re.match(r"In '(.+?)':", str(error))
    return f" (In the file {found[1]}.yaml.)" if found and not re.match("train$|hydra/", found[1]) else ""


# ---- one error each -------------------------------------------------------------------------------------------------


def _unreadable(error: OverrideParseException) -> str:
    key, equals, value = error.override.partition("=")
    if not equals:
        return f"{key}: no value is given. Write {key}=VALUE."
    if value.startswith("~"):
        return f"{key}: the value {value!r} cannot be read: no home folder has that name. Write it in full."
    reason = next(line for line in error.message.splitlines() if not line.startswith("Error parsing override"))
    if reason.startswith("LexerNoViableAltException"):  # its text repeats the override
        reason = "a quote is not closed, or it has a character that stands between quotes only"
    return (
        f"{key}: the value {value!r} cannot be read: {reason}. Close every bracket and quote; "
        f"a text with such characters needs both kinds of quotes: '{key}=\"...\"'."
    )


def _no_such_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = [name for name in error.options or () if not name.endswith("_schema")]
    if not group or not options:
        return first_line(error) + _file(error)
    extras = "joblib by snnrun[sweep], submitit_slurm and submitit_local by snnrun[slurm], ray by snnrun[ray]"
    more = f" Others are installed with an extra: {extras}." if group == "hydra/launcher" else ""
    nearest = did_you_mean(option, options)
    return f"{group}: there is no {option!r}. Allowed: {', '.join(options)}.{more}{nearest}{_file(error)}"


def _no_name(overrides: list[str]) -> str:
    """The message for a group whose value is not the name of an option, such as `model=3` or `tuned=null`."""
    for override in overrides:
        group, _, value = override.partition("=")
        if group in groups() and (value == "null" or not re.match(r"[A-Za-z_]+", value)):
            return f"{group}: {value!r} is not an option's name. Allowed: {', '.join(groups()[group].options)}."
    return f"{' '.join(overrides)}: an argument has no key before its '='"


def _composition(text: str) -> str:
    ambiguous = re.match(r"Ambiguous value for argument '(.+?)=(.*)'", text)
    if ambiguous:
        key, values = ambiguous.groups()
        return f"{key}: several values ({values}) make a sweep, which needs -m. For a list write {key}=[{values}]."
    for pattern, message in _COMPOSITION:
        if found := re.search(pattern, text):
            return message.format(*filter(None, found.groups()))
    return " ".join(text.split())


_TAKEN = "{0}: is there already. Write {0}=VALUE, without the +."
_COMPOSITION = (
    (
        r"Could not delete from config. (?:'(.+?)' does not exist|The value of '(.+?)' is)",
        "{0}: a key cannot be taken out with ~. Set it, such as {0}=null, or leave it as it is.",
    ),
    (r"^(\S+) appears more than once in the final defaults list", _TAKEN),
    (r"^Multiple values for (\S+)\. ", _TAKEN),
    (r"^Could not append to config. An item is already at '(.+?)'", _TAKEN),
)


def _of_key(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or error.key or "config")
    if "does not support deletion" in str(error):
        return f"{key}: a key cannot be taken out with ~. Set it, such as {key}=null, or leave it as it is."
    if isinstance(error, InterpolationKeyError):
        return f"{key}: {first_line(error)}"
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(key, error.parent_node)
    if isinstance(error, ValidationError):
        return _wrong_type(key, error)
    return f"{key}: {first_line(error)}"


def _unknown_key(key: str, section: Any) -> str:
    parent, _, leaf = key.rpartition(".")
    siblings = _keys(section) if parent else list(dict.fromkeys([*_keys(section), *groups()]))
    chosen = section.get("name") if isinstance(section, DictConfig) and parent in SCHEMAS else None
    owner = f"{parent}={chosen}" if chosen else parent or "the config"
    return f"{key}: {owner} has no such key. Allowed: {', '.join(siblings)}." + (
        _left_out(key, chosen) or _in_another_option(parent, leaf) or _nearest_key(key, siblings)
    )


def _left_out(key: str, chosen: Any) -> str:
    """The message for an option of a plugin, whose schema is not known yet."""
    known = SCHEMAS.get(key.partition(".")[0], {})
    return f" A key that its file leaves out is set by +{key}=VALUE." if chosen and chosen not in known else ""


def _keys(section: Any) -> list[str]:
    return [str(name) for name in section if name != "hydra"] if isinstance(section, DictConfig) else []


def _in_another_option(group: str, leaf: str) -> str:
    options = [option for option, schema in SCHEMAS.get(group, {}).items() if leaf in _names(schema)]
    return f" It is a key of {', '.join(f'{group}={option}' for option in options)}." if options else ""


def _names(schema: type) -> list[str]:
    return [entry.name for entry in dataclasses.fields(schema)]


def _nearest_key(key: str, siblings: list[str]) -> str:
    """' Did you mean X?': the same word in another section, or the nearest beside it, or the nearest of all."""
    parent, _, leaf = key.rpartition(".")
    known = [f"train.{name}" for name in _names(Train)]
    known += [
        f"{group}.{name}" for group, options in SCHEMAS.items() for kind in options.values() for name in _names(kind)
    ]
    same = [name for name in known if name.endswith(f".{leaf}")]
    if same:
        return f" Did you mean {same[0]}?"
    beside = [f"{parent}.{name}" if parent else name for name in siblings]
    return did_you_mean(key, beside) or did_you_mean(key, known)


def _wrong_type(key: str, error: ValidationError) -> str:
    kind = typing.get_type_hints(error.object_type).get(str(error.key)) if error.object_type else None
    if dataclasses.is_dataclass(kind):
        return f"{key}: is a section. Set its keys, such as {key}.{dataclasses.fields(kind)[0].name}=VALUE"
    if error.value == {}:
        return f"{key}: is one value, not a section. Write {key}=VALUE"
    value = "null" if error.value is None else repr(error.value)
    return f"{key}: {value} is not allowed. Allowed: {_in_words(kind)}." if kind else f"{key}: {first_line(error)}"


def _in_words(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join("null" if part is type(None) else _in_words(part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return f"a list of {_in_words(typing.get_args(kind)[0]).removeprefix('a ')}s, such as [40,80]"
    return _WORDS.get(kind, str(kind))
