"""The findings in a recording and what was done about them, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from forebrain.sessions.session import Range

Action = Literal["repaired", "dropped", "kept"]

_NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One kind of trouble in one session.

    Attributes:
        kind: a short fixed name to count by, for example `constant_units`.
        action: `repaired` (values were changed), `dropped` (units or frames were left out) or `kept`
            (nothing was changed: a warning to whoever reads the scores).
        words: what was found and what was done, one sentence.
        count: how many units, frames, values or segments the finding concerns.
        names: every dropped unit by name (nothing is dropped silently); else a few examples.
        fitted_on: frames [start, stop) of the recording as read whose values or times decided it; None
            where nothing was decided by statistics over frames.
    """

    kind: str
    action: Action
    words: str
    count: int
    names: tuple[str, ...] = ()
    fitted_on: Range | None = None

    def __str__(self) -> str:
        shown = ", ".join(self.names[:_NUM_EXAMPLES])
        more = len(self.names) - _NUM_EXAMPLES
        examples = f" ({shown}{f' and {more} more' if more > 0 else ''})" if shown else ""
        judged = " (judged on frames {} to {})".format(*self.fitted_on) if self.fitted_on else ""
        return f"{self.action}: {self.words}{examples}{judged}"


@dataclass(frozen=True)
class RecordingReport:
    """Everything found in one session, in the order in which it was met."""

    findings: tuple[Finding, ...] = ()

    def and_also(self, findings: Iterable[Finding]) -> RecordingReport:
        return RecordingReport((*self.findings, *findings))

    def kinds(self) -> list[str]:
        return [finding.kind for finding in self.findings]

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(finding) for finding in self.findings]

    @classmethod
    def from_json(cls, rows: Sequence[dict[str, Any]]) -> RecordingReport:
        return cls(tuple(_finding(row) for row in rows))

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings) or "nothing found"


def _finding(row: dict[str, Any]) -> Finding:
    fitted_on = None if row["fitted_on"] is None else tuple(row["fitted_on"])
    return Finding(**{**row, "names": tuple(row["names"]), "fitted_on": fitted_on})
