"""Text stays on its line and moves nothing else, whatever is in the names that it tells of."""

from __future__ import annotations

import logging
import pickle
import subprocess

import pytest

from forebrain.errors import BadShardError, ConfigError
from forebrain_registry.lines import LineFormatter, one_line, quoted

WORDS = ["a\nb", "a\tb", "\r", "\x1b[31mred", "\x07", "\x85", "\u2028", "\u202emp3", "\x7f", "it's\n\\n"]


@pytest.mark.parametrize("word", WORDS)
def test_line_ends_control_and_turning_characters_are_shown_escaped(word: str) -> None:
    shown = one_line(f"{word}: gone")
    assert len(shown.splitlines()) == 1 and shown.endswith(": gone") and one_line(shown) == shown
    assert not set(shown) & set("\n\t\r\x1b\x07\x7f\u202e")


@pytest.mark.parametrize("text", ["Müller", "脳🧠", "👩‍🔬 a b", "a\\n", "a|b", "", "عصب"])
def test_letters_of_all_scripts_stay(text: str) -> None:
    assert one_line(text) == text


@pytest.mark.parametrize("word", [*WORDS, "plain", "two words", "$HOME"])
def test_a_quoted_word_is_the_word_in_a_shell_and_one_line(word: str) -> None:
    command = ["bash", "-c", f"printf %s {quoted(word)}"]
    told = subprocess.run(command, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert told.stdout.decode() == word and len(quoted(word).splitlines()) == 1


def test_an_error_is_one_line_and_more_where_it_says_so() -> None:
    error = ConfigError("a\nb is no folder.", "Did you mean a?")
    assert str(error) == "a\\nb is no folder.\nDid you mean a?"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(ConfigError(*error.args, "`--help` helps.")).splitlines()[2] == "`--help` helps."
    assert str(pickle.loads(pickle.dumps(BadShardError("a\tb", (1,))))) == "a\\tb"


def test_a_warning_is_one_line_before_its_traceback() -> None:
    record = logging.LogRecord("a", logging.WARNING, "a.py", 1, "%s is gone", ("a\nb",), None)
    assert LineFormatter().format(record) == "a\\nb is gone"
    try:
        raise ValueError("why")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    first, *rest = LineFormatter().format(record).splitlines()
    assert first == "a\\nb is gone" and rest[-1] == "ValueError: why"
