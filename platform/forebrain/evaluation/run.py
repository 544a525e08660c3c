"""Evaluates a finished run: its best checkpoint beside the baselines, as numbers, tables and pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from forebrain.errors import CheckpointError, ConfigError
from forebrain.evaluation import tables
from forebrain.evaluation.board import log_to_tensorboard
from forebrain.evaluation.examples import make_example, typical_session
from forebrain.evaluation.report import write_report
from forebrain.scoring.evaluate import Evaluation, Forecaster, evaluate, fit_baselines
from forebrain.scoring.protocols import Part
from forebrain.shards.stream import build_order
from forebrain.shards.windows import ShardWindows
from forebrain.training.data import open_windows
from forebrain.training.forecasting import affordable_windows
from forebrain.training.run_folder import RunFolder
from forebrain.training.trained import TrainedModel

MODEL = "POCO"
SCORED_PARTS: tuple[Part, ...] = tuple(part for part in get_args(Part) if part != "train")


def evaluate_run(
    run: RunFolder, data: str | None, full: bool, console: Console, shown: str | None = None
) -> tuple[dict[str, Any], dict[Part, Evaluation]]:
    """Scores a run's best checkpoint on the validation and test parts.

    Writes tables and pictures to evaluation/ in the run folder, and pictures and embeddings for TensorBoard.

    Args:
        run: a run with a checkpoint.
        data: address of the shards; None for those the run was trained on.
        full: score every window instead of the stated subset.
        console: where progress is shown.
        shown: id of the session in the pictures; None for the one with the median score.

    Returns:
        Blocks `validation` and `test` of result.json, with `best_step` and `data_fingerprint`; and the
        evaluations they are made from.

    Raises:
        CheckpointError: there is no run, or its checkpoints are damaged or of other data.
        ConfigError: there is no session of the name that is to be shown.
        ShardError: the data cannot be read.
    """
    trained = TrainedModel.load(run)
    config = trained.config
    windows = open_windows(config, data or run.shards(config.data))
    shards = windows.shards
    if shards.fingerprint != trained.checkpoint.record["data_fingerprint"]:
        raise CheckpointError(
            f"{run.uri} was trained on other data than {shards.uri} holds; give its own --data."
        )
    training = config.training
    order = build_order(windows, training.batch_size, config.seed, config.mixture, training.units_per_window)
    limit = (
        None
        if full or config.evaluation.full
        else affordable_windows(windows, order, config, share=0.05, steps=training.steps)
    )
    forecasters: dict[str, Forecaster] = {
        MODEL: trained.forecaster(windows.sessions),
        **fit_baselines(windows, seed=config.seed),
    }
    if shown is not None and shown not in trained.interfaces:
        raise ConfigError(f"session is {shown!r}; expected one of {', '.join(sorted(trained.interfaces))}.")
    trained_on = [i for i, info in enumerate(windows.sessions) if info.id in trained.interfaces]
    parts: dict[Part, Evaluation] = {}
    for part in SCORED_PARTS:
        console.print(
            f"scoring the {part} part, {'every window' if limit is None else f'{limit} windows'} a session"
        )
        parts[part] = evaluate(
            forecasters,
            windows,
            part,
            sessions=trained_on,
            windows_per_session=limit,
            seed=config.seed,
            as_scored=windows.as_scored,
        )
    pictures: dict[str, bytes] = {}
    for evaluation in parts.values():
        pictures |= _write_report(run, evaluation, forecasters, windows, shown)
    log_to_tensorboard(run, trained, shards, pictures)
    return {
        **{part: evaluation.result(MODEL) for part, evaluation in parts.items()},
        "best_step": trained.checkpoint.step,
        "data_fingerprint": shards.fingerprint,
        "bad_shards_in_evaluation": sorted(shards.bad_shards),
        "sessions_not_trained": [info.id for info in windows.sessions if info.id not in trained.interfaces],
    }, parts


def _write_report(
    run: RunFolder,
    evaluation: Evaluation,
    forecasters: Mapping[str, Forecaster],
    windows: ShardWindows,
    shown: str | None,
) -> dict[str, bytes]:
    """Tables and pictures of one part, in the run folder; the pictures' bytes by name."""
    if not evaluation.summary(MODEL).num_sessions:
        return {}
    ids = [info.id for info in windows.sessions]
    session = ids.index(shown or typical_session(evaluation, MODEL))
    example = make_example(forecasters, windows, session, evaluation.part)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_report(folder, evaluation, example, MODEL)
        for path in sorted(folder.iterdir()):
            run.folder.write(f"evaluation/{evaluation.part}/{path.name}", path.read_bytes())
        return {f"{evaluation.part}/{path.stem}": path.read_bytes() for path in folder.glob("*.png")}


def show_evaluation(run: RunFolder, parts: Mapping[Part, Evaluation], console: Console) -> None:
    """Prints the tables a person looks at first, and where the rest is."""
    for evaluation in parts.values():
        console.print(tables.overview(evaluation).to_rich())
    test = parts["test"]
    if len({info.species for info in test.sessions}) > 1:
        console.print(tables.by_species(test).to_rich())
    if run.folder.exists("evaluation/test/report.md"):
        console.print(f"Tables and pictures: {run.uri}/evaluation/test/report.md")
