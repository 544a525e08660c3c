"""A pretraining run from end to end: prepare where needed, train, evaluate, and keep the result."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from forebrain.alone import alone
from forebrain.errors import ConfigError, ForebrainError
from forebrain.runs.evaluate import evaluate_run, evaluation_of, held_out_doubts, show_evaluation
from forebrain.shards.index import remarks
from forebrain.shards.prepare import map_here, map_with_ray, prepare
from forebrain.shards.reader import options_of, read_index, sources_of
from forebrain.shards.recordings import find_all, hashes_of
from forebrain.shards.stream import build_order
from forebrain.shards.windows import ShardWindows
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.data import open_windows
from forebrain.training.events import Ended, Event, Listener, Skipped, Started
from forebrain.training.ledger import read_attempts, require_checkpoints
from forebrain.training.memory import peak_rss_bytes
from forebrain.training.run_folder import RunFolder
from forebrain.training.strategies.deepspeed_config import STAGES, deepspeed_config, read_options
from forebrain.training.telemetry import ConsoleLog, MetricsLog
from forebrain.training.versions import versions
from forebrain_registry.storage import Folder


def pretrain(config: PretrainConfig, console: Console, listen: Listener = lambda event: None) -> str:
    """Runs, resumes, or finds finished the run at `config.out`.

    Args:
        config: what is asked. Where `data` is no set of shards it names recordings, which are prepared
            into the run folder first.
        console: where progress is shown.
        listen: called in this process with each event of the training.

    Returns:
        The run folder's address; its result.json says what came out.

    Raises:
        ForebrainError: something the user can mend; the run folder holds what was done until then.
    """
    run = RunFolder(config.out)
    config = _resolved(config, run)
    if moved_from := run.check_config(config):
        console.print(f"{config.data} holds the data that were at {moved_from} when the run began.")
    if not run.is_finished(config):
        with alone(run.folder):
            if not run.is_finished(config):  # by another command, that was seen to the end
                _run(config, run, console, listen)
                return run.uri
    if _was_brief(config, run):
        with alone(run.folder):
            _evaluate_in_full(config, run, console)
        return run.uri
    console.print(f"Nothing is left to do in {run.uri}; give another --out for a new run.")
    console.print("This run, of the same config, is finished; result.json has its scores.")
    _say_what_changed(config, run, console)
    return run.uri


def _run(config: PretrainConfig, run: RunFolder, console: Console, listen: Listener) -> None:
    """Begins or goes on with a run, in a folder that no other command trains in meanwhile."""
    began, launched = time.perf_counter(), time.time()
    made_with = versions()  # before files can change under the run
    _make_ready(config, run, console)
    started, ended = _train(config, run, console, launched, listen)
    trained_s = time.perf_counter() - began
    if run.read_config() is None:  # somebody has removed it
        run.claim(config)
    _show_skipped(ended.skipped, console)
    console.print("Evaluating the best checkpoint beside copy, mean and linear forecasts ...")
    with evaluation_of(run):
        scores, evaluations = evaluate_run(run, None, config.evaluation.full, console)
        show_evaluation(run, evaluations, console)
        seconds = time.perf_counter() - began
        run.check_config(config)  # nobody has put another run in its place
        run.write_result(
            {
                **scores,
                "steps": ended.step,
                "backbone_parameters": started.backbone_parameters,
                "stopped_early": ended.stopped_early,
                "seconds": round(started.seconds + seconds, 3),
                "seconds_evaluation": round(seconds - trained_s, 3),
                "seconds_training": round(ended.seconds, 3),
                "units_x_frames_per_s": ended.units_x_frames_per_s,
                "peak_rss_bytes": max(ended.peak_rss_bytes, peak_rss_bytes()),
                "num_workers": ended.num_workers,
                "skipped": dataclasses.asdict(ended.skipped),
                "goodput": ended.ledger.goodput,
                "ledger": dataclasses.asdict(ended.ledger),
                "config": _plain(config),
                "versions": made_with,
                **_earlier_versions(run, made_with),
            }
        )


def _was_brief(config: PretrainConfig, run: RunFolder) -> bool:
    """Whether a finished run has scores alone, and intervals and pictures are asked for now."""
    asked_before = (run.read_result() or {}).get("config", {}).get("evaluation", {})
    return not config.evaluation.brief and bool(asked_before.get("brief"))


def _evaluate_in_full(config: PretrainConfig, run: RunFolder, console: Console) -> None:
    """Adds to a finished run what a brief one left out."""
    console.print("This run is finished, and was brief; evaluating its best checkpoint again ...")
    run.claim(config)
    with evaluation_of(run):
        scores, evaluations = evaluate_run(run, None, config.evaluation.full, console)
        show_evaluation(run, evaluations, console)
        run.check_config(config)
        run.write_result({**(run.read_result() or {}), **scores, "config": _plain(config)})


def _plain(config: PretrainConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _resolved(config: PretrainConfig, run: RunFolder) -> PretrainConfig:
    """The config as workers can read it, who start in folders of their own and may not reach a file."""
    data = config.data if config.data.startswith("sim://") else Folder(config.data).uri
    return dataclasses.replace(config, data=data, out=run.uri, training=_with_options(config.training))


def _with_options(training: TrainingConfig) -> TrainingConfig:
    """The same with the text of DeepSpeed's options."""
    if training.deepspeed is None:
        return training
    return dataclasses.replace(training, deepspeed=json.dumps(read_options(training.deepspeed)))


def _make_ready(config: PretrainConfig, run: RunFolder, console: Console) -> None:
    """Claims the run folder, starts Ray for workers, and prepares recordings where `data` names some."""
    is_set = run.shards(config.data) == config.data
    recordings: Sequence[str] = [] if is_set else _recordings_of(config)
    if is_set and not run.checkpoints().newest_step():  # a run of an earlier version may have had others
        require_options(config)
    had_shards = run.has_shards
    is_new = run.claim(config)
    require_checkpoints(run)
    try:
        if config.workers:
            from forebrain.ray_runtime import start_ray

            console.print("Starting Ray ...")
            start_ray()
        if not is_set:
            has_trained = bool(run.checkpoints().newest_step())
            if has_trained:
                recordings = _of_this_run(recordings, run, config, console)
            if recordings:
                prepare_into(run.shards(config.data), recordings, config, console, has_trained)
        run.keep_index(config.data)
        _say_if_set_changed(config, run, console)
        windows, trained_on = _opened(run.shards(config.data), config, run.kept_index())
        for line in held_out_doubts(windows, trained_on):
            console.print(line)
    except ForebrainError:
        if is_new:
            run.release(had_shards)
        raise
    if config.training.strategy in STAGES:
        run.write_deepspeed(deepspeed_config(config.training.resolved(config.protocol)))


def _of_this_run(
    recordings: Sequence[str], run: RunFolder, config: PretrainConfig, console: Console
) -> Sequence[str]:
    """Those of the recordings that a run was prepared from, which are its data once it has trained, whatever
    came or changed since; all, where that is not known."""
    sources = sources_of(run.shards(config.data))
    if not sources:
        return recordings
    known = {address: sha256 for address, sha256 in hashes_of(recordings).items() if sha256 in sources}
    if len(known) < len(recordings):
        console.print(
            f"{len(recordings) - len(known)} of {len(recordings)} recordings are none of those that this run "
            "was prepared from; they came or changed since, or cannot be used, and are no part of it."
        )
    elif gone := len(sources - set(known.values())):
        console.print(f"{gone} of {len(sources)} recordings that this run was prepared from are gone.")
    return list(known)


def _say_what_changed(config: PretrainConfig, run: RunFolder, console: Console) -> None:
    """Says in a line where the data of a finished run are not what it was trained on any more."""
    try:
        if run.shards(config.data) == config.data:
            _say_if_set_changed(config, run, console)
        else:
            _of_this_run(_recordings_of(config), run, config, console)
    except (ForebrainError, OSError) as error:
        console.print(f"Whether its data have changed since cannot be told: {error}")


def _say_if_set_changed(config: PretrainConfig, run: RunFolder, console: Console) -> None:
    kept = run.kept_index()
    if kept is not None and kept != read_index(config.data):
        console.print(
            f"{config.data} has changed since this run began; sessions that came are no part of it."
        )


def _recordings_of(config: PretrainConfig) -> list[str]:
    window = config.model.context + config.model.horizon
    if window > config.prepare.max_window:
        raise ConfigError(
            f"prepare.max_window is {config.prepare.max_window}; expected at least the {window} frames of "
            "model.context + model.horizon."
        )
    return find_all([config.data])


def prepare_into(
    out: str, recordings: Sequence[str], config: PretrainConfig, console: Console, has_trained: bool = False
) -> tuple[str, ...]:
    """Prepares the recordings of a run or study into its own set, which holds no others, and says what is
    worth knowing of each; returns why some cannot be used.

    Args:
        has_trained: something was trained on the set, which then stays what it was.
    """
    console.print(f"Preparing {len(recordings)} recordings of {config.data} ...")
    run_each = map_with_ray if config.workers else map_here
    result = prepare(
        list(recordings),
        out,
        config.prepare,
        run_each=run_each,
        progress=console.print,
        holding="as trained" if has_trained else "these alone",
    )
    for entry in result.sessions:
        for remark in remarks(entry):
            console.print(f"  {entry.id}: {remark}")
    for failure in result.failures:
        console.print(f"  cannot be used: {failure}")
    return result.failures


def check_data(shards: str, config: PretrainConfig, kept_index: bytes | None = None) -> set[str]:
    """Raises before any work if the shards cannot be read, or hold no window for this config.

    Returns:
        Ids of the sessions that would be trained on.
    """
    return _opened(shards, config, kept_index)[1]


def _opened(shards: str, config: PretrainConfig, kept_index: bytes | None) -> tuple[ShardWindows, set[str]]:
    windows = open_windows(config, shards, kept_index)
    order = build_order(windows, config.training.batch_size, config.seed, config.mixture)
    return windows, {session.id for session in order.sessions}


def require_options(config: PretrainConfig) -> None:
    """Raises ConfigError before any work if options of prepare are given that a prepared set has not."""
    config.prepare.require_of(options_of(config.data), config.data)


def check_possible(config: PretrainConfig) -> set[str]:
    """Raises before any work what `pretrain` would raise of a config on prepared shards, or of what is in its
    run folder; returns ids of the sessions that it trains on."""
    run = RunFolder(config.out)
    config = _resolved(config, run)
    run.check_config(config)
    run.is_finished(config)
    if not run.checkpoints().newest_step():
        require_options(config)
    return check_data(config.data, config, run.kept_index())


def _train(
    config: PretrainConfig, run: RunFolder, console: Console, launched: float, listen: Listener
) -> tuple[Started, Ended]:
    """Trains; returns how it started in this process, and how it ended."""
    events: list[Started | Ended] = []
    show = ConsoleLog(console)

    def report(event: Event) -> None:
        if isinstance(event, Started | Ended):
            events.append(event)
        show(event)
        listen(event)

    if config.workers:
        from forebrain.training.on_ray import train_on_ray

        # What is damaged or gone there is said here; workers only write it to their logs.
        run.metrics().read_until(run.checkpoints().newest_step())
        console.print(f"Starting {config.workers} training worker{'s' * (config.workers > 1)} ...")
        train_on_ray(config, report, launched)
    else:
        from forebrain.training.single import train_here

        keep = MetricsLog(run)

        def keep_and_report(event: Event) -> None:
            keep(event)
            report(event)

        train_here(config, keep_and_report, launched)
    started, ended = (events[0], events[-1]) if events else (None, None)
    if not (isinstance(started, Started) and isinstance(ended, Ended)):
        raise ForebrainError(f"training ended without finishing; see {run.uri}. The same command resumes it.")
    return started, ended


def _show_skipped(skipped: Skipped, console: Console) -> None:
    if skipped.shards:
        console.print(
            f"{skipped.windows:,} training windows could not be read and were skipped; damaged: "
            f"{', '.join(skipped.shards[:8])}{' and more' * (len(skipped.shards) > 8)}."
        )


def _earlier_versions(run: RunFolder, now: dict[str, str]) -> dict[str, Any]:
    """Versions that earlier attempts of the run trained with, where they were others than now."""
    others: list[dict[str, str]] = []
    for attempt in read_attempts(run):
        if attempt.versions and attempt.versions not in (now, *others):
            others.append(attempt.versions)
    return {"earlier_versions": others} if others else {}
