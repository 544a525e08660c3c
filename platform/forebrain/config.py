"""A dataclass from a YAML file and the command line: `--training.steps 500`.

A field may be a choice: `<field>.name` chooses one of several config classes, whose options then are the
field's. So `--model.name mlp` has other options than `--model.name poco`, each with its help text.
"""

from __future__ import annotations

import difflib
import itertools
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from forebrain.errors import ConfigError, ForebrainError, StoppedError

Config = TypeVar("Config")
# Key of a choice's config classes in its field's metadata.
_CHOICES = "choices"


def one_of(configs: Mapping[str, type[Any]]) -> dict[str, Any]:
    """Metadata of a dataclass field that holds one of several configs, each of which has a field `name`;
    the field's default factory makes the one that is meant where nothing is said."""
    return {_CHOICES: configs}


def parse(
    config_class: type[Config],
    arguments: Sequence[str] | None = None,
    description: str = "",
    short: Mapping[str, str] | None = None,
) -> Config:
    """Reads a config: defaults, then `--config FILE`, then the other options, in that order.

    An option that is true or false may stand alone, which means true; one that is a list takes all words up
    to the next option.

    Args:
        config_class: a dataclass whose docstring says what each field is.
        arguments: the command line; None for the process's own.
        description: shown by --help.
        short: other names of options, for example {"--full": "--evaluation.full"}.

    Raises:
        ConfigError: an unknown key, a missing one, or an impossible value; the message names it.
        SystemExit: --help was asked for.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = ArgumentParser(description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(_narrowed(config_class, lambda key: _given(given, key)))
    try:
        values = parser.parse_args(_spelled_out(given, parser, short or {}))
        return _instantiate(parser, config_class, values)
    except ArgumentError as error:
        raise ConfigError(_with_suggestion(str(error), parser)) from error


def from_values(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """A config from plain values, as a config.yaml holds them.

    Raises:
        ConfigError: an unknown key, a missing one, or an impossible value; the message names it.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(_narrowed(config_class, lambda key: _at(values, key)))
    try:
        return _instantiate(parser, config_class, parser.parse_object(dict(values)))
    except ArgumentError as error:
        raise ConfigError(str(error)) from error


def _instantiate(parser: ArgumentParser, config_class: type[Config], values: Namespace) -> Config:
    objects: dict[str, Any] = parser.instantiate(values).as_dict()
    objects.pop("config", None)
    return config_class(**{name: _widened(value) for name, value in objects.items()})


def _narrowed(config_class: type[Any], chosen: Callable[[str], Any], prefix: str = "") -> type[Any]:
    """The same dataclass, in which each choice has the type of the config that was chosen for it.

    Args:
        config_class: a dataclass; those among its fields are narrowed too.
        chosen: what was given for a key such as `model.name`, None for nothing.
        prefix: of the class's own keys.
    """
    types: dict[str, type[Any]] = {}
    hints = get_type_hints(config_class)
    for item in fields(config_class):
        key = f"{prefix}{item.name}"
        if _CHOICES in item.metadata:
            choices: Mapping[str, type[Any]] = item.metadata[_CHOICES]
            assert item.default_factory is not MISSING
            name = chosen(f"{key}.name") or item.default_factory().name
            if name not in choices:
                raise ConfigError(f"{key}.name is {name!r}; expected one of {', '.join(choices)}.")
            # Any name is allowed in it, because a file may give one and the command line another.
            types[item.name] = _with_fields(choices[name], {"name": (Literal[tuple(choices)], name)})
        elif is_dataclass(hints[item.name]):
            narrowed = _narrowed(hints[item.name], chosen, f"{key}.")
            if narrowed is not hints[item.name]:
                types[item.name] = narrowed
    factories = {item.name: item.default_factory for item in fields(config_class)}
    return _with_fields(
        config_class,
        {
            name: (kind, MISSING if factories[name] is MISSING else field(default_factory=kind))
            for name, kind in types.items()
        },
    )


def _with_fields(config_class: type[Any], changed: Mapping[str, tuple[Any, Any]]) -> type[Any]:
    """The same dataclass with other types and defaults of some fields; MISSING is no default."""
    if not changed:
        return config_class
    members = {
        "__annotations__": {name: kind for name, (kind, _) in changed.items()},
        "__doc__": config_class.__doc__,
        "_widened": config_class,
        **{name: default for name, (_, default) in changed.items() if default is not MISSING},
    }
    return dataclass(frozen=True)(type(config_class.__name__, (config_class,), members))


def _widened(value: Any) -> Any:
    """A value of a narrowed class as one of the class it was made from."""
    original = vars(type(value)).get("_widened")
    if original is None:
        return value
    return original(**{item.name: _widened(getattr(value, item.name)) for item in fields(value)})


def _given(arguments: Sequence[str], key: str) -> Any:
    """What the command line gives for a key, itself or in a file or text of YAML; None for nothing."""
    found = None
    words = [part for word in arguments for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    for option, value in itertools.pairwise(words):
        name = "" if option == "--config" else option.removeprefix("--")
        if option == f"--{key}":
            found = value
        elif option.startswith("--") and key.startswith(f"{name}." if name else ""):
            try:
                text = Path(value).read_text() if Path(value).is_file() else value
                found = _at(yaml.safe_load(text), key.removeprefix(f"{name}.")) or found
            except (OSError, yaml.YAMLError):  # the parser says it better
                continue
    return found


def _at(values: Any, key: str) -> Any:
    """The value at a dotted key of nested mappings, None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _spelled_out(arguments: Sequence[str], parser: ArgumentParser, short: Mapping[str, str]) -> list[str]:
    """The command line with other names replaced, `true` after options that stand alone, and the values of
    an option that takes several (`--recordings A B`, what a shell makes of *.nwb) as one list."""
    type_of = {
        option: getattr(action, "_typehint", None)
        for action in parser._actions
        for option in action.option_strings
    }
    spelled: list[str] = []
    words = list(arguments)
    while words:
        option = words.pop(0)
        option = short.get(option, option)
        spelled.append(option)
        num_values = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
        if type_of.get(option) is bool and num_values == 0:
            spelled.append("true")
        elif _is_list(type_of.get(option)) and num_values and not words[0].startswith(("[", "null")):
            spelled.append(json.dumps(words[:num_values]))
            del words[:num_values]
    return spelled


def _is_list(hint: Any) -> bool:
    """Whether a type is a list, or a list or None."""
    of_any = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return any(get_origin(each) is list for each in of_any)


def _with_suggestion(message: str, parser: ArgumentParser) -> str:
    """Adds the option that was probably meant, where one was not recognised."""
    known = [option for action in parser._actions for option in action.option_strings]
    unknown = next((word.split("=")[0] for word in message.split() if word.startswith("--")), "")
    if unknown in known or not (close := difflib.get_close_matches(unknown, known, n=1)):
        return message
    return f"{message}\nDid you mean {close[0]}?"


def exit_status(error: ForebrainError | OSError) -> int:
    """Shows an error that the user can mend, without a traceback. Returns the exit status of the job."""
    if isinstance(error, StoppedError):
        print(error, file=sys.stderr)
        return 128 + signal.Signals[error.signal_name]
    print(f"error: {error}", file=sys.stderr)
    return 2 if isinstance(error, ConfigError) else 1
