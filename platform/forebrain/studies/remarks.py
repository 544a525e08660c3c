"""What a study says beside its tables, on the console when it is found and in the report: what of its
recordings a reader should know, what was left out and why, and what of the tables another version did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from forebrain.sessions.seen import Recorded, doubts
from forebrain.sessions.session import Numbers, twins
from forebrain.training.versions import code_version, versions
from forebrain_registry.lines import one_line

_UNNAMED = "an earlier version, which did not say which it was"


class Remarks:
    """Remarks of one study.

    Args:
        console: is told each when it is found.

    Attributes:
        notes: on recordings that are used, a line each.
        left_out: why each session that has no row has none, or not all of its rows.
        others: of steps that were done by another version of forebrain, how many, by kind and version.
    """

    def __init__(self, console: Console) -> None:
        self.notes: list[str] = []
        self.left_out: list[str] = []
        self.others: Counter[tuple[str, str]] = Counter()
        self._console = console
        self._own = code_version()

    def note(self, line: str) -> None:
        """What a reader should know of a recording that is used all the same."""
        self._console.print(line)
        self.notes.append(one_line(line))

    def note_twins(self, contents: Iterable[tuple[str, Numbers]]) -> None:
        """Which sessions hold the numbers of another (`session.twins`)."""
        for line in twins(contents):
            self.note(line)

    def note_doubts(self, folds: Iterable[tuple[Sequence[Recorded], Sequence[Recorded]]]) -> None:
        """Why animals left out may have been trained on all the same (`seen.doubts`)."""
        for line in doubts(folds):
            self.note(line)

    def leave_out(self, why: str) -> None:
        """A session has no row; said once, however many seeds it is left out of."""
        why = one_line(why)
        if why not in self.left_out:
            self._console.print(f"left out: {why}")
            self.left_out.append(why)

    def step(self, step: Mapping[str, Any], kind: str = "scores") -> None:
        """A step that was kept is used (`kept.write_step`)."""
        self._used(kind, step.get("code_version") or _UNNAMED, self._own)

    def run(self, result: Mapping[str, Any], kind: str = "backbones") -> None:
        """A run that is finished is used; its result.json names the versions that trained it."""
        own = _named(versions())
        of = {_named(each) for each in (result.get("versions"), *result.get("earlier_versions", ()))}
        for version in sorted(of - {own}):
            self._used(kind, version, own)

    def first(self) -> str:
        """The first that was left out, to follow a sentence; empty where there is none."""
        return f" The first left out: {self.left_out[0]}" if self.left_out else ""

    def lines(self) -> list[str]:
        """The remarks in Markdown; none where there is nothing to say."""
        found = [line for each in self.notes for line in (each, "")]
        found += [line for each in self.versions() for line in (each, "")]
        if self.left_out:
            found += ["Left out:", "", *(f"- {each}" for each in self.left_out), ""]
        return found

    def versions(self) -> tuple[str, ...]:
        """A sentence on what other versions did; none where all is of this one."""
        if not self.others:
            return ()
        used = "; ".join(f"{kind} of {of} ({count})" for (kind, of), count in sorted(self.others.items()))
        return (f"Not all is of one version, {self._own}; used as they are: {used}.",)

    def values(self) -> dict[str, Any]:
        """The same for result.json."""
        others = [{"what": kind, "of": of, "number": count} for (kind, of), count in self.others.items()]
        return {
            "code_version": self._own,
            "of_other_versions": others,
            "notes": self.notes,
            "left_out": self.left_out,
        }

    def _used(self, kind: str, version: Any, own: str) -> None:
        version = one_line(str(version))
        if _code(version) == _code(own):
            return
        if not self.others[kind, version]:
            self._console.print(f"{kind} of {version} are used as they are; this is {own}.")
        self.others[kind, version] += 1


def _code(version: str) -> str:
    """A version without its commit: the same code may be of two, or lie outside a checkout."""
    return version.partition(", commit")[0]


def _named(found: Any) -> str:
    try:
        return f"forebrain {found['forebrain']}, code {found['code']}"
    except (LookupError, TypeError):
        return _UNNAMED
