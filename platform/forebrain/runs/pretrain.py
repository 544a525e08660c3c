"""A pretraining run from end to end: prepare where needed, train, evaluate, and say what came out."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import time

from rich.console import Console

from forebrain.errors import ConfigError, ForebrainError
from forebrain.runs.evaluate import evaluate_run, show_evaluation
from forebrain.shards.index import remarks
from forebrain.shards.prepare import map_here, map_with_ray, prepare
from forebrain.shards.recordings import find_all
from forebrain.shards.stream import build_order
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.data import open_windows
from forebrain.training.loop import Listener, peak_rss_bytes
from forebrain.training.run_folder import RunFolder
from forebrain.training.strategies.deepspeed_config import STAGES, deepspeed_config, read_options
from forebrain.training.telemetry import ConsoleLog, Event, MetricsLog
from forebrain_registry.storage import Folder

_REPORTED_PACKAGES = ("forebrain", "torch", "ray", "deepspeed", "webdataset", "numpy", "safetensors")


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
    # Absolute, because workers start in folders of their own.
    config = dataclasses.replace(
        config, data=_absolute(config.data), out=run.uri, training=_with_options(config.training)
    )
    run.check_config(config)
    if "steps" in (run.read_result() or {}):
        console.print(f"{run.uri} is finished; nothing to do. Give another --out for a new run.")
        return run.uri
    started, launched = time.perf_counter(), time.time()
    if config.workers:
        from forebrain.ray_runtime import start_ray

        console.print("Starting Ray ...")
        start_ray()
    is_new = run.read_config() is None
    try:
        _make_shards(config, run, console)
        check_data(run.shards(config.data), config)
    except ForebrainError:
        if is_new:
            run.clear()
        raise
    if config.training.strategy in STAGES:
        run.write_deepspeed(deepspeed_config(config.training.resolved(config.protocol)))
    events = _train(config, run, console, launched, listen)
    trained_s = time.perf_counter() - started
    skipped = events["end"]["skipped"]
    if skipped["shards"]:
        console.print(
            f"{skipped['windows']:,} training windows could not be read and were skipped; damaged: "
            f"{', '.join(skipped['shards'][:8])}{' and more' * (len(skipped['shards']) > 8)}."
        )
    console.print("Evaluating the best checkpoint beside copy, mean and linear forecasts ...")
    scores, evaluations = evaluate_run(run, None, config.evaluation.full, console)
    show_evaluation(run, evaluations, console)
    end, seconds_before = events["end"], events["start"]["seconds"]
    seconds = time.perf_counter() - started
    result = {
        **scores,
        "steps": end["step"],
        "backbone_parameters": events["start"]["backbone_parameters"],
        "stopped_early": end["stopped_early"],
        "seconds": round(seconds_before + seconds, 3),
        "seconds_evaluation": round(seconds - trained_s, 3),
        "seconds_training": round(end["seconds"], 3),
        "units_x_frames_per_s": end["units_x_frames_per_s"],
        "peak_rss_bytes": max(end["peak_rss_bytes"], peak_rss_bytes()),
        "num_workers": end["num_workers"],
        "skipped": end["skipped"],
        "goodput": end["ledger"]["goodput"],
        "ledger": end["ledger"],
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
        "versions": versions(),
    }
    run.write_result(result)
    return run.uri


def _absolute(data: str) -> str:
    return data if data.startswith("sim://") else Folder(data).uri


def _with_options(training: TrainingConfig) -> TrainingConfig:
    """The same with the text of DeepSpeed's options, because workers may not reach the file."""
    if training.deepspeed is None:
        return training
    return dataclasses.replace(training, deepspeed=json.dumps(read_options(training.deepspeed)))


def _make_shards(config: PretrainConfig, run: RunFolder, console: Console) -> None:
    """Claims the run folder for this config, and prepares recordings into it where `data` names some."""
    if run.shards(config.data) == config.data:
        run.write_config(config)
        return
    recordings = find_all([config.data])
    window = config.model.context + config.model.horizon
    if window > config.prepare.max_window:
        raise ConfigError(
            f"prepare.max_window is {config.prepare.max_window}; expected at least the {window} frames of "
            "model.context + model.horizon."
        )
    run.write_config(config)
    prepare_into(run.shards(config.data), recordings, config, console)


def prepare_into(out: str, recordings: list[str], config: PretrainConfig, console: Console) -> None:
    """Prepares recordings, and says what is worth knowing of each."""
    console.print(f"Preparing {len(recordings)} recordings of {config.data} ...")
    run_each = map_with_ray if config.workers else map_here
    result = prepare(recordings, out, config.prepare, run_each=run_each, progress=console.print)
    for entry in result.sessions:
        for remark in remarks(entry):
            console.print(f"  {entry.id}: {remark}")
    for failure in result.failures:
        console.print(f"  cannot be used: {failure}")


def check_data(shards: str, config: PretrainConfig) -> None:
    """Raises before any work if the shards cannot be read, or hold no window for this config."""
    windows = open_windows(config, shards)
    build_order(windows, config.training.batch_size, config.seed, config.mixture)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _REPORTED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _train(
    config: PretrainConfig, run: RunFolder, console: Console, launched: float, listen: Listener
) -> dict[str, Event]:
    """Trains; returns the last event of each kind."""
    last: dict[str, Event] = {}
    show = ConsoleLog(console)

    def report(event: Event) -> None:
        last[event["kind"]] = event
        show(event)
        listen(event)

    if config.workers:
        from forebrain.training.on_ray import train_on_ray

        console.print(f"Starting {config.workers} training worker{'s' * (config.workers > 1)} ...")
        train_on_ray(config, report, launched)
    else:
        from forebrain.training.single import train_here

        train_here(config, _both(MetricsLog(run), report), launched)
    if "end" not in last:
        raise ForebrainError(f"training ended without finishing; see {run.uri}. The same command resumes it.")
    return last


def _both(first: Listener, second: Listener) -> Listener:
    def report(event: Event) -> None:
        first(event)
        second(event)

    return report
