"""Training configurations from YAML files and flags.

A run is described by a YAML file of the fields, by flags of the same names, or by both: flags win.
Read by hand: pydantic takes as many lines here, for messages that name the field, its limit and the
value.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.training.config import TrainingConfig

Config = TypeVar("Config", bound=TrainingConfig)


def config_from(kind: type[Config], values: Mapping[str, object], where: str = "config") -> Config:
    """A config of plain values, as YAML has them. Raises TrainingError that names the field."""
    hints = get_type_hints(kind)
    if unknown := [name for name in values if name not in hints]:
        raise TrainingError(f"{where}: {unknown[0]!r} is no field; there are {', '.join(hints)}")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]
    if missing:
        raise TrainingError(f"{where}: {missing[0]} is missing")
    return kind(**{name: _value(name, hints[name], value, where) for name, value in values.items()})


def field_from(
    kind: type[TrainingConfig], name: str, value: object, where: str = "flags"
) -> object:
    """The value of one field. Raises TrainingError."""
    return _value(name, get_type_hints(kind)[name], value, where)


def values_from_file(path: Path) -> dict[str, object]:
    """The fields of a YAML file. Raises TrainingError."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path} must hold fields and their values")
    return {str(name): value for name, value in values.items()}


def add_fields(parser: argparse.ArgumentParser, kind: type[TrainingConfig]) -> None:
    """--config, and a flag for every field."""
    parser.add_argument("--config", type=Path, metavar="run.yaml", help="fields and their values")
    hints = get_type_hints(kind, include_extras=True)
    for entry in fields(kind):
        flag = f"--{entry.name.replace('_', '-')}"
        hint, words = get_args(hints[entry.name])
        if entry.default not in (MISSING, None, "", (), False):
            words += f" [{entry.default}]"
        words = words.replace("%", "%%")
        if hint is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=words)
        else:
            many = "+" if get_origin(hint) is tuple else None
            parser.add_argument(flag, nargs=many, help=words, metavar=_metavar(hint))


def config_from_arguments(kind: type[Config], arguments: argparse.Namespace) -> Config:
    """Flags, then --config."""
    path: Path | None = arguments.config
    values = values_from_file(path) if path else {}
    flags = {f.name: getattr(arguments, f.name) for f in fields(kind)}
    named = {name: value for name, value in flags.items() if value is not None}
    return config_from(kind, values | named, str(path) if path else "flags")


def plain(config: TrainingConfig) -> dict[str, object]:
    """The config as JSON or YAML has it."""

    def simple(value: object) -> object:
        if isinstance(value, Path):
            return value.as_posix()
        return list(value) if isinstance(value, tuple) else value

    return {f.name: simple(getattr(config, f.name)) for f in fields(config)}


def _value(name: str, hint: Any, value: object, where: str) -> Any:  # noqa: ANN401 - as `hint` says
    if get_origin(hint) in (Union, UnionType):  # only ever "or None"
        if value is None:
            return None
        hint = get_args(hint)[0]
    if get_origin(hint) is tuple:
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, Sequence) or not all(isinstance(p, str) for p in parts):
            raise TrainingError(f"{where}: {name} must be a list of texts, got {value!r}")
        return tuple(parts)
    if get_origin(hint) is Literal or hint is str:
        if value is False and "no" in get_args(hint):  # YAML's word for it
            return "no"
        hint = str
    try:
        if hint is bool and not isinstance(value, bool):
            raise ValueError
        if hint is int and isinstance(value, float):
            raise ValueError
        return hint(value)  # "1e-4" is a text to YAML: float() reads it all the same
    except (TypeError, ValueError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}
        raise TrainingError(
            f"{where}: {name} must be {wanted.get(hint, 'a text')}, got {value!r}"
        ) from None


def _metavar(hint: object) -> str:
    if get_origin(hint) is tuple:
        return "SOURCE"
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint)).strip("|")
    if get_origin(hint) in (Union, UnionType):
        hint = get_args(hint)[0]
    words: dict[object, str] = {int: "N", float: "X", Path: "PATH"}
    return words.get(hint, "TEXT")
