"""Prints what completes commands, options and their values in bash or zsh.

forebrain completion bash > ~/.local/share/bash-completion/completions/forebrain
forebrain completion zsh > ~/.forebrain.zsh    # and in ~/.zshrc: source ~/.forebrain.zsh
"""

# A list made once, so that a Tab starts no Python. Of what jsonargparse knows, argcomplete would import torch
# at every Tab, and shtab be one package more that wants all commands in one parser.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from forebrain.commands import SUMMARIES, definitions_of, module_of
from forebrain.commands._help import literals
from forebrain.config import flat, options

POSITIONAL = "shell"
# Of the program that `forebrain registry` hands on to.
OF_REGISTRY = "publish list search show pull alias deprecate verify sign gc copy index"
_ZSH = """\
autoload -Uz compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""
_SCRIPT = """\
_forebrain() {
    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"
    local command="${COMP_WORDS[1]}" at=1 words=""
    case "$command" in
        %(groups)s) command="$command ${COMP_WORDS[2]}"; at=2 ;;
    esac
    if (( COMP_CWORD <= at )); then
        case "$COMP_CWORD ${COMP_WORDS[1]}" in
            1*) words="%(first)s" ;;
%(second)s
        esac
    elif [[ "$current" == -* ]]; then
        case "$command" in
%(options)s
        esac
    else
        case "$command $previous" in
%(values)s
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _forebrain forebrain
"""


@dataclass(frozen=True)
class Config:
    """The shell.

    Attributes:
        shell: bash or zsh.
    """

    shell: Literal["bash", "zsh"]


def run(config: Config, console: Console) -> int:
    """Prints the script."""
    print((_ZSH if config.shell == "zsh" else "") + script(), end="")
    return 0


def script() -> str:
    """The function that bash calls, and zsh through bashcompinit."""
    groups: dict[str, list[str]] = {}
    for name in SUMMARIES:
        word, *action = name.split()
        groups.setdefault(word, []).extend(action)
    second = [f'            "2 {word}") words="{" ".join(each)}" ;;' for word, each in groups.items() if each]
    of_options, of_values = [], [f'            "registry registry") words="{OF_REGISTRY}" ;;']
    for name in SUMMARIES:
        found = dict(_options(name))
        of_options.append(f'            "{name}") words="{" ".join(found)}" ;;')
        of_values += [
            f'            "{name} {option}") words="{" ".join(values)}" ;;'
            for option, values in found.items()
            if values
        ]
    return _SCRIPT % {
        "groups": "|".join(word for word, each in groups.items() if each),
        "first": " ".join([*groups, "--help", "--version"]),
        "second": "\n".join(second),
        "options": "\n".join(of_options),
        "values": "\n".join(of_values),
    }


def _options(name: str) -> Iterator[tuple[str, list[str]]]:
    """Each option of a command with the values it may have, where they are few."""
    module = module_of(name)
    yield "--help", []
    if not hasattr(module, "Config"):
        return
    yield "--help-all", []
    yield "--config", list(definitions_of(module))
    positional = getattr(module, "POSITIONAL", None)
    for option in flat(options(module.Config)):
        if option.name != positional:
            yield f"--{option.name}", [str(value) for value in literals(option.type)]
        elif values := literals(option.type):
            yield name.split()[-1], [str(value) for value in values]  # it follows the command itself
    for alias in getattr(module, "ALIASES", {}):
        yield alias, []
