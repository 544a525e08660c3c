"""A dataclass from a YAML file and the command line: `--training.steps 500`.

A field may be a choice: `<field>.name` chooses one of several config classes, whose options then are the
field's. So `--model.name mlp` has other options than `--model.name poco`, each with its help text. Where such
a class has `SIZES`, `<field>.size` names one: other defaults of some options, which may still be given.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, _loaders_dumpers, set_loader

from forebrain.errors import ConfigError, StorageError
from forebrain_registry import plain_yaml
from forebrain_registry.storage import path_here

Config = TypeVar("Config")
# Key of a choice's config classes in its field's metadata.
_CHOICES = "choices"
_MODE = "yaml_whose_null_is_a_word"


def _load(text: str) -> Any:
    """What YAML reads in a value. Of what it reads as nothing (`~`, `#1`, `&a`) only the word `null` is that;
    all else is a name."""
    value = plain_yaml.load(text)
    return text if value is None and text.strip() and "\n" not in text else value


set_loader(_MODE, _load, (yaml.YAMLError,))


@contextmanager
def _plain_numbers() -> Iterator[None]:
    """Has the parser read numbers as `plain_yaml` does: in its own YAML, whatever its mode, 1:30 is 90."""
    parser: Any = _loaders_dumpers
    own, parser.yaml_default_loader = parser.yaml_default_loader, plain_yaml.PlainLoader
    try:
        yield
    finally:
        parser.yaml_default_loader = own


@dataclass(frozen=True)
class Size:
    """A size of a config that has a name.

    Attributes:
        options: what it makes the default of some options.
        text: what it costs and is worth, for people who choose.
    """

    options: Mapping[str, Any]
    text: str


def one_of(configs: Mapping[str, type[Any]]) -> dict[str, Any]:
    """Metadata of a dataclass field that holds one of several configs, each of which has a field `name`;
    the field's default factory makes the one that is meant where nothing is said."""
    return {_CHOICES: configs}


def parse(
    config_class: type[Config],
    arguments: Sequence[str],
    *,
    positional: str | None = None,
    aliases: Mapping[str, str] | None = None,
    definitions: Mapping[str, str] | None = None,
) -> Config:
    """Reads a config: defaults, then `--config FILE`, then the other options, in that order.

    An option that is true or false may stand alone, which means true; one that is a list takes all words up
    to the next option. `--batch-size` is `--batch_size`. No option may be cut short.

    Args:
        config_class: a dataclass whose docstring says what each field is.
        arguments: the command line.
        positional: the option that words belong to which follow none.
        aliases: other names of options, {"--full": "--evaluation.full"}; of one that is true or false the
            other may bring a value, {"--serial": "--workers 0"}. Those of whole fields hold in files too.
        definitions: files that --config finds by a name, where no file is called so.

    Raises:
        ConfigError: an unknown key, a missing one, or an impossible value; the message names it.
    """
    given = _with_files(config_class, arguments, aliases or {}, definitions or {})
    narrowed = _narrowed(config_class, lambda key: _given(given, key))
    known = {f"--{option.name}": option.type for option in flat(_options(narrowed))}
    parser = ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False, parser_mode=_MODE)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(narrowed)
    if any(word.startswith("--print_config") for word in given) and hasattr(sys.stdout, "reconfigure"):
        # What is printed is a file for --config, whatever letters this terminal has.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        with _plain_numbers():
            values = parser.parse_args(_spelled_out(given, known, aliases or {}, positional))
        return _instantiate(parser, config_class, values)
    except ArgumentError as error:
        raise ConfigError(*_explained(str(error), known, [*known, *(aliases or {})])) from error


def from_values(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """A config from plain values, as a config.yaml holds them.

    Raises:
        ConfigError: an unknown key, a missing one, or an impossible value; the message names it.
    """
    kind: Any = config_class
    parser = _parser_of(kind, tuple((key, _at(values, key)) for key in _choices_in(kind)))
    try:
        with _plain_numbers():
            parsed = parser.parse_object(dict(values))
        return _instantiate(parser, config_class, parsed)
    except ArgumentError as error:
        raise ConfigError(str(error)) from error


@lru_cache(maxsize=64)
def _parser_of(config_class: type[Any], chosen: tuple[tuple[str, Any], ...]) -> ArgumentParser:
    """Kept, since to make it takes longer than to parse with it, and a study reads a config a trial.

    Args:
        config_class: a dataclass.
        chosen: keys of its choices such as `model.name`, and what was given for each; None for nothing.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(_narrowed(config_class, dict(chosen).get))
    return parser


@lru_cache(maxsize=64)
def _choices_in(config_class: type[Any]) -> tuple[str, ...]:
    """Keys of the names by which `_narrowed` chooses."""
    keys: list[str] = []
    _narrowed(config_class, keys.append)
    return tuple(keys)


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
            changed: dict[str, tuple[Any, Any]] = {"name": (Literal[tuple(choices)], name)}
            sizes: Mapping[str, Size] = getattr(choices[name], "SIZES", {})
            if sizes:
                size = chosen(f"{key}.size")
                if size is not None and size not in sizes:
                    raise ConfigError(f"{key}.size is {size!r}; expected one of {', '.join(sizes)}.")
                changed["size"] = (Literal[tuple(sizes)] | None, None)
                if size is not None:
                    types_of = get_type_hints(choices[name])
                    changed |= {one: (types_of[one], value) for one, value in sizes[size].options.items()}
            types[item.name] = _with_fields(choices[name], changed)
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
        "__doc__": _with_sizes(config_class) if "size" in changed else config_class.__doc__,
        "_widened": config_class,
        **{name: default for name, (_, default) in changed.items() if default is not MISSING},
    }
    return dataclass(frozen=True)(type(config_class.__name__, (config_class,), members))


def _with_sizes(config_class: type[Any]) -> str:
    """A class's docstring with a line on its sizes."""
    sizes: Mapping[str, Size] = vars(config_class)["SIZES"]
    said = "; ".join(f"{name}: {size.text}" for name, size in sizes.items())
    heading = "Attributes:\n"
    return (config_class.__doc__ or "").replace(heading, f"{heading}        size: {said}.\n", 1)


def _widened(value: Any) -> Any:
    """A value of a narrowed class as one of the class it was made from."""
    original = vars(type(value)).get("_widened")
    if original is None:
        return value
    return original(**{item.name: _widened(getattr(value, item.name)) for item in fields(original)})


def _given(arguments: Sequence[str], key: str) -> Any:
    """The command line's value for a key, itself or in a text of YAML; None if it gives none."""
    found = None
    words = [part for word in arguments for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    for option, value in itertools.pairwise(words):
        name = "" if option == "--config" else option.removeprefix("--")
        if option == f"--{key}":
            found = value
        elif option.startswith("--") and key.startswith(f"{name}." if name else ""):
            found = _at(_yaml_of(value), key.removeprefix(f"{name}.")) or found
    return found


def _yaml_of(text: str) -> Any:
    """What YAML reads in a text; None where it is unreadable, which the parser says."""
    try:
        return plain_yaml.load(text)
    except (ValueError, yaml.YAMLError):
        return None


def _at(values: Any, key: str) -> Any:
    """The value at a dotted key of nested mappings, None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _with_files(
    config_class: type[Any],
    arguments: Sequence[str],
    aliases: Mapping[str, str] | None = None,
    definitions: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line with the YAML in files in place of their paths, since the parser would read them in
    the terminal's encoding: of `--config FILE` or NAME, where other names of options are replaced too, and of
    a config within, `--training FILE`.

    Raises:
        ConfigError: a file cannot be read, or is no mapping in UTF-8.
    """
    words, left = [], list(arguments)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        kind = config_class if option == "--config" else _config_at(config_class, option)
        if kind is None or not (equals or (left and not left[0].startswith("--"))):
            words.append(word)
            continue
        value = value if equals else left.pop(0)
        if option == "--config" and value in (definitions or {}) and not Path(value).exists():
            value = (definitions or {})[value]
        file = _file(value, Path())
        values = _values_in(kind, file) if file else _yaml_of(value)
        if isinstance(values, dict):
            value = _as_yaml(_renamed(values, aliases or {}) if option == "--config" else values)
        words.append(f"{option}={value}")
    return words


def _config_at(config_class: type[Any], option: str) -> Any:
    """The class of the config that an option such as `--training` gives as a whole; None for any other."""
    found: Any = config_class if option.startswith("--") else None
    for part in option.removeprefix("--").split("."):
        found = get_type_hints(found).get(part) if is_dataclass(found) else None
    return found if is_dataclass(found) else None


def _file(name: str, folder: Path) -> Path | None:
    """The file of this name in a folder, or the pipe (`--config <(...)`, `-`); None where there is none."""
    with suppress(OSError, StorageError):  # a text longer than a name may be; no path on this machine
        path = folder / path_here("/dev/stdin" if name == "-" else name)
        return path if path.is_file() or path.is_fifo() else None
    return None


def _values_in(config_class: type[Any], path: Path) -> dict[str, Any]:
    """The options in a file, with those of files that it names, from its folder on, for configs within.

    Raises:
        ConfigError: it cannot be read, is no mapping in UTF-8 with each key once.
    """
    try:
        values = plain_yaml.load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as YAML saved as UTF-8 ({why}).") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no options; expected lines of YAML such as `seed: 1`.")
    names = list(_dotted(values))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: has {', '.join(twice)} twice; expected each option once.")
    for key, value in values.items():
        kind = _config_at(config_class, f"--{key}")
        if kind is not None and isinstance(value, str) and (file := _file(value, path.parent)):
            values[key] = _values_in(kind, file)
    return values


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Names of the options in a file, as `training.steps`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _renamed(values: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The values of a file under the names that fields have."""
    renamed = {}
    for key, value in values.items():
        name, _, implied = aliases.get(f"--{key}", f"--{key}").removeprefix("--").partition(" ")
        if "." in name:
            renamed[key] = value
        elif not implied:
            renamed[name] = value
        elif value is True:
            renamed[name] = plain_yaml.load(implied)
    return renamed


def _spelled_out(
    arguments: Sequence[str], known: Mapping[str, Any], aliases: Mapping[str, str], positional: str | None
) -> list[str]:
    """The command line as the parser wants it: other names replaced, `true` after options that stand alone,
    the values of an option that takes several (`--recording A B`, what a shell makes of *.nwb, or in parts,
    `--recording A --recording B`) as one list, and words that follow no option as the positional one's."""
    spelled: list[str | list[Any]] = []
    lists: dict[str, list[Any]] = {}
    free: list[str] = []

    def give(option: str, values: list[str]) -> None:
        whole: Any = values
        if len(values) == 1 and values[0].startswith("[") and not Path(values[0]).exists():
            read = _yaml_of(values[0])
            whole = values if read is None else read
        if not _is_list(known.get(option)) or values in ([], ["null"]) or not isinstance(whole, list):
            # Joined, since a value may begin like an option.
            spelled.extend([f"{option}={values[0]}"] if len(values) == 1 else [option, *values])
        elif option in lists:
            lists[option] += whole
        else:
            lists[option] = list(whole)
            spelled.extend([option, lists[option]])

    words = list(arguments)
    while words:
        if words[0] == "--":  # what follows is no option, as everywhere in a shell
            free += words[1:]
            break
        if not words[0].startswith("--"):
            free.append(words.pop(0))
            continue
        option, equals, value = words.pop(0).partition("=")
        option = "--" + option[2:].replace("-", "_")
        option, _, implied = aliases.get(option, option).partition(" ")
        hint = known.get(option)
        stands_alone = bool(implied) or _holds(hint, bool)
        if equals:
            values = [value]
        else:
            num_values = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
            if stands_alone and positional is not None and words[:1] not in (["true"], ["false"], ["null"]):
                num_values = 0
            elif not _is_list(hint):
                num_values = min(num_values, 1)
            values, words = words[:num_values], words[num_values:]
        if stands_alone and not values:
            values = ["true"]
        if not implied:
            give(option, values)
        elif values == ["true"]:
            give(option, [implied])
    if positional is not None and free:
        give(f"--{positional}", free)
        free = []
    return [word if isinstance(word, str) else _as_yaml(word) for word in [*spelled, *free]]


def _as_yaml(values: list[Any] | dict[str, Any]) -> str:
    """Text that YAML reads back as these very values, whatever letters are in them: a name `1e3` is one."""
    return yaml.safe_dump(values, default_style='"', default_flow_style=True, width=math.inf)


def _holds(hint: Any, kind: type) -> bool:
    """Whether a type is this one, or this one or None."""
    return hint is kind or (get_origin(hint) in (Union, UnionType) and kind in get_args(hint))


def _is_list(hint: Any) -> bool:
    """Whether a type is a list, or a tuple of any length, or one of them or None."""
    of_any = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return any(get_origin(each) in (list, tuple) for each in of_any)


def _explained(message: str, types: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """The parser's message in words, as lines: what is missing, what was expected, which option was probably
    meant."""
    wrong = re.match(r'Parser key "([\w.]+)":.*(?:Got|Given) value: (.*)', message, re.DOTALL)
    if wrong and (hint := types.get(f"--{wrong[1]}")) is not None:
        return [f"{wrong[1]} is {wrong[2].strip()}; expected {_in_words(hint)}."]
    if missing := re.search(r"arguments are required: ([\w.]+)|[Kk]ey \"([\w.]+)\" is required", message):
        return [f"--{missing[1] or missing[2]} is not given; expected a value."]
    if bare := re.match(r"argument (--[\w.]+): expected one argument", message):
        return [f"{bare[1]} stands without a value; expected one after it."]
    unknown = next((word for word in message.split() if word.startswith("--")), "").split("=")[0].rstrip(":,")
    if not unknown or unknown in known:
        return [message]
    same_end = [option for option in known if option.endswith(f".{unknown.removeprefix('--')}")]
    close = same_end or difflib.get_close_matches(unknown, known, n=1)
    return [message, f"Did you mean {close[0]}?"] if close else [message]


def _in_words(hint: Any) -> str:
    """The values that a type allows."""
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    if get_origin(hint) is Literal:
        return f"{'one of ' * (len(get_args(hint)) > 1)}{', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (Union, UnionType):
        return ", or ".join(_in_words(each) for each in get_args(hint))
    if get_origin(hint) in (list, tuple):
        return f"a list, each of it {_in_words(get_args(hint)[0])}"
    return words.get(hint, "another value" if get_origin(hint) is None else "a mapping, as YAML writes it")


@dataclass(frozen=True)
class Option:
    """An option of a config, as people are told of it.

    Attributes:
        name: as it is given, dotted: training.steps.
        type: what its values are.
        default: MISSING where one must be given.
        text: its line of the config's docstring.
        members: the options of a config within the config; empty for a single value.
    """

    name: str
    type: Any
    default: Any
    text: str
    members: tuple[Option, ...] = ()


def options(config_class: type[Any], arguments: Sequence[str] = ()) -> tuple[Option, ...]:
    """All options of a config, those of a choice as the command line has chosen.

    Raises:
        ConfigError: the command line chooses what there is not.
    """
    given = _with_files(config_class, arguments)
    return _options(_narrowed(config_class, lambda key: _given(given, key)))


def flat(options: Iterable[Option]) -> Iterator[Option]:
    """The options that hold a value, those of configs within configs too."""
    for option in options:
        if option.members:
            yield from flat(option.members)
        else:
            yield option


def _options(config_class: type[Any], prefix: str = "") -> tuple[Option, ...]:
    hints, texts = get_type_hints(config_class), _texts(config_class)
    found = []
    for item in fields(config_class):
        hint, text = hints[item.name], texts.get(item.name, "")
        default = item.default if item.default_factory is MISSING else item.default_factory()
        members: tuple[Option, ...] = ()
        if isinstance(hint, type) and is_dataclass(hint):
            members = _options(hint, f"{prefix}{item.name}.")
        if members:  # the field's own default holds, not that of its class
            members = tuple(_with_default(member, default) for member in members)
        found.append(Option(f"{prefix}{item.name}", hint, default, text, members))
    return tuple(found)


def _with_default(option: Option, within: Any) -> Option:
    """The option with the default that a config around it gives."""
    name = option.name.rsplit(".", 1)[-1]
    default = getattr(within, name, option.default)
    members = tuple(_with_default(member, default) for member in option.members)
    return replace(option, default=default, members=members)


def _texts(config_class: type[Any]) -> dict[str, str]:
    """The text that docstrings have on each field, those of base classes first."""
    found: dict[str, str] = {}
    for each in reversed(config_class.__mro__):
        if is_dataclass(each):
            described = docstring_parser.parse(each.__doc__ or "").params
            found |= {param.arg_name: " ".join((param.description or "").split()) for param in described}
    return found
