"""Reads JSON that nobody vouches for: every surprise is an InvalidError that names the place.

`parse` bounds depth and refuses what JSON readers disagree on; `build` turns the result into dataclasses,
checked against their annotations.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from typing import Any, TypeVar

from forebrain_registry.errors import InvalidError

MAX_DEPTH = 32
# Small values take far more memory than bytes: 64 MB of empty lists took 3 GB.
MAX_VALUES = 5_000_000
_T = TypeVar("_T")
# Control characters but tab and line ends, and halves of surrogate pairs.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_hints = functools.cache(typing.get_type_hints)


def parse(data: bytes, where: str) -> Any:
    """The value of a JSON document in UTF-8.

    Raises:
        InvalidError: not JSON, repeated keys, NaN or infinity, over 32 levels deep, over 5 million values, or
            text with control characters or half surrogates, which could play tricks on a terminal.
    """
    if sum(data.count(mark) for mark in b"[{,") > MAX_VALUES:
        raise InvalidError(f"{where}: holds over {MAX_VALUES} values. It is not ours.")
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidError(
            f"{where}: not valid JSON ({_short(error)}). It is damaged or not ours."
        ) from error
    _check(value, where)
    return value


def _check(value: Any, where: str) -> None:
    """Raises InvalidError unless parsed JSON is finite, shallow and with clean text."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InvalidError(f"{where}: nested more than {MAX_DEPTH} levels deep. It is not ours.")
        if isinstance(item, dict):
            waiting += [(inner, depth + 1) for pair in item.items() for inner in pair]
        elif isinstance(item, list):
            waiting += [(inner, depth + 1) for inner in item]
        elif isinstance(item, str):
            _check_text(item, where)
        elif isinstance(item, float) and not math.isfinite(item):
            raise InvalidError(f"{where}: holds {item}; numbers must be finite.")


def build(kind: type[_T], value: Any, where: str) -> _T:
    """An instance of a dataclass from parsed JSON: no unknown key, no missing one, every type as annotated.

    Raises:
        InvalidError: naming the place within the document.
    """
    return _build(kind, value, where)


def dump(value: Any) -> bytes:
    """A dataclass as a JSON document."""
    return json.dumps(dataclasses.asdict(value), indent=1, ensure_ascii=False, allow_nan=False).encode()


def _build(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast(type, kind), value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _build(arguments[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise InvalidError(f"{where}: expected a list, found {_kind_of(value)}.")
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise InvalidError(f"{where}: a number too large.") from error
    wanted = origin or kind
    if type(value) is not wanted:
        raise InvalidError(f"{where}: expected {_NAMES[wanted]}, found {_kind_of(value)}.")
    return value


def _build_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InvalidError(f"{where}: expected an object, found {_kind_of(value)}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(fields)):
        raise InvalidError(f"{where}: unknown key {unknown[0]!r:.80}; known are {', '.join(fields)}.")
    needed = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in needed if name not in value]:
        raise InvalidError(f"{where}: {missing[0]!r} is missing.")
    kinds = _hints(kind)
    given = {name: _build(kinds[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**given)
    except InvalidError as error:
        raise InvalidError(f"{where}: {error}") from error


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object"}


def _kind_of(value: Any) -> str:
    return "a list" if isinstance(value, list) else _NAMES.get(type(value), "nothing")


def _check_text(text: str, where: str) -> None:
    if found := _UNWANTED.search(text):
        raise InvalidError(f"{where}: text holds the character U+{ord(found[0]):04X}, which is not allowed.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _short(error: BaseException) -> str:
    return str(error)[:120] or type(error).__name__
