"""Help that fits a screen: of the program its commands, of a command the options that are most used."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from forebrain.commands._table import COMMANDS, SUMMARIES
from forebrain.errors import ConfigError

if TYPE_CHECKING:  # its parser takes longer to import than all help that needs none
    from forebrain.config import Option

    Options = Iterable[Option]

WIDTH = 100
# What stands for the values of options of these names; for another its name.
_METAVARS = {
    "data": "URI",
    "out": "URI",
    "run": "URI",
    "registry": "URI",
    "storage": "URI",
    "recording": "PATH",
}
_INDENT = 30
_LONGEST_CHOICE = 40


def overview() -> str:
    """The text of `forebrain --help`."""
    lines = ["usage: forebrain COMMAND [options]   forecasts brain activity"]
    for title, commands in COMMANDS.items():
        lines += ["", f"{title}:", *(_row(name, summary, 23) for name, summary in commands.items())]
    lines += [
        "",
        "`COMMAND --help` shows its options. Exit status: 0 done, 1 could not, 2 command or config is wrong.",
        "URI is a folder or s3://bucket/prefix. Any option can stand in a YAML file: --config FILE.",
    ]
    return "\n".join(lines)


def actions(word: str) -> str:
    """The help of a word that several commands begin with, such as `live`; empty for another."""
    found = {name: summary for name, summary in SUMMARIES.items() if name.startswith(f"{word} ")}
    if not found:
        return ""
    rows = [_row(name, summary, 26) for name, summary in found.items()]
    return "\n".join([f"usage: forebrain {word} ACTION [options]", "", *rows])


def asked(arguments: Sequence[str]) -> str:
    """Which help a command line asks for: "short", "all", a group's name, or none, which is empty."""
    for position, word in enumerate(arguments):
        if word == "--help-all":
            return "all"
        if word in ("-h", "--help"):
            after = arguments[position + 1 : position + 2]
            return after[0] if after and not after[0].startswith("-") else "short"
    return ""


def command(name: str, module: ModuleType, arguments: Sequence[str], which: str) -> str:
    """The help of a command: "short", "all", or of one group of options, under the choices of its line."""
    from forebrain.config import flat, options

    given = [word for word in arguments if word not in ("-h", "--help", "--help-all")]
    found = options(module.Config, given)
    groups = {option.name: option for option in _groups(found)}
    if which == "short":
        return "\n".join([*_head(name, module, found), *_most_used(module, found, groups)])
    if which == "all":
        return "\n".join([*_head(name, module, found), *_all(module, found, groups)])
    if which in groups:
        group = groups[which]
        return "\n".join([f"{group.name}: {group.text}", "", *_rows(module, flat(group.members), True)])
    close = difflib.get_close_matches(which, groups, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(f"{name} has no group of options {which!r}.{meant} There are: {', '.join(groups)}.")


def _head(name: str, module: ModuleType, found: Options) -> Iterator[str]:
    """How the command is called, and what its docstring says."""
    from forebrain.config import flat

    given = " ".join(
        _metavar(option) if _is_positional(module, option) else f"--{option.name} {_metavar(option)}"
        for option in flat(found)
        if option.default is dataclasses.MISSING
    )
    yield _filled(" ".join(f"usage: forebrain {name} {given} [options]".split()))
    yield ""
    yield from _paragraphs(inspect.cleandoc(module.__doc__ or ""))
    yield ""


def _most_used(module: ModuleType, found: Options, groups: Mapping[str, Option]) -> Iterator[str]:
    """The options that the command puts first, and where the others are."""
    from forebrain.config import flat

    every = {option.name: option for option in flat(found)}
    own = [option.name for option in found if not option.members]
    first = getattr(module, "FIRST", own)
    yield from _rows(module, [every[name] for name in first], False)
    yield ""
    if rest := [f"--{name}" for name in own if name not in first]:
        yield _filled(f"Also {', '.join(rest)}.")
    if groups:
        yield "By group:"
    for group in groups.values():
        number = sum(not option.members for option in group.members)
        yield _row(f"--{group.name}.*", f"{number} options: {_sentence(group.text).rstrip('.')}", _INDENT)
    one = f"`--help {next(iter(groups))}` shows a group, " if groups else ""
    yield _filled(f"{one}`--help-all` all options in full; --config FILE reads them from YAML.")


def _all(module: ModuleType, found: Options, groups: Mapping[str, Option]) -> Iterator[str]:
    yield from _rows(module, [option for option in found if not option.members], True)
    yield _row("--config FILE", "YAML file with any of the options", _INDENT)
    yield _row("--print_config", "print all options as such a file, and do nothing", _INDENT)
    for group in groups.values():
        yield f"\n{group.name}: {group.text}"
        yield from _rows(module, [option for option in group.members if not option.members], True)


def _rows(module: ModuleType, chosen: Iterable[Option], whole: bool) -> Iterator[str]:
    aliases: dict[str, str] = getattr(module, "ALIASES", {})
    for option in chosen:
        others = [alias for alias, of in aliases.items() if of == f"--{option.name}"]
        name, text = _described(option, others, whole)
        yield _row(name.split(" ", 1)[-1] if _is_positional(module, option) else name, text, _INDENT)


def _is_positional(module: ModuleType, option: Option) -> bool:
    return option.name == getattr(module, "POSITIONAL", None)


def _groups(found: Options) -> Iterator[Option]:
    """Configs within configs, each before those within it."""
    for option in found:
        if option.members:
            yield option
            yield from _groups(option.members)


def _described(option: Option, others: list[str], whole: bool) -> tuple[str, str]:
    """How an option is given, and what it does."""
    name = f"--{option.name} {_metavar(option)}".rstrip()
    text, implied = option.text, None
    if option.default is None and (implied := re.search(r"\s*\bNone: (.+?)\.(?=\s|$)", text)):
        text = text.replace(implied[0], "")
    text = text if whole else _sentence(text)
    values = [str(value) for value in literals(option.type)]
    more = []
    if len("{" + ",".join(values) + "}") > _LONGEST_CHOICE and (whole or len(values) < 8):
        more.append(f"one of {', '.join(values)}")
    default = option.default
    if default is not dataclasses.MISSING and default not in (None, "", [], {}) and default is not False:
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        more.append(f"default: {shown}")
    elif implied:
        more.append(f"default: {implied[1]}")
    if others:
        more.append(f"also {', '.join(others)}")
    return name, f"{text.rstrip('.')} ({'; '.join(more)})" if more else text.rstrip(".")


def _metavar(option: Option) -> str:
    """The word for an option's value in a usage line; empty where the option may stand alone."""
    alternatives = [each for each in get_args(option.type) or () if each is not type(None)]
    hint = option.type
    if alternatives and get_origin(hint) not in (list, tuple, dict, Literal):
        hint = alternatives[0]
    several = "..." if get_origin(hint) in (list, tuple) else ""
    values = literals(option.type)
    inner = get_args(hint)[0] if several else hint
    if inner is bool:
        return "{true,false}" if option.default is True else ""
    choice = "{" + ",".join(map(str, values)) + "}"
    if values and len(choice) <= _LONGEST_CHOICE:
        return choice + several
    if inner in (int, float):
        return {int: "N", float: "X"}[inner] + several
    name = str(option.name).rsplit(".", 1)[-1]
    return _METAVARS.get(name, name.upper()) + several


def literals(hint: Any) -> tuple[Any, ...]:
    """The values that a type allows one by one; none for another type."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(value for each in get_args(hint) for value in literals(each))


def _sentence(text: str) -> str:
    """The first sentence."""
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def _paragraphs(text: str) -> Iterator[str]:
    """The text as wide as help is; what is indented stays as it is."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        yield paragraph if paragraph.startswith(" ") else _filled(" ".join(paragraph.split()))


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)


def _row(name: str, text: str, indent: int) -> str:
    """A name with its text in a column of its own, below it where the name is long."""
    lines = textwrap.wrap(text, WIDTH - indent, break_on_hyphens=False, break_long_words=False) or [""]
    head = f"  {name}"
    if len(head) + 2 > indent:
        return "\n".join([head, *(" " * indent + line for line in lines)])
    return "\n".join([head.ljust(indent) + lines[0], *(" " * indent + line for line in lines[1:])]).rstrip()
