"""The folder of a trial: its result, or a note why there is none."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from forebrain.errors import CheckpointError
from forebrain.studies.trials import Trial

# In a trial's folder, beside what a run has: why there is no result.
NOTE = "trial.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """Why a trial has no result.

    Attributes:
        status: `failed` is tried again by the same command, `stopped` (early, for it was behind) is not.
        text: what happened, a line or more.
    """

    status: Literal["failed", "stopped"]
    text: str

    @property
    def reason(self) -> str:
        """The text in one line: the first of an error for people, the last of a traceback."""
        lines = self.text.strip().splitlines() or ["no reason was given"]
        return lines[-1 if lines[0].startswith("Traceback") else 0]


def read_note(trial: Trial) -> Note | None:
    """The note in a trial's folder; None where there is none, or it is damaged: the trial is tried again."""
    try:
        return Note(**json.loads(trial.run.folder.read(NOTE)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        _log.warning("%s: damaged (%s); passed over.", trial.run.folder.uri_of(NOTE), error)
        return None


def read_result(trial: Trial) -> dict[str, Any] | None:
    """A finished trial's result.json; None where it has not finished, or is not there."""
    try:
        result = trial.run.read_result()
    except CheckpointError:  # damaged: pretrain says so when it is asked to go on
        return None
    return result if result and "steps" in result else None


def unfinished(trials: Iterable[Trial]) -> list[Trial]:
    """Trials that have neither a result nor were stopped early."""

    def is_stopped(trial: Trial) -> bool:
        note = read_note(trial)
        return note is not None and note.status == "stopped"

    return [trial for trial in trials if read_result(trial) is None and not is_stopped(trial)]
