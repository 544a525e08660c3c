"""The program `forebrain`: the words of a command name its module here, `forebrain live serve` live/serve.py.

A command's module has a docstring, which its help begins with, and
    Config                          the dataclass of its options
    run(config, console) -> int     what it does; the exit status
    FIRST         options that its help shows, the most used first; all at the top level where it has none
    POSITIONAL    the option that words belong to which follow none
    ALIASES       other names of options: what people's scripts call them, and short ones of the most used
    DEFINITIONS   files that --config finds by a name
of which only the first two must be there. It is imported when it is called, so that help is quick and a
command needs no package but its own. No other room imports this one.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import forebrain
from forebrain.commands._table import SUMMARIES
from forebrain.commands._unread import output_may_fail
from forebrain.errors import ConfigError, ForebrainError, StoppedError
from forebrain.leaving import HANGUP, end_as_usual, end_at_once, end_in_order, status_or
from forebrain_registry.lines import LineFormatter, one_line, quoted

# Commands whose work is worth more than what they print of it.
_LASTING = ("prepare", "pretrain", "evaluate", "publish", "adapt", "study ", "live ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0 if it did what was asked, 1 if it could not, 2 for a command line or config that
        makes no sense, 128 and the signal's number where one stopped it (130 for Ctrl-C).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _make_printable()
    end_at_once()
    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        # Whoever read the output has seen enough, as `head` does, or the same Ctrl-C stopped it, as `tee`.
        is_interrupt = isinstance(error.__context__, KeyboardInterrupt)
        status = 128 + signal.SIGINT if is_interrupt else status_or(1)
        if status > 1:
            _tell("stopped")
        return status
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "forebrain", "forebrain_registry"):
            raise
        print(
            f"error: this needs the package {package}, which is not installed. `forebrain doctor` says what "
            "is missing for which job, and how to install it.",
            file=sys.stderr,
        )
        return 1
    except StoppedError as error:
        _tell(error)
        return 128 + signal.Signals[error.signal_name]
    except (ForebrainError, OSError) as error:
        told = error if isinstance(error, ForebrainError) else one_line(str(error))
        print(f"error: {told}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":
            raise
        print(
            f"error: {one_line(str(error.object))}: is no name where text is {error.encoding}, as this "
            "terminal says. Set LC_ALL=C.UTF-8, or PYTHONUTF8=1.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        _tell("stopped")
        return 128 + signal.SIGINT
    except SystemExit as error:
        if error.code not in (signal.SIGTERM, HANGUP):
            raise
        # The bare number is what our handler leaves with, and Ray's in a process that has started it.
        _tell("stopped")
        return HANGUP if error.code == HANGUP else 128 + signal.SIGTERM
    finally:
        end_as_usual()
        _drop_unread()


def _tell(text: object) -> None:
    """Prints the last line, which nobody may read any more."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def _drop_unread() -> None:
    """Has what nobody reads any more go nowhere; else Python would end with a status of its own for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def split(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command that a command line begins with, and what it is given.

    Raises:
        ConfigError: it begins with none.
    """
    for length in (2, 1):
        if (name := " ".join(words[:length])) in SUMMARIES:
            return name, list(words[length:])
    known = [name for name in SUMMARIES if name.split()[0] == words[0]]
    given = " ".join(words[:2] if known else words[:1])
    close = difflib.get_close_matches(given, known or SUMMARIES, n=1) or known[:1]
    meant = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(f"there is no command {given!r}.{meant} `forebrain --help` names all.")


def module_of(name: str) -> ModuleType:
    """The module of a command."""
    path = name.replace("-", "_").replace(" ", ".")
    return importlib.import_module(f"forebrain.commands.{path}")


def parse_command(name: str, arguments: Sequence[str]) -> Any:
    """The config that a command is given.

    Raises:
        ConfigError: the command line makes no sense.
    """
    from forebrain.config import parse

    module = module_of(name)
    try:
        return parse(
            module.Config,
            arguments,
            positional=getattr(module, "POSITIONAL", None),
            aliases=getattr(module, "ALIASES", {}),
            definitions=definitions_of(module),
        )
    except ConfigError as error:
        raise ConfigError(*error.args, f"`forebrain {name} --help` shows the options.") from error


def definitions_of(module: ModuleType) -> Mapping[str, str]:
    """Files that a command's --config finds by name."""
    folder: Path | None = getattr(module, "DEFINITIONS", None)
    return {} if folder is None else {path.stem: str(path) for path in sorted(folder.glob("*.yaml"))}


def command_line() -> str:
    """How this process was called, for reports that say how they came about."""
    program = Path(sys.argv[0])
    is_script = program.suffix == ".py" and program.name != "__main__.py"
    return " ".join(map(quoted, ["python", *sys.argv] if is_script else ["forebrain", *sys.argv[1:]]))


def _make_printable() -> None:
    """Makes names of any letters printable where the terminal has not all of them, or there is none, and
    warnings lines."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LineFormatter())
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _run(words: list[str]) -> int:
    from forebrain.commands import _help

    if not words:
        print(_help.overview(), file=sys.stderr)
        return 2
    if words[0] == "help":
        words = [*words[1:], "--help"]
    if words[0] in ("-h", "--help"):
        print(_help.overview())
        return 0
    if words[0] == "--version":
        print(f"forebrain {forebrain.__version__}")
        return 0
    if words[1:] in ([], ["-h"], ["--help"]) and (actions := _help.actions(words[0])):
        print(actions, file=None if words[1:] else sys.stderr)
        return 0 if words[1:] else 2
    name, given = split(words)
    try:
        Path.cwd()
    except OSError as error:  # torch would end the process
        raise ForebrainError(
            f"the folder in which this is started cannot be used ({error.strerror}); expected one that is "
            "there. `cd` to it, or to another."
        ) from error
    if name == "adapt":
        # Read when NumPy is first imported. Products of single units' matrices are small: several threads of
        # BLAS spin while they wait for one another, and take longer than one.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    module = module_of(name)
    end_in_order()
    if hasattr(module, "main"):  # has a parser of its own
        return module.main(given)
    if asked := _help.asked(given):
        print(_help.command(name, module, given, asked))
        return 0
    config = parse_command(name, given)
    from forebrain.console import make_console

    with output_may_fail() if name.startswith(_LASTING) else contextlib.nullcontext():
        return module.run(config, make_console())
