"""The structure of unit embeddings: do units of one region, or of one name in several animals, lie together?

A unit's embedding is all that a model knows of it besides its activity. Each session's are centred, since the
session's own vector could hold as well what its units have in common, and compared by the cosine.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from forebrain.adaptation.publish import run_id
from forebrain.alone import alone
from forebrain.errors import ConfigError
from forebrain.evaluation.tables import Cell, Table
from forebrain.runs.trained import TrainedModel
from forebrain.scoring.intervals import rng_for
from forebrain.shards.reader import ShardSet
from forebrain.shards.subset import SubsetShards
from forebrain.studies.figures import scatter_figure
from forebrain.studies.kept import claim_for_run
from forebrain.studies.report import Picture, StudyReport, write_report
from forebrain.training.data import open_windows
from forebrain.training.run_folder import RunFolder
from forebrain_registry.storage import Folder

NUM_PERMUTATIONS = 1000
MAX_UNITS = 1500  # distances of all pairs are held, and permuted a thousand times
NUM_NEIGHBOURS = 5
NUM_SHOWN = 10
# Names that a program gave, which say nothing about who a unit is.
_ANONYMOUS = re.compile(r"(unit|cell|roi|neuron|c)?[\W_]*\d+", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class SessionUnits:
    """The embeddings of one session.

    Attributes:
        session: its id.
        vectors: float64 [N, d], centred, of length 1.
        names: who each unit is, None where that is not known; None for all where none is.
        regions: where each is, likewise.
    """

    session: str
    vectors: np.ndarray
    names: tuple[str | None, ...]
    regions: tuple[str | None, ...]


@dataclass(frozen=True)
class RegionTest:
    """Distances (1 - cosine) between units of one region and of different ones.

    Attributes:
        pairs: `within sessions` or `across sessions`.
        num_within, num_between: pairs of units.
        within, between: mean distances.
        p: part of the permutations of regions, within each session, with a difference at least as large.
    """

    pairs: str
    num_within: int
    num_between: int
    within: float
    between: float
    p: float


@dataclass(frozen=True)
class NameTest:
    """The rank of the unit of the same name among another session's named units, by distance.

    Attributes:
        num_queries: named units that another session has too, for each such session.
        rank: mean of (place - 1) / (units - 1): 0 is always the nearest, 0.5 is chance.
        first, among_five: part in which it is the nearest, or one of the five nearest.
        chance_first: the first, for names permuted within sessions.
        p: part of the permutations with a rank at least as small.
    """

    num_queries: int
    rank: float
    first: float
    among_five: float
    chance_first: float
    p: float


def units_of(trained: TrainedModel, shards: ShardSet | SubsetShards) -> list[SessionUnits]:
    """The embeddings of a run's sessions with their labels.

    Raises:
        ConfigError: the run forecasts principal components, or its model has no unit embeddings.
    """
    if shards.forecasts_components:
        raise ConfigError(
            f"{shards.uri} holds principal components in place of units, which have no names or regions; "
            "expected a run on shards prepared without --prepare.pca."
        )
    found = []
    for index, entry in enumerate(shards.sessions):
        if entry.id in trained.interfaces:
            unit = trained.interfaces[entry.id].unit.detach().double().cpu().numpy()
            if unit.ndim != 2 or not unit.shape[1]:
                raise ConfigError("the run's model has no unit embeddings; expected one that has, like poco.")
            names = shards.unit_names(index) or ("",) * entry.num_units
            regions = shards.brain_regions(index) or ("",) * entry.num_units
            found.append(
                SessionUnits(
                    entry.id,
                    _directions(unit),
                    tuple(map(known_name, names)),
                    tuple(region or None for region in regions),
                )
            )
    return found


def _directions(unit: np.ndarray) -> np.ndarray:
    centred = unit - unit.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1)


def known_name(name: str) -> str | None:
    """The name of a unit where it says who that is."""
    return None if not name or _ANONYMOUS.fullmatch(name) else name


def check_labels(sessions: Sequence[SessionUnits]) -> None:
    """Raises ConfigError where there is nothing to compare embeddings with."""
    if not _sessions_with_regions(sessions) and not _shared_names(sessions):
        raise ConfigError(
            "no session has units in two or more regions, and no unit's name is in two sessions "
            f"(looked at {', '.join(own.session for own in sessions[:8])}); expected recordings with "
            "brain_regions a unit, or with the names of identified units."
        )


def _sessions_with_regions(sessions: Sequence[SessionUnits]) -> list[SessionUnits]:
    return [own for own in sessions if len({region for region in own.regions if region}) > 1]


def _shared_names(sessions: Sequence[SessionUnits]) -> set[str]:
    seen: set[str] = set()
    shared: set[str] = set()
    for own in sessions:
        named = {name for name in own.names if name}
        shared |= named & seen
        seen |= named
    return shared


def compare_regions(sessions: Sequence[SessionUnits], seed: int = 0) -> list[RegionTest]:
    """Distances within and between regions, in each session and across sessions; empty without regions."""
    sessions = _sessions_with_regions(sessions)
    if not sessions:
        return []
    labelled = [
        (number, own.vectors[unit], region)
        for number, own in enumerate(sessions)
        for unit, region in enumerate(own.regions)
        if region
    ]
    kept = np.unique(np.linspace(0, len(labelled) - 1, min(len(labelled), MAX_UNITS)).astype(int))
    session = np.array([labelled[place][0] for place in kept])
    vectors = np.array([labelled[place][1] for place in kept])
    _, region = np.unique([labelled[place][2] for place in kept], return_inverse=True)
    distance = 1 - vectors @ vectors.T
    upper = np.triu(np.ones_like(distance, dtype=bool), 1)
    same_session = session[:, None] == session[None, :]
    rng = rng_for(seed, "regions")
    permuted = [_permuted(region, session, rng) for _ in range(NUM_PERMUTATIONS)]
    tests = []
    for name, pairs in (("within sessions", same_session), ("across sessions", ~same_session)):
        first, second = np.nonzero(upper & pairs)
        if not len(first):
            continue
        of_pair = distance[first, second]
        count, within, between = _mean_distances(region, first, second, of_pair)
        if not 0 < count < len(first):
            continue
        shuffled = [_mean_distances(labels, first, second, of_pair) for labels in permuted]
        gaps = np.array([other - own for _, own, other in shuffled])
        p = (1 + np.count_nonzero(gaps >= between - within)) / (1 + len(gaps))
        tests.append(RegionTest(name, count, len(first) - count, within, between, float(p)))
    return tests


def _permuted(labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels [U] shuffled among the units of each group [U]."""
    shuffled = labels.copy()
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        shuffled[own] = labels[rng.permutation(own)]
    return shuffled


def _mean_distances(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, distance: np.ndarray
) -> tuple[int, float, float]:
    """Number of pairs [P] with the same label, and the mean distance [P] of these and of the others."""
    same = labels[first] == labels[second]
    count = int(np.count_nonzero(same))
    inside = float(distance @ same)
    rest = float(distance.sum()) - inside
    return count, inside / max(count, 1), rest / max(len(same) - count, 1)


def compare_names(sessions: Sequence[SessionUnits], seed: int = 0) -> NameTest | None:
    """The test of units of one name in several sessions; None where no name is shared."""
    shared = _shared_names(sessions)
    if not shared:
        return None
    named = [[unit for unit, name in enumerate(own.names) if name] for own in sessions]
    names = [
        np.array([own.names[unit] for unit in units]) for own, units in zip(sessions, named, strict=True)
    ]
    vectors = [own.vectors[units] for own, units in zip(sessions, named, strict=True)]

    def places(names: Sequence[np.ndarray]) -> np.ndarray:
        """Place [Q] of the right unit, 0 the nearest, and the number of units it is among."""
        found = []
        for a in range(len(sessions)):
            for b in range(len(sessions)):
                if a != b and len(names[a]) and len(names[b]) > 1:
                    right = names[a][:, None] == names[b][None, :]
                    asked = right.any(axis=1)
                    likeness = vectors[a][asked] @ vectors[b].T
                    best = np.where(right[asked], likeness, -np.inf).max(axis=1, keepdims=True)
                    place = (likeness > best).sum(axis=1)
                    found.append(np.stack([place, np.full(len(place), len(names[b]))], axis=1))
        return np.concatenate(found) if found else np.zeros((0, 2), dtype=int)

    def rank(places: np.ndarray) -> float:
        return float((places[:, 0] / (places[:, 1] - 1)).mean())

    observed = places(names)
    if not len(observed):
        return None
    rng = rng_for(seed, "names")
    permuted = [places([rng.permutation(own) for own in names]) for _ in range(NUM_PERMUTATIONS)]
    ranks = np.array([rank(each) for each in permuted])
    return NameTest(
        len(observed),
        rank(observed),
        float((observed[:, 0] == 0).mean()),
        float((observed[:, 0] < NUM_NEIGHBOURS).mean()),
        float(np.mean([(each[:, 0] == 0).mean() for each in permuted])),
        float((1 + np.count_nonzero(ranks <= rank(observed))) / (1 + len(ranks))),
    )


def neighbours(sessions: Sequence[SessionUnits]) -> Table:
    """For each name that several sessions have, the nearest finders of themselves first: how near the unit of
    that name is in the others, and which named units are nearest to it there.

    `rank` is that of `NameTest`; `nearest` lists the names that are nearest most often.
    """
    shared = _shared_names(sessions)
    places: dict[str, list[tuple[int, int]]] = {}
    nearest: dict[str, Counter[str]] = {}
    for own, other in itertools.permutations(sessions, 2):
        known = [unit for unit, name in enumerate(other.names) if name]
        there = [str(other.names[unit]) for unit in known]
        for unit, name in enumerate(own.names):
            if name in shared and name in there and len(there) > 1:
                order = np.argsort(-other.vectors[known] @ own.vectors[unit], kind="stable")
                found = [there[place] for place in order]
                places.setdefault(name, []).append((found.index(name), len(there) - 1))
                nearest.setdefault(name, Counter()).update(found[:1])
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            len(own_places),
            float(np.mean([place / others for place, others in own_places])),
            float(np.mean([place == 0 for place, _ in own_places])),
            ", ".join(f"{other} {count}" for other, count in nearest[name].most_common(NUM_NEIGHBOURS)),
        )
        for name, own_places in places.items()
    ]
    return Table(
        "neighbours",
        "Each name in pairs of sessions that have it",
        ("unit", "pairs", "rank", "itself nearest", "nearest most often"),
        tuple(sorted(rows, key=lambda row: (row[2], row[0]))),
    )


def analyse_embeddings(run: str, out: str | None, command: str) -> StudyReport:
    """Analyses a run's unit embeddings and writes a report.

    They are in the run's TensorBoard too, in its projector, with names, regions, sessions and species.

    Args:
        run: a run folder.
        out: where the report goes; None for `embeddings` in the run folder.
        command: what was typed.

    Raises:
        CheckpointError: there is no run.
        ConfigError: its sessions have neither regions nor shared names, it has no unit embeddings, or `out`
            holds other work, or embeddings of another run.
        StorageError: the report cannot be written; nothing was analysed.
    """
    folder = RunFolder(run)
    target = Folder(out) if out else folder.folder.child("embeddings")
    trained = TrainedModel.load(folder)
    windows = open_windows(trained.config, folder.shards(trained.config.data), folder.kept_index())
    sessions = units_of(trained, windows.shards)
    check_labels(sessions)
    name, is_within = run_id(trained).rpartition("-step")[0], target.uri.startswith(f"{folder.uri}/")
    with alone(target):
        claim_for_run(target, name, [own.session for own in sessions], "embeddings", is_within)
        report = report_embeddings(sessions, command)
        write_report(target, report)
    return report


def report_embeddings(sessions: Sequence[SessionUnits], command: str) -> StudyReport:
    """The report on the embeddings of some sessions."""
    regions, names = compare_regions(sessions), compare_names(sessions)
    vectors = np.concatenate([own.vectors for own in sessions])
    _, spread, axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    places = (vectors - vectors.mean(axis=0)) @ axes[:2].T
    share = spread[:2] ** 2 / max(float((spread**2).sum()), 1e-300)
    of_session = [own.session for own in sessions for _ in own.names]
    of_region = [region for own in sessions for region in own.regions]
    by_name = neighbours(sessions)
    best = [row[0] for row in by_name.rows[:NUM_SHOWN]]
    of_name = [name if name in best else None for own in sessions for name in own.names]
    pictures = [
        Picture(name, scatter_figure(places, labels, share, title), title)
        for name, title, labels, is_shown in (
            ("by_session", "Unit embeddings by session", of_session, True),
            ("by_region", "Unit embeddings by region", of_region, bool(regions)),
            (
                "by_name",
                f"The {len(best)} names that lie nearest together",
                of_name,
                bool(best),
            ),
        )
        if is_shown
    ]
    verdict, tables = [], []
    if regions:
        rows: list[tuple[Cell, ...]] = [tuple(asdict(test).values()) for test in regions]
        tables.append(
            Table(
                "regions",
                f"Distance (1 - cosine) of unit pairs by region, {NUM_PERMUTATIONS} permutations",
                ("pairs", "of one region", "of two", "distance within", "between", "p"),
                tuple(rows),
            )
        )
        verdict += [_region_sentence(test) for test in regions]
    if names is not None:
        tables.append(
            Table(
                "names",
                f"The unit of the same name in another session, {NUM_PERMUTATIONS} permutations",
                ("queries", "rank", "nearest", "among five", "nearest by chance", "p"),
                (tuple(asdict(names).values()),),
            )
        )
        tables.append(by_name)
        found = "nearer than chance" if names.p < 0.05 else "no nearer than chance"
        verdict.append(
            f"Across sessions, a unit of the same name is {found}: mean rank {names.rank:.3f} (0.5 is "
            f"chance, p = {names.p:.3f}), the nearest of all in {names.first:.1%} "
            f"(chance {names.chance_first:.1%})."
        )
    return StudyReport(
        "Unit embeddings",
        tuple(verdict),
        tuple(pictures),
        tuple(tables),
        (
            f"{len(vectors)} units of {len(sessions)} sessions, centred by session, compared by the cosine.",
            "Pictures show the first two principal components. Labels are permuted within each session.",
            "Names such as unit7 or C03 identify nobody and are left out. Names in the picture are chosen "
            "for how near they lie, so it shows the best of what there is and is no evidence; the test is.",
        ),
        (),
        command,
        {
            "regions": [asdict(test) for test in regions],
            "names": None if names is None else asdict(names),
        },
    )


def _region_sentence(test: RegionTest) -> str:
    apart = test.between - test.within
    found = "lie nearer to each other" if test.p < 0.05 else "lie no nearer to each other"
    return (
        f"{test.pairs.capitalize()}, units of one region {found} than units of two: distance "
        f"{test.within:.3f} and {test.between:.3f} (difference {apart:+.3f}, p = {test.p:.3f})."
    )
