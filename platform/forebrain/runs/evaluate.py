"""Evaluates a finished run: its best checkpoint beside the baselines, as numbers, tables and pictures."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from forebrain.alone import alone
from forebrain.console import Follower
from forebrain.errors import CheckpointError, ConfigError
from forebrain.evaluation import tables
from forebrain.evaluation.examples import make_example, typical_session
from forebrain.evaluation.report import write_report
from forebrain.runs.board import log_to_tensorboard
from forebrain.runs.trained import TrainedModel
from forebrain.scoring.evaluate import Evaluation, Forecaster, evaluate, fit_baselines
from forebrain.scoring.noise import noise_variance
from forebrain.scoring.protocols import Part
from forebrain.scoring.uncertainty import VALIDATION, assess, residuals_of
from forebrain.scoring.zapbench import ZapbenchScores, score_zapbench
from forebrain.sessions.seen import doubts
from forebrain.shards.stream import build_order
from forebrain.shards.windows import ShardWindows
from forebrain.training.config import PretrainConfig
from forebrain.training.data import open_windows
from forebrain.training.forecasting import affordable_windows
from forebrain.training.run_folder import RunFolder
from forebrain_registry.storage import scratch

EVALUATION = "evaluation"  # where tables and pictures are, in the run folder
REPORT = "report.md"
# Regressions are fitted to each session that intervals are scored of, which takes longer than all its other
# scores; of more sessions than these the means hardly move.
INTERVAL_SESSIONS = 512
_log = logging.getLogger(__name__)
SCORED_PARTS: tuple[Part, ...] = ("validation", "test", "held_out")


def evaluate_run(
    run: RunFolder, data: str | None, full: bool, console: Console, shown: str | None = None
) -> tuple[dict[str, Any], dict[Part, Evaluation]]:
    """Scores a run's best checkpoint on the validation and test parts, and on what was held out.

    Writes tables and pictures to evaluation/ in the run folder, and pictures and embeddings for TensorBoard.

    Args:
        run: a run with a checkpoint.
        data: address of the shards; None for those the run was trained on.
        full: score every window instead of the stated subset.
        console: where progress is shown.
        shown: id of the session in the pictures; None for the one with the median score.

    Returns:
        Blocks of result.json: `validation` and `test`, `held_out` and `zapbench` where there are such,
        `uncertainty` (None of a brief one), `notes` on what was held out, `best_step` and
        `data_fingerprint`; and the evaluations they are made from.

    Raises:
        CheckpointError: there is no run, or its checkpoints are damaged or of other data, or it trains on
            meanwhile.
        ConfigError: there is no session of the name that is to be shown.
        ShardError: the data cannot be read.
        StorageError: the run folder cannot be written to; nothing was scored.
    """
    best = best_step(run)
    trained = TrainedModel.load(run)
    config = trained.config
    kept = None if data else run.kept_index()
    windows = open_windows(config, data or run.shards(config.data), kept)
    shards = windows.shards
    if shards.fingerprint != trained.checkpoint.record["data_fingerprint"]:
        raise CheckpointError(
            f"{run.uri} was trained on other data than {shards.uri} holds; give its own --data."
        )
    limit = None if full else windows_scored(windows, config)
    model = config.model.title
    forecasters = with_baselines(trained, windows)
    if shown is not None and shown not in trained.interfaces:
        raise ConfigError(f"session is {shown!r}; expected one of {', '.join(sorted(trained.interfaces))}.")
    run.folder.require_writable()
    run.folder.remove_partial(EVALUATION)
    parts = score_parts(trained, windows, forecasters, limit, console)
    is_brief, uncertainty = config.evaluation.brief, None
    if not is_brief:
        uncertainty = _uncertainty(trained, windows, forecasters[model], limit, console)
    files: dict[str, bytes] = {}
    for part, evaluation in parts.items():
        files |= _of(part, _report(evaluation, model, forecasters, windows, shown, is_brief))
    notes = held_out_doubts(windows, trained.interfaces)
    if notes and (report := f"held_out/{REPORT}") in files:
        files[report] += "".join(f"\n{note}\n" for note in notes).encode()
    if uncertainty is not None:
        files |= _of("test", _as_files(tables.intervals(model, uncertainty), console))
    zapbench = _zapbench(forecasters, windows, limit)
    if zapbench is not None:
        files |= _as_files(tables.zapbench(zapbench), console)
    require_best(run, best)
    for name, content in files.items():
        run.folder.write(f"{EVALUATION}/{name}", content)
    pictures = {name.removesuffix(".png"): data for name, data in files.items() if name.endswith(".png")}
    log_to_tensorboard(run, trained, shards, pictures, uncertainty)
    return {
        **{part: evaluation.result(model) for part, evaluation in parts.items()},
        **({} if zapbench is None else {"zapbench": {key: one.to_json() for key, one in zapbench.items()}}),
        "uncertainty": uncertainty,
        "best_step": trained.checkpoint.step,
        "data_fingerprint": shards.fingerprint,
        "bad_shards_in_evaluation": sorted(shards.bad_shards),
        "notes": notes,
        "sessions_not_trained": [info.id for info in windows.sessions if info.id not in trained.interfaces],
    }, parts


def windows_scored(windows: ShardWindows, config: PretrainConfig) -> int | None:
    """Windows a session that a run is scored on once it is trained; None for every one."""
    training = config.training
    order = build_order(windows, training.batch_size, config.seed, config.mixture, training.units_per_window)
    return affordable_windows(windows, order, config, share=0.05, steps=training.steps)


def evaluation_of(run: RunFolder) -> contextlib.AbstractContextManager[None]:
    """Holds a run's evaluation, so that tables, pictures and result.json are of one; of another it is waited
    for, with a warning."""
    if run.read_config() is None:  # whoever evaluates says so, and nothing is made there
        return contextlib.nullcontext()
    return alone(run.folder.child(EVALUATION), _log.warning)


def best_step(run: RunFolder) -> int | None:
    """The step of a run's best checkpoint; None without one."""
    best = run.checkpoints().best()
    return None if best is None else best.step


def require_best(run: RunFolder, step: int | None) -> None:
    """Raises CheckpointError if `best_step` is another by now: scores of the one before would stand beside
    what the run says of itself."""
    now = best_step(run)
    if now != step:
        raise CheckpointError(
            f"{run.uri}: the best checkpoint was that of step {step}, and is that of step {now} now: the run "
            "trains on meanwhile. No score was kept; evaluate it once it has ended."
        )


def with_baselines(trained: TrainedModel, windows: ShardWindows) -> dict[str, Forecaster]:
    """The model under its title, and the baselines, fitted."""
    return {
        trained.config.model.title: trained.forecaster(windows.sessions, held_out_ids(windows)),
        **fit_baselines(windows, seed=trained.config.seed),
    }


def score_parts(
    trained: TrainedModel,
    windows: ShardWindows,
    forecasters: Mapping[str, Forecaster],
    limit: int | None,
    console: Console,
) -> dict[Part, Evaluation]:
    """Scores every part that the windows have.

    Args:
        trained: whose sessions are scored.
        windows: of the data it was trained on.
        forecasters: from `with_baselines`.
        limit: windows of a session; None for all.
        console: where progress is shown.
    """
    parts: dict[Part, Evaluation] = {}
    follow = Follower(console)
    for part in SCORED_PARTS:
        sessions = sessions_to_score(windows, part, trained.interfaces)
        if part == "held_out" and not sessions:
            continue
        console.print(
            f"scoring the {part} part, {'every window' if limit is None else f'{limit} windows'} a session"
        )
        parts[part] = evaluate(
            forecasters,
            windows,
            part,
            sessions=sessions,
            windows_per_session=limit,
            seed=trained.config.seed,
            as_scored=windows.as_scored,
            progress=partial(follow, f"scoring the {part} part: window"),
        )
    return parts


def _uncertainty(
    trained: TrainedModel,
    windows: ShardWindows,
    forecaster: Forecaster,
    limit: int | None,
    console: Console,
) -> dict[str, Any] | None:
    """The block `uncertainty` of result.json: intervals calibrated on the validation part, scored on the test
    part; of many sessions, where not every window is scored, of some."""
    sessions = sessions_to_score(windows, "test", trained.interfaces)
    if limit is not None and len(sessions) > INTERVAL_SESSIONS:
        some = _some_of_each(sessions, windows)
        console.print(
            f"intervals are scored of {len(some):,} of {len(sessions):,} sessions, evenly spaced in each "
            "data set; of all with `forebrain evaluate --full`"
        )
        sessions = some
    model = trained.config.model.title
    return assess(
        model, forecaster, windows, sessions=sessions, windows_per_session=limit, seed=trained.config.seed,
        as_scored=windows.as_scored, progress=partial(Follower(console), "scoring intervals: session"),
    ).result(model)  # fmt: skip


def _some_of_each(sessions: Sequence[int], windows: ShardWindows) -> list[int]:
    """INTERVAL_SESSIONS of the sessions, by data set as many as its part of them, rounded up."""
    groups: dict[str, list[int]] = {}
    for number in sessions:
        groups.setdefault(windows.sessions[number].dataset, []).append(number)
    share = INTERVAL_SESSIONS / len(sessions)
    return sorted(
        group[int(place)]
        for group in groups.values()
        for place in np.linspace(0, len(group) - 1, math.ceil(share * len(group)))
    )


def held_out_ids(windows: ShardWindows) -> set[str]:
    """Ids of the sessions that have windows in the part `held_out`."""
    return {windows.sessions[number].id for number in sessions_to_score(windows, "held_out", ())}


def held_out_doubts(windows: ShardWindows, trained_on: Collection[str]) -> list[str]:
    """Why the animals of sessions that are held out may have been trained on all the same; none where no
    session is held out whole."""
    held = held_out_ids(windows) - set(trained_on)
    entries = windows.shards.sessions
    folds = (
        [entry for entry in entries if entry.id in trained_on],
        [entry for entry in entries if entry.id in held],
    )
    return list(doubts([folds])) if held else []


def sessions_to_score(windows: ShardWindows, part: Part, trained_on: Collection[str]) -> list[int]:
    """Numbers of the sessions that are scored on a part: those that were trained on; of the part `held_out`
    those that were not, and those with held-out frames."""
    if part != "held_out":
        return [number for number, info in enumerate(windows.sessions) if info.id in trained_on]
    return [number for number in range(len(windows.sessions)) if windows.num_windows(number, part)]


def _zapbench(
    forecasters: Mapping[str, Forecaster], windows: ShardWindows, limit: int | None
) -> dict[str, ZapbenchScores] | None:
    """The benchmark's own scores, where its protocol is the run's."""
    if windows.protocol != "zapbench":
        return None
    return score_zapbench(forecasters, windows, windows.in_own_units, limit)


def _as_files(table: tables.Table, console: Console) -> dict[str, bytes]:
    """A table's files, by name; it is shown, too."""
    console.print(table.to_rich())
    return {f"{table.name}.csv": table.to_csv().encode(), f"{table.name}.md": table.to_markdown().encode()}


def _of(part: Part, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{part}/{name}": data for name, data in files.items()}


def _report(
    evaluation: Evaluation,
    model: str,
    forecasters: Mapping[str, Forecaster],
    windows: ShardWindows,
    shown: str | None,
    is_brief: bool,
) -> dict[str, bytes]:
    """Tables of one part, by name; and pictures, and last the report that shows them, if it is not brief."""
    if not evaluation.summary(model).num_sessions:
        return {}
    if is_brief:
        return {f"{table.name}.csv": table.to_csv().encode() for table in tables.all_tables(evaluation)}
    ids = [info.id for info in windows.sessions]
    scored = evaluation.scores[model]
    session = ids.index(shown if shown and shown in scored else typical_session(evaluation, model))
    calibrations = {}
    if windows.num_windows(session, "validation"):
        found = residuals_of(forecasters[model], windows, session)
        if len(found.starts):
            calibrations[model] = found.calibrate(VALIDATION)
    example = make_example(forecasters, windows, session, evaluation.part, calibrations)
    shards = windows.shards
    named = None if shards.forecasts_components else shards.unit_names(session)
    units = _units(windows, session, evaluation, model)
    with scratch() as folder:
        write_report(folder, evaluation, example, model, named, units)
        paths = sorted(folder.iterdir(), key=lambda path: (path.name == REPORT, path.name))
        return {path.name: path.read_bytes() for path in paths}


def _units(windows: ShardWindows, session: int, evaluation: Evaluation, model: str) -> tables.Table | None:
    """The table of a session's units; None where something stands in the place of the units."""
    info, shards = windows.sessions[session], windows.shards
    scores = evaluation.scores[model][info.id].units
    if scores is None or shards.forecasts_components:
        return None
    noise = windows.as_scored(session, np.sqrt(noise_variance(windows, session))) ** 2
    positions = shards.unit_positions(session)
    names, regions = shards.unit_names(session), shards.brain_regions(session)
    scored = slice(len(noise))
    return tables.by_unit(
        scores,
        noise,
        info.rate_hz,
        None if names is None else names[scored],
        None if regions is None else regions[scored],
        None if positions is None else positions[scored],
    )


def show_evaluation(run: RunFolder, parts: Mapping[Part, Evaluation], console: Console) -> None:
    """Prints the tables a person looks at first, and where the rest is."""
    for evaluation in parts.values():
        console.print(tables.overview(evaluation).to_rich())
    test = parts["test"]
    if len({info.species for info in test.sessions}) > 1:
        console.print(tables.by_species(test).to_rich())
    report = f"{EVALUATION}/test/{REPORT}"
    if run.folder.exists(report):
        console.print(f"Tables and pictures: {run.uri}/{report}")
