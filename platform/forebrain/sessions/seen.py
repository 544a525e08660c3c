"""Was a model trained on the animal that it is scored on? Told by names, as far as these tell it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from forebrain_registry.lines import composed


class Named(Protocol):
    """The names of a session, as a `Session`, an entry of a set and a model's card have them."""

    @property
    def dataset(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def session(self) -> str: ...


class Recorded(Named, Protocol):
    """The same with its id and what is known of its recording."""

    @property
    def id(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...


def leak_of(sessions: Iterable[Named], session: Named) -> str | None:
    """A warning that a backbone of these sessions was trained on this animal, or may have been; None where
    nothing is known."""
    same = [seen for seen in sessions if composed(seen.subject) == composed(session.subject)]
    of_dataset = [seen for seen in same if composed(seen.dataset) == composed(session.dataset)]
    animal = composed(f"{session.dataset}/{session.subject}")
    if any(composed(seen.session) == composed(session.session) for seen in of_dataset):
        return (
            f"the backbone was trained on this very session, {animal}/{composed(session.session)}: its "
            "scores flatter it"
        )
    if of_dataset:
        return (
            f"the backbone was trained on other sessions of this animal, {animal}: the scores say nothing of "
            "animals that it has not seen"
        )
    if same:
        return (
            f"the backbone was trained on an animal that is called {session.subject} too, in "
            f"{same[0].dataset}: if it is the same one, the scores flatter it"
        )
    return None


def is_guessed(session: Recorded) -> bool:
    """Whether a recording does not state whose it is, so that its names are those of its file."""
    return "identity_note" in session.metadata


def doubts(folds: Iterable[tuple[Sequence[Recorded], Sequence[Recorded]]]) -> Iterator[str]:
    """Why animals that are left out may have been trained on all the same, and what to do, a line each.

    Args:
        folds: the sessions that are trained on, and those that are left out meanwhile.
    """
    guessed: dict[str, bool] = {}
    told: set[str] = set()
    for trained_on, left_out in folds:
        guessed |= {each.id: is_guessed(each) for each in (*trained_on, *left_out)}
        for session in left_out:
            if (leak := leak_of(trained_on, session)) is not None and leak not in told:
                told.add(leak)
                yield f"{session.id} is left out, and {leak}."
    if told:
        yield (
            "Of one animal, name one dataset and one subject in the sidecar files of all its recordings, and "
            "give another --out."
        )
    if number := sum(guessed.values()):
        yield (
            f"The names of {number} of {len(guessed)} sessions are guessed from file names, so one animal "
            "may count as several, and be trained on while it is left out. Name dataset, subject and session "
            "in sidecar files, and give another --out."
        )
