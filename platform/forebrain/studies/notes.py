"""The folder of a trial: its result, or a note why there is none."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from forebrain.errors import CheckpointError
from forebrain.sealed import require_numbers
from forebrain.studies.trials import Trial

# In a trial's folder, beside what a run has: why there is no result.
NOTE = "trial.json"
Status = Literal["failed", "stopped"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """Why a trial has no result.

    Attributes:
        status: `failed` is tried again by the same command, `stopped` (early, for it was behind) is not.
        text: what happened, a line or more.
    """

    status: Status
    text: str

    @property
    def reason(self) -> str:
        """The text in one line: the first of an error for people, the last of a traceback."""
        lines = self.text.strip().splitlines() or ["no reason was given"]
        return lines[-1 if lines[0].startswith("Traceback") else 0]


def read_note(trial: Trial) -> Note | None:
    """The note in a trial's folder; None where there is none, or it is damaged: the trial is tried again."""
    try:
        note = Note(**json.loads(trial.run.folder.read(NOTE)))
        if note.status not in get_args(Status) or not isinstance(note.text, str):
            raise ValueError(f"it holds {note!r:.100}")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        _log.warning("%s: damaged (%s); passed over.", trial.run.folder.uri_of(NOTE), error)
        return None
    return note


def whole_result(trial: Trial) -> dict[str, Any] | None:
    """A finished trial's result.json; None where it has not finished, or is not there.

    Raises:
        CheckpointError: the file is damaged, or what a study reads of it is not what a run writes.
    """
    result = trial.run.read_result()
    if result is None or "steps" not in result:
        return None
    try:
        _require_whole(result)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise trial.run.damaged_result(repr(error)) from error
    return result


def read_result(trial: Trial) -> dict[str, Any] | None:
    """The same; None too where it is damaged, which is said when the trial is tried again."""
    try:
        return whole_result(trial)
    except CheckpointError:
        return None


def _require_whole(result: Mapping[str, Any]) -> None:
    require_numbers(result, ("backbone_parameters", "seconds"))
    for part in ("validation", "test"):
        for block in (result[part], *result[part]["baselines"].values()):
            require_numbers(block, ("score",), or_none=True)
            for scores in block["by_session"].values():
                require_numbers(scores, ("score",), or_none=True)
        " ".join(result[part].get("sessions_without_score", []))
    " ".join(result.get("sessions_not_trained", []))
    iter(result.get("earlier_versions", []))


def unfinished(trials: Iterable[Trial]) -> list[Trial]:
    """Trials that have neither a result nor were stopped early."""

    def is_stopped(trial: Trial) -> bool:
        note = read_note(trial)
        return note is not None and note.status == "stopped"

    return [trial for trial in trials if read_result(trial) is None and not is_stopped(trial)]
