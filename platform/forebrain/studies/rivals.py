"""Closed-form forecasts from a recording alone, beside copy, mean and linear, and its noise ceiling.

    forebrain study rivals --recording PATH... --out DIR

Session by session and by data set: the linear baseline, the same with a head of each unit's own past, with a
head that reads the population too (`ridge`), the same with the population rolled in time by half of each
part, which must gain nothing, and the noise ceiling. No network is trained.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console

from forebrain.adaptation.stacking import linear_on
from forebrain.adaptation.windows import SessionWindows
from forebrain.alone import alone_in
from forebrain.errors import AdaptationError, ConfigError, RecordingError
from forebrain.evaluation.tables import Table
from forebrain.scoring.evaluate import WINDOWS_PER_SESSION, Evaluation, Forecaster, baselines, evaluate
from forebrain.scoring.metrics import Scores
from forebrain.scoring.noise import noise_ceiling, noise_variance
from forebrain.scoring.pairs import paired_difference
from forebrain.scoring.protocols import PARTS, ProtocolName, part_ranges
from forebrain.scoring.ridge import HeadFit, fit_head, principal_components, spread_evenly
from forebrain.sealed import plain_json
from forebrain.sessions.repair import repair
from forebrain.sessions.session import Numbers, Session, numbers_of
from forebrain.shards.recordings import find_all, open_any
from forebrain.studies.kept import claim, contents_of, require_unchanged
from forebrain.studies.remarks import Remarks
from forebrain_registry.storage import Folder

# In the order of tables. `own`: the head without the population.
FORECASTERS = ("copy", "mean", "linear", "own", "ridge", "rolled")
# Differences that are tested, over sessions.
PAIRS = (("own", "linear"), ("ridge", "own"), ("ridge", "linear"), ("rolled", "own"))


@dataclass(frozen=True)
class RivalsConfig:
    """The recordings of the study, and how they are scored.

    Attributes:
        recording: files and folders, of any data sets.
        out: folder for result.json and report.md.
        protocol: which frames train and test.
        context, horizon: frames.
        windows_per_session: at most so many are scored a session.
        seed: of the choice of windows and of the intervals.
    """

    recording: list[str]
    out: str
    protocol: ProtocolName = "chronological"
    context: int = 48
    horizon: int = 16
    windows_per_session: int = WINDOWS_PER_SESSION
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("context", "horizon", "windows_per_session"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more.")


@alone_in("out")
def study(config: RivalsConfig, console: Console) -> dict[str, Any]:
    """Scores every session that has windows in all parts, and sums up.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: no session has, two have one name, one changes, or `out` holds other work.
        StorageError: `out` cannot be written to; nothing was scored.
    """
    out, remarks = Folder(config.out), Remarks(console)
    rows: list[dict[str, Any]] = []
    tests: list[Evaluation] = []
    numbers: list[tuple[str, Numbers]] = []
    recordings = find_all(config.recording)
    read = ((session, address) for address in recordings for session in open_any(address))
    contents = contents_of(read)
    settings = {key: value for key, value in asdict(config).items() if key not in ("recording", "out")}
    claim(out, contents, "rivals", settings)
    for address in recordings:
        for recorded in open_any(address):
            try:
                session, _ = repair(recorded)
            except RecordingError as error:
                remarks.leave_out(str(error))
                continue
            counts = SessionWindows.counts(session, config.protocol, config.context, config.horizon)
            short = [part for part in PARTS if not counts[part]]
            if short:
                remarks.leave_out(f"session {session.id}: too short for a window in {', '.join(short)}.")
                continue
            try:
                row, test = score_session(session, config)
            except AdaptationError as error:
                remarks.leave_out(str(error))
                continue
            require_unchanged(address, contents[recorded.id])
            rows.append(row)
            tests.append(test)
            numbers.append((session.id, numbers_of(session)))
            console.print(f"{session.id}: " + ", ".join(f"{name} {row[name]:.3f}" for name in FORECASTERS))
    if not rows:
        raise ConfigError(f"no session could be scored.{remarks.first()}")
    remarks.note_twins(numbers)
    scores = {
        name: {key: value for test in tests for key, value in test.scores[name].items()}
        for name in FORECASTERS
    }
    tables = (by_dataset(rows), differences(scores, config.seed), by_session(rows))
    result = {
        "settings": settings,
        "sessions": rows,
        "tables": {table.name: table.to_csv() for table in tables},
    }
    out.write("result.json", plain_json(result | remarks.values()))
    report = [*(table.to_markdown() for table in tables), *remarks.lines()]
    out.write("report.md", "\n".join(report).encode())
    for table in tables[:2]:
        console.print(table.to_rich())
    return result


def score_session(session: Session, config: RivalsConfig) -> tuple[dict[str, Any], Evaluation]:
    """One session's row of the table, and its evaluation on the test part.

    Raises:
        AdaptationError: nothing moves in its training part, or in its test part.
    """
    windows = SessionWindows(session, config.protocol, config.context, config.horizon)
    linear = linear_on(windows, config.seed)
    nobody = np.zeros((session.num_units, 0), np.float32)
    began = time.process_time()
    ridge = fit_head(windows, linear)
    seconds = time.process_time() - began
    own = fit_head(windows, linear, loadings=nobody)
    test = evaluate(
        {**baselines(windows, linear), "own": own.forecaster(linear), "ridge": ridge.forecaster(linear)},
        windows, "test", windows_per_session=config.windows_per_session, seed=config.seed,
    )  # fmt: skip
    if not test.summary("copy").num_sessions:
        raise AdaptationError(f"session {session.id}: nothing moves in its test part.")
    rolled = score_rolled(session, config, linear)
    test = replace(test, scores={**test.scores, "rolled": rolled})
    row: dict[str, Any] = {
        "session": session.id,
        "dataset": session.dataset,
        "units": session.num_units,
        "frames": session.num_frames,
        **{name: test.summary(name).value("score") for name in FORECASTERS},
        "ceiling": noise_ceiling(noise_variance(windows), test.summary("copy").value("mse")),
        "blocks": {
            "linear": _score_on_blocks(ridge, False),
            "own": _score_on_blocks(own),
            "ridge": _score_on_blocks(ridge),
        },
        "head": ridge.record(),
        "seconds": seconds,
    }
    return row, test


def score_rolled(session: Session, config: RivalsConfig, linear: Forecaster) -> Mapping[str, Scores]:
    """Scores on the test part of ridge whose population is rolled in time by half of each part.

    Each unit keeps its own past; the components are those of the same units at another time.
    """
    num_units = session.num_units
    windows = SessionWindows(
        with_rolled(session, config.protocol), config.protocol, config.context, config.horizon
    )
    plain = SessionWindows(session, config.protocol, config.context, config.horizon)
    components = principal_components(plain)
    loadings = np.concatenate([np.zeros_like(components), components])
    fit = fit_head(windows, linear, loadings=loadings, choice_units=spread_evenly(num_units))
    test = evaluate(
        {"rolled": fit.forecaster(linear)}, windows, "test", windows_per_session=config.windows_per_session,
        seed=config.seed, as_scored=lambda _, values: values[..., :num_units],
    )  # fmt: skip
    return test.scores["rolled"]


def with_rolled(session: Session, protocol: str) -> Session:
    """The session with each unit twice: as it was, and rolled by half of each part of the protocol."""
    frames = session.frames(0, session.num_frames)
    rolled = frames.copy()
    for part in PARTS:
        ranges = part_ranges(protocol, part, session.num_frames, session.segments)
        places = np.concatenate([np.arange(start, stop) for start, stop in ranges])
        rolled[places] = frames[np.roll(places, len(places) // 2)]
    return replace(
        session,
        traces=np.concatenate([frames, rolled], axis=1),
        unit_names=None,
        unit_positions=None,
        brain_regions=None,
    )


def by_session(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each session."""
    return Table(
        name="sessions",
        title="test score",
        columns=("session", "units", "frames", *FORECASTERS, "noise ceiling", "left out", "seconds"),
        rows=tuple(
            (
                row["session"], row["units"], row["frames"],
                *(row[name] for name in FORECASTERS), row["ceiling"],
                row["head"]["reason"]
                or ", ".join(name for name, value in row["head"]["strengths"].items() if value is None),
                row["seconds"],
            )
            for row in rows
        ),
    )  # fmt: skip


def by_dataset(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Means over the sessions of each data set, on the test part and on blocks of time of the other two."""
    datasets = {row["dataset"]: [each for each in rows if each["dataset"] == row["dataset"]] for row in rows}
    groups = [*sorted(datasets.items()), ("all", list(rows))]
    return Table(
        name="datasets",
        title="mean test score by data set; behind `blocks`, on blocks of time of train and validation",
        columns=(
            "data set", "sessions", *FORECASTERS, "noise ceiling", "blocks: linear", "own", "ridge"
        ),
        rows=tuple(
            (
                name, len(group), *(_mean([row[key] for row in group]) for key in (*FORECASTERS, "ceiling")),
                *(_mean([row["blocks"][key] for row in group]) for key in ("linear", "own", "ridge")),
            )
            for name, group in groups
        ),
    )  # fmt: skip


def differences(scores: Mapping[str, Mapping[str, Scores]], seed: int) -> Table:
    """Paired differences over sessions, with intervals."""
    found = [
        (first, second, paired_difference(scores[first], scores[second], seed)) for first, second in PAIRS
    ]
    return Table(
        name="differences",
        title="differences in test score, mean over sessions, 95 % interval over sessions",
        columns=("less", "value", "low", "high", "sessions", "better in"),
        rows=tuple(
            (f"{first} - {second}", each.value, each.low, each.high, each.num_sessions, each.num_better)
            for first, second, each in found
        ),
    )


def _score_on_blocks(fit: HeadFit, with_head: bool = True) -> float:
    """The score on blocks of time, each forecast by what was fitted on the others."""
    trial = fit.trial
    if trial is None:
        return float("nan")
    error = trial.target - trial.base - (trial.added if with_head else 0)
    return float(1 - np.square(error).sum() / np.square(trial.target).sum())


def _mean(values: Sequence[float]) -> float:
    defined = np.array(values, float)
    return float(np.nanmean(defined)) if np.isfinite(defined).any() else float("nan")
