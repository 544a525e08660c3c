"""Sessions, subjects and conditions that training sees nothing of, to tell how a model does on a new animal.

They are split like all others, so what is scored of them is their test part, and the training part is there
to adapt to: models that were adapted and models that were not are compared on the same windows. A condition
that is held out is scored whole, wherever in time it lies; its frames take no part in any statistic either.
"""

from __future__ import annotations

from dataclasses import dataclass

from forebrain.errors import ConfigError
from forebrain.sessions.session import fits
from forebrain.shards.reader import ShardSet
from forebrain.shards.subset import SubsetShards, subject_of


@dataclass(frozen=True)
class HoldoutConfig:
    """The data held out of training; * stands for anything in a pattern.

    Attributes:
        sessions: sessions whose id, dataset/subject/session, fits one of these patterns.
        subjects: all sessions of the subjects, dataset/subject, that fit one of these patterns.
        conditions: frames of these experimental conditions, in every session that has them.
    """

    sessions: list[str] | None = None
    subjects: list[str] | None = None
    conditions: list[str] | None = None


def held_out_sessions(shards: ShardSet | SubsetShards, config: HoldoutConfig) -> frozenset[str]:
    """Ids of the sessions that are held out.

    Raises:
        ConfigError: nothing fits a pattern, or nothing is left to train on.
    """
    held_out: set[str] = set()
    for kind, patterns in (("sessions", config.sessions), ("subjects", config.subjects)):
        named = {entry.id: entry.id if kind == "sessions" else subject_of(entry) for entry in shards.sessions}
        for pattern in patterns or ():
            found = {session for session, name in named.items() if fits(name, pattern)}
            if not found:
                raise ConfigError(
                    f"holdout.{kind}: nothing in {shards.uri} is like {pattern!r}; there are "
                    f"{', '.join(sorted(set(named.values()))[:8])} ..."
                )
            held_out |= found
    known = sorted({name for entry in shards.sessions for name in entry.conditions})
    for name in config.conditions or ():
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "none is labelled; a sidecar file can do it"
            raise ConfigError(f"holdout.conditions: {shards.uri} has no condition {name!r}; {there}.")
    if held_out and len(held_out) == len(shards.sessions):
        raise ConfigError(f"holdout: all {len(held_out)} sessions are held out; expected some to train on.")
    return frozenset(held_out)
