"""Questions about a recording: what a reader cannot tell, and the lines of a sidecar file that settle it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from forebrain.errors import RecordingError


class RecordingQuestion(RecordingError):  # noqa: N818 - it is asked, nothing has failed
    """A recording that can be read once the user has answered.

    Attributes:
        choices: by key of the sidecar, the values that could be meant, as YAML has them; none where any
            value could be.
    """

    def __init__(self, message: str, choices: Mapping[str, Sequence[Any]]) -> None:
        super().__init__(message)
        self.choices = {key: list(values) for key, values in choices.items()}


def as_yaml(question: RecordingQuestion) -> str:
    """The question as a sidecar file to fill in: words and choices as comments, each key without a value."""
    lines = [f"# {line}" for line in _wrapped(str(question))]
    for key, values in question.choices.items():
        lines += [f"#   {key}: {flow(value)}" for value in values]
        lines.append(f"{key}:")
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 98, break_long_words=False, break_on_hyphens=False)


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...").strip()
