"""The options of the project's own rules, encoders and corpora, read from their source.

An import would load PyTorch and Numba, and neither a TAB nor a mistyped key shall wait for them. The result equals that
of `declared.options` for the imported thing. An annotation consists of the names below and of plain types. A default is
a literal.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from snnrun.declared import REQUIRED, Option, Range, option

_ROOT = Path(__file__).parents[2]
_NAMES = {"Annotated": Annotated, "Any": Any, "Literal": Literal, "Path": Path, "Range": Range, "Sequence": Sequence}

Definition = tuple[str, ast.ClassDef | ast.FunctionDef]  # the module, and the definition in it


def table(module: str, name: str, skip: Sequence[str] = ()) -> dict[str, dict[str, Option]]:
    """The options of each entry of a table such as `RULES`, a dictionary of names to classes or functions."""
    [value] = [
        node.value
        for node in _parsed(module).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name
    ]
    assert isinstance(value, ast.Dict)
    found = {}
    for key, entry in zip(value.keys, value.values, strict=True):
        definition = _definition(module, entry)
        assert isinstance(key, ast.Constant)
        assert definition is not None, f"{module}: {ast.unparse(entry)} is not defined or imported by its name"
        found[str(key.value)] = _options(definition, skip)
    return found


def function(module: str, name: str, skip: Sequence[str] = ()) -> dict[str, Option]:
    """The options of one function: its keyword-only parameters."""
    definition = _definition(module, ast.Name(name))
    assert definition is not None
    return _options(definition, skip)


@cache
def _parsed(module: str) -> ast.Module:
    path = _ROOT.joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8"))


def _definition(module: str, wanted: ast.expr) -> Definition | None:
    """The definition of a module's `Name` or `module.name`, if it is within the project."""
    if isinstance(wanted, ast.Attribute) and isinstance(wanted.value, ast.Name):
        return _definition(f"{module}.{wanted.value.id}", ast.Name(wanted.attr))
    assert isinstance(wanted, ast.Name)
    for node in _parsed(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == wanted.id:
            return module, node
        if isinstance(node, ast.ImportFrom) and wanted.id in [alias.name for alias in node.names]:
            return _definition(node.module, wanted) if node.module and node.module.startswith("snnrun.") else None
    return None


def _options(definition: Definition, skip: Sequence[str]) -> dict[str, Option]:
    module, node = definition
    found: dict[str, Option] = {}
    declared: list[tuple[str, ast.expr | None, ast.expr | None]]
    if isinstance(node, ast.ClassDef):
        for base in reversed(node.bases):  # the order of `dataclasses`: those of the first base come last
            inherited = _definition(module, base)
            found |= _options(inherited, skip) if inherited else {}
        fields = [entry for entry in node.body if isinstance(entry, ast.AnnAssign)]
        declared = [(ast.unparse(entry.target), entry.annotation, entry.value) for entry in fields]
    else:
        pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        declared = [(entry.arg, entry.annotation, default) for entry, default in pairs]
    for name, annotation, default in declared:
        kind = ast.unparse(annotation) if annotation else "Any"
        if name not in skip and not kind.startswith("ClassVar"):
            found[name] = option(eval(kind, _NAMES), ast.literal_eval(default) if default else REQUIRED, {})
    return found
