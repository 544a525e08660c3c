"""A dataclass from a YAML file and the command line: `--training.steps 500`."""

from __future__ import annotations

import difflib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_origin

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from forebrain.errors import ConfigError, ForebrainError, StoppedError

Config = TypeVar("Config")


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
    parser = ArgumentParser(description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(config_class)
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
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
    parser.add_class_arguments(config_class)
    try:
        return _instantiate(parser, config_class, parser.parse_object(dict(values)))
    except ArgumentError as error:
        raise ConfigError(str(error)) from error


def _instantiate(parser: ArgumentParser, config_class: type[Config], values: Namespace) -> Config:
    objects: dict[str, Any] = parser.instantiate(values).as_dict()
    objects.pop("config", None)
    return config_class(**objects)


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
        elif get_origin(type_of.get(option)) is list and num_values:
            spelled.append(json.dumps(words[:num_values]))
            del words[:num_values]
    return spelled


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
