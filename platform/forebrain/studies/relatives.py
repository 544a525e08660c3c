"""A study of other sessions beside one: do those of its own subject help it more than another's?

Each target is trained on alone, with so many sessions of its subject, and with as many of other subjects of
the same data set.
"""

from __future__ import annotations

from collections.abc import Sequence

from forebrain.errors import ConfigError
from forebrain.scoring.intervals import rng_for
from forebrain.shards.index import INDEX_NAME, SessionEntry
from forebrain.shards.reader import ShardSet
from forebrain.shards.subset import subject_of
from forebrain.studies.trials import Trial, Variant, make_trials
from forebrain.training.config import PretrainConfig
from forebrain_registry.storage import Folder

ALONE = "alone"


def relative_trials(
    base: PretrainConfig, counts: Sequence[int], num_targets: int, num_seeds: int
) -> list[Trial]:
    """All trials of all targets.

    Args:
        base: what all share; `data` is a set of shards.
        counts: numbers of other sessions, ascending.
        num_targets: at most so many targets, of as many subjects as there are.
        num_seeds: see `make_trials`.

    Raises:
        ConfigError: no session has as many of its own subject's and of others beside it.
    """
    if not Folder(base.data).exists(INDEX_NAME):
        raise ConfigError(
            f"data is {base.data}; expected prepared shards (forebrain prepare), whose subjects are known."
        )
    entries = list(ShardSet.open(base.data).sessions)
    trials: list[Trial] = []
    for target in _targets(entries, counts[-1], num_targets, base.seed):
        same, other = _relatives(entries, target)
        rng = rng_for(base.seed, "relatives", target.id)
        same, other = ([names[place] for place in rng.permutation(len(names))] for names in (same, other))
        variants = [Variant(ALONE, {"subset.include": [target.id]})]
        for count in counts:
            plural = "s" * (count > 1)
            variants += [
                Variant(
                    f"+ {count} session{plural} of the same subject",
                    {"subset.include": [target.id, *same[:count]]},
                ),
                Variant(
                    f"+ {count} session{plural} of other subjects",
                    {"subset.include": [target.id, *other[:count]]},
                ),
            ]
        trials += make_trials(base, variants, num_seeds, target.id)
    return trials


def _relatives(entries: Sequence[SessionEntry], target: SessionEntry) -> tuple[list[str], list[str]]:
    """Sessions of the target's data set, of its subject and of others."""
    beside = [entry for entry in entries if entry.dataset == target.dataset and entry.id != target.id]
    return (
        [entry.id for entry in beside if subject_of(entry) == subject_of(target)],
        [entry.id for entry in beside if subject_of(entry) != subject_of(target)],
    )


def _targets(entries: Sequence[SessionEntry], most: int, num_targets: int, seed: int) -> list[SessionEntry]:
    """Sessions with enough of both kinds beside them, one subject after the other."""
    of_subject: dict[str, list[SessionEntry]] = {}
    rng = rng_for(seed, "targets")
    for place in rng.permutation(len(entries)):
        entry = entries[place]
        if all(len(names) >= most for names in _relatives(entries, entry)):
            of_subject.setdefault(subject_of(entry), []).append(entry)
    if not of_subject:
        raise ConfigError(
            f"no session has {most} others of its subject and {most} of other subjects in its data set; "
            "expected smaller sizes, or data with several sessions a subject."
        )
    rounds = max(map(len, of_subject.values()))
    turns = [own[turn] for turn in range(rounds) for own in of_subject.values() if turn < len(own)]
    return turns[:num_targets]
