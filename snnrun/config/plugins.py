"""Rules, models, encoders and corpora of the user's own, from a package that the key `plugin` names.

A plugin is a module. When it is imported, it registers them:

    @register_rule("mine")
    @dataclass(frozen=True, kw_only=True)
    class Mine(StbpRule): ...

The options of a rule, model or encoder are the fields of its dataclass. Those of a corpus are the keyword-only
parameters of its function. They are checked like snnrun's own, see `declared`: a type that YAML has,
`Literal["a", "b"]` for choices, and `Annotated[float, Range(at_least=0, below=1)]` for a range. The user writes the
file of the option, such as `my_conf/model/mine.yaml`, and gives `--config-dir my_conf`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from snnrun import data, declared, encoders
from snnrun.config import schemas
from snnrun.errors import SnnrunError, UsageError
from snnrun.models import MODELS
from snnrun.network.model import Design
from snnrun.rules import RULES, Rule

__all__ = ["load", "register_dataset", "register_encoder", "register_model", "register_rule"]

Thing = TypeVar("Thing")


def register_rule(name: str) -> Callable[[type[Rule]], type[Rule]]:
    """Register a dataclass that derives from `rules.Rule` as the learning rule `name`, for `model.name`.

    Raises:
        UsageError: the name is taken, or the class is not such a dataclass.
    """

    def register(cls: type[Rule]) -> type[Rule]:
        if not _is_dataclass_of(Rule, cls):
            raise UsageError(f"plugin: the rule {name!r}, {_called(cls)}, is not a dataclass that derives from Rule")
        return _put("model", name, cls, RULES, schemas.model(name, declared.options(cls)), also=MODELS)

    return register


def register_model(name: str) -> Callable[[type[Design]], type[Design]]:
    """Register a dataclass that derives from `network.model.Design` as the model `name`, for `model.name`.

    Raises:
        UsageError: the name is taken, or the class is not such a dataclass.
    """

    def register(cls: type[Design]) -> type[Design]:
        if not _is_dataclass_of(Design, cls):
            raise UsageError(f"plugin: the model {name!r}, {_called(cls)}, is not a dataclass that derives from Design")
        return _put("model", name, cls, MODELS, schemas.other_model(name, declared.options(cls)), also=RULES)

    return register


def register_encoder(name: str) -> Callable[[type[Any]], type[Any]]:
    """Register a dataclass with `kinds`, `steps` and `encode` as the encoder `name`. A field `seed` gets the run's.

    A class with `channels`, `key` and `encode_recording` encodes recordings: see `encoders.RecordingEncoder`.

    Raises:
        UsageError: the name is taken, or the class is not such a dataclass.
    """

    def register(cls: type[Any]) -> type[Any]:
        own = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        wanted = ("kinds", "steps", "encode_recording" if hasattr(cls, "encode_recording") else "encode")
        missing = [part for part in wanted if not hasattr(cls, part) and part not in own]
        if not isinstance(cls, type) or not dataclasses.is_dataclass(cls) or missing:
            lack = f"; it lacks {', '.join(missing)}" if missing else ""
            raise UsageError(
                f"plugin: the encoder {name!r}, {_called(cls)}, is not a dataclass with kinds, steps and encode{lack}"
            )
        return _put("encoder", name, cls, encoders.ENCODERS, schemas.encoder(name, declared.options(cls)))

    return register


def register_dataset(name: str) -> Callable[[Callable[..., data.Corpus]], Callable[..., data.Corpus]]:
    """Register a function `(root, download, *, options)` that returns a `data.Corpus` as the corpus `name`.

    Raises:
        UsageError: the name is taken, or the function has other parameters.
    """

    def register(function: Callable[..., data.Corpus]) -> Callable[..., data.Corpus]:
        parameters = inspect.signature(function).parameters.values() if callable(function) else ()
        if [entry.kind for entry in parameters].count(inspect.Parameter.POSITIONAL_OR_KEYWORD) != 2:
            raise UsageError(
                f"plugin: the corpus {name!r}, {_called(function)}, is not a function of (root, download, *, options)"
            )
        return _put("data", name, function, data.DATASETS, schemas.corpus(name, declared.options(function)))

    return register


def load(names: object) -> None:
    """Import the modules that `plugin` names: None, a name, or a list of names. They may lie in the current folder.

    Raises:
        UsageError: there is no such module, it imports one that is missing, or it registers what is not allowed.
        SnnrunError: the module raises another error, which is the cause of this one.
    """
    for name in _listed(names):
        if str(Path.cwd()) not in sys.path and "" not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            importlib.import_module(name)
        except SnnrunError:
            raise
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                raise UsageError(
                    f"plugin: there is no module {name!r} among the installed ones, in {Path.cwd()} or in the folders "
                    "of PYTHONPATH"
                ) from None
            raise UsageError(f"plugin: {name} imports {error.name!r}, which is not installed") from error
        except Exception as error:
            raise SnnrunError(f"plugin: importing {name} raised {type(error).__name__}: {error}") from error


def _listed(names: object) -> list[str]:
    if names is None:
        return []
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not all(
        isinstance(name, str) and name.replace(".", "a").isidentifier() for name in listed
    ):
        raise UsageError(f"plugin: {names!r} is not the name of a module or a list of names, such as my_package")
    return listed


def _put(
    group: str, name: str, thing: Thing, table: dict[str, Any], schema: type, also: Mapping[str, Any] | None = None
) -> Thing:
    """Enter a registered thing into its table, and its schema into `schemas`. `also` has names of the same group."""
    for taken in (table, also or {}):
        if name in taken and _called(taken[name]) != _called(thing):
            raise UsageError(f"plugin: the name {name!r} of {_called(thing)} is taken by {_called(taken[name])}")
    table[name] = thing
    schemas.SCHEMAS[group][name] = schemas.PLUGINS[group, name] = schema
    return thing


def _is_dataclass_of(base: type, thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, base) and dataclasses.is_dataclass(thing)


def _called(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', repr(thing))}"
