"""A pretraining that is too large to try, calculated.

What the code itself decides (sizes of pages, entries, checkpoints and messages, who owns which session) is
asked of the code. What a machine or a store does is assumed, and is an option. docs/scale.md says more.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from forebrain.console import Table
from forebrain.errors import ConfigError
from forebrain.models.poco import Poco, PocoConfig
from forebrain.scoring.protocols import fit_ranges, protocols_for, windows_of
from forebrain.sessions.report import RecordingReport
from forebrain.shards.fetching import MOST_IN_FLIGHT
from forebrain.shards.index import (
    NUM_PREFIXES,
    TRACES,
    SessionEntry,
    Shard,
    Source,
    Stretch,
    arrays_name,
    shard_name,
)
from forebrain.shards.options import PrepareConfig
from forebrain.shards.order import SPLIT, DataOrder, OrderedSession
from forebrain.shards.pages import PageShape, page_shape
from forebrain.shards.stream import MixtureConfig
from forebrain.shards.writer import plan_stretches

FLOAT_BYTES = 4
MOMENTS = 2  # of AdamW, beside each value
LISTED_AT_ONCE = 1000  # names in one answer of S3
STEPS_LOOKED_AT = 5
# Training stood still 12.6 ms for a checkpoint of 20.3 MB (docs/LOG.md, 2026-11-24).
STALL_S_A_BYTE = 12.6e-3 / 20.3e6
CHECKSUM_BYTES = 4
# 10,000 entries were checked and read in 0.65 s of a core.
ENTRY_CPU_S = 0.65 / 10_000


@dataclass(frozen=True)
class PlanConfig:
    """The run that is planned, and what is assumed of machines and storage.

    Attributes:
        sessions: recordings, all of one size.
        units: recorded, over all sessions.
        data_bytes: recorded float32 values.
        workers: that train together, one a GPU or core.
        batch_size: windows in a global batch.
        units_per_window: units of a window that are forecast; None for all.
        checkpoint_every_s: seconds of training between two checkpoints.
        rows_per_s: rows (units x windows) that one worker trains on a second.
        network_bytes_per_s: of one worker, to storage and to the others.
        request_s: from a request to the store to the first byte of its answer.
        request_cpu_s: of a core, for one request.
        store_requests_per_s: that the store serves for one bucket prefix.
        memory_bytes: of one worker.
        failures_per_worker_day: workers lost a day, over workers.
        restart_s: from a loss until processes run again, without reading anything.
        out: JSON file for the numbers.
        overwrite: replace the file that is there.
    """

    sessions: int = 10_000
    units: int = 100_000_000
    data_bytes: float = 100e12
    workers: int = 256
    batch_size: int = 4096
    units_per_window: int | None = None
    checkpoint_every_s: float = 600.0
    rows_per_s: float = 1e6
    network_bytes_per_s: float = 1.25e9
    request_s: float = 0.03
    request_cpu_s: float = 0.002
    store_requests_per_s: float = 5500.0
    memory_bytes: float = 64e9
    failures_per_worker_day: float = 0.02
    restart_s: float = 20.0
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise ConfigError(f"{field.name} is {value}; expected a number above 0.")


def calculate(config: PlanConfig) -> dict[str, Any]:
    """The numbers; bytes, seconds and counts are in the names."""
    data = _data(config)
    order = _order(config, data)
    step = _step(config, data, order)
    saved = _checkpoint(config, order)
    lost = _failures(config, data, saved)
    plan = {**data, **step, **saved, **lost}
    plan["limits"] = sorted(_limits(config, plan), key=lambda row: -row["load"])
    return plan


def _data(config: PlanConfig) -> dict[str, Any]:
    """The sizes of what `prepare` would write, from one session laid out by its own functions."""
    prepare, model = PrepareConfig(), PocoConfig()
    num_units = math.ceil(config.units / config.sessions)
    num_frames = int(config.data_bytes / FLOAT_BYTES / num_units / config.sessions)
    window = model.context + model.horizon
    if num_frames < window:
        raise ConfigError(f"a session has {num_frames} frames; expected at least the {window} of a window.")
    tars = list(plan_stretches(num_units, [(0, num_frames)], prepare))
    shape = page_shape(num_units, prepare.max_window, prepare.page_bytes)
    num_stored = sum(stop - start for ranges in tars for start, stop in ranges)
    num_pages = sum(shape.num_pages(stop - start) for ranges in tars for start, stop in ranges)
    entry_bytes = len(_entry(num_units, num_frames, tars, shape).to_bytes())
    # The first frame of a window lies anywhere in its page.
    rows_a_window = 1 + (window - 1) / shape.frames
    return {
        "units_a_session": num_units,
        "frames_a_session": num_frames,
        "training_windows": config.sessions
        * windows_of(
            "chronological", "train", num_frames, [(0, num_frames)], model.context, model.horizon
        ).count,
        "shards": config.sessions * len(tars),
        "stored_bytes": config.sessions * num_stored * num_units * FLOAT_BYTES,
        "entry_bytes": config.sessions * entry_bytes,
        "checksum_bytes": config.sessions * num_pages * CHECKSUM_BYTES,
        "page_rows_a_window": rows_a_window,
        "page_columns": shape.pages_a_row,
        "window_bytes": window * num_units * FLOAT_BYTES,
        "read_bytes_a_window": rows_a_window * shape.frames * num_units * FLOAT_BYTES,
    }


def _entry(
    num_units: int, num_frames: int, tars: list[list[tuple[int, int]]], shape: PageShape
) -> SessionEntry:
    """A session's entry, to see how long it gets."""
    key = "0" * 16
    stretches: list[Stretch] = []
    for number, ranges in enumerate(tars):
        for start, stop in ranges:
            name = f"{key}-{len(stretches):06d}"
            stretches.append(Stretch(number, name, start, stop - start, {TRACES: 2**27}))
    sha256 = "0" * 64
    return SessionEntry(
        id="dataset/subject/session", key=key, dataset="dataset", subject="subject", session="session",
        species="species", signal="dff", rate_hz=10.0, num_frames=num_frames, num_units=num_units,
        segments=((0, num_frames),), stimulus_names=None,
        behaviour_names=None, metadata={}, report=RecordingReport(),
        fits={
            name: tuple(fit_ranges(name, num_frames, [(0, num_frames)]))
            for name in protocols_for(num_frames)
        },
        pages={TRACES: shape},
        shards=tuple(Shard(shard_name(key, number), 2**28, sha256) for number in range(len(tars))),
        stretches=tuple(stretches), arrays_sha256=sha256,
        source=Source(arrays_name(key), sha256, 1), options_sha256=sha256,
    )  # fmt: skip


def _order(config: PlanConfig, data: dict[str, Any]) -> DataOrder:
    """The order of the data that a run would have."""
    num_windows = data["training_windows"] // config.sessions
    sessions = [
        OrderedSession(f"{number:08d}", "all", num_windows, data["units_a_session"])
        for number in range(config.sessions)
    ]
    num_slots = MixtureConfig().num_slots
    return DataOrder(sessions, config.batch_size, 0, {"all": 1.0}, num_slots, config.units_per_window)


def _step(config: PlanConfig, data: dict[str, Any], order: DataOrder) -> dict[str, Any]:
    """One step, as order and placement make it."""
    backbone = sum(parameter.numel() for parameter in Poco(PocoConfig()).parameters())
    owner = order.ownership(config.workers)
    is_split = owner == SPLIT
    rows, requests, read_bytes = [], [], []
    # Of a split session a worker reads the pages of its units, a request for each row of pages.
    columns = 1 + (data["page_columns"] - 1) / config.workers if is_split.any() else 1
    split_bytes = data["read_bytes_a_window"] * min(1.0, columns / data["page_columns"])
    for step in range(STEPS_LOOKED_AT):
        drawn = order.batch(step).session
        own = drawn[~is_split[drawn]]
        everywhere = order.window_rows[drawn[is_split[drawn]]].sum() / config.workers
        rows.append(everywhere + np.bincount(owner[own], order.window_rows[own], config.workers))
        whole = np.bincount(owner[own], minlength=config.workers)
        num_split = np.count_nonzero(is_split[drawn])
        requests.append(whole + num_split * (1 if data["page_columns"] == 1 else data["page_rows_a_window"]))
        read_bytes.append(whole * data["read_bytes_a_window"] + num_split * split_bytes)
    busiest_rows = float(np.mean([each.max() for each in rows]))
    most_requests = float(np.mean([each.max() for each in requests]))
    most_bytes = float(np.mean([each.max() for each in read_bytes]))
    compute_s = busiest_rows / config.rows_per_s
    # Of one request after another, and of as many at a time as there may be.
    one_by_one_s = most_requests * config.request_s + most_bytes / config.network_bytes_per_s
    read_s = most_requests * config.request_s / MOST_IN_FLIGHT + most_bytes / config.network_bytes_per_s
    gradient_bytes = FLOAT_BYTES * (backbone + 8)
    # A ring sends everything twice, but for the worker's own share.
    exchange_s = 2 * (1 - 1 / config.workers) * gradient_bytes / config.network_bytes_per_s
    step_s = max(compute_s, read_s) + exchange_s
    return {
        "rows_a_step": float(np.mean([each.sum() for each in rows])),
        "busiest_over_mean": busiest_rows / float(np.mean([each.mean() for each in rows])),
        "sessions_split": int(is_split.sum()),
        "gradient_bytes": gradient_bytes,
        "read_bytes_a_step": float(np.mean([each.sum() for each in read_bytes])),
        "requests_in_flight": min(MOST_IN_FLIGHT, one_by_one_s / compute_s),
        "request_cpu_s": most_requests * config.request_cpu_s,
        "one_by_one_s": one_by_one_s,
        "compute_s": compute_s,
        "read_s": read_s,
        "exchange_s": exchange_s,
        "step_s": step_s,
        "requests_per_s": float(np.mean([each.sum() for each in requests])) / step_s,
        "store_bytes_per_s": float(np.mean([each.sum() for each in read_bytes])) / step_s,
        # Each value of the training part forecast once.
        "steps_a_pass": data["training_windows"] / PocoConfig().horizon / config.batch_size,
        "worker_hours_a_pass": data["training_windows"]
        * data["units_a_session"]
        / PocoConfig().horizon
        / config.rows_per_s
        / 3600,
    }


def _checkpoint(config: PlanConfig, order: DataOrder) -> dict[str, Any]:
    width = PocoConfig().width
    backbone = sum(parameter.numel() for parameter in Poco(PocoConfig()).parameters())
    values = backbone + (config.units + config.sessions) * width
    whole = FLOAT_BYTES * (1 + MOMENTS) * values
    own = whole / config.workers
    return {
        "checkpoint_bytes": whole,
        "checkpoint_stall_s": own * STALL_S_A_BYTE,
        "checkpoint_write_s": own / config.network_bytes_per_s,
        "checkpoint_read_s": own / config.network_bytes_per_s,
        "resized_read_bytes": whole * _files_wanted(order, config.workers),
        "interface_bytes_a_worker": FLOAT_BYTES * (2 + MOMENTS) * (values - backbone) / config.workers,
    }


def _files_wanted(order: DataOrder, num_workers: int) -> float:
    """Share of a checkpoint's files that a worker reads, at most, to go on with one worker less."""
    if num_workers == 1:
        return 1.0
    before, after = order.ownership(num_workers), order.ownership(num_workers - 1)
    if (before == SPLIT).any():
        return 1.0
    wanted = [
        len(np.unique(before[(after == worker) | (after == SPLIT)])) for worker in range(num_workers - 1)
    ]
    return max(wanted) / num_workers


def _failures(config: PlanConfig, data: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    # Every worker lists all shards, a thousand names at a time and all prefixes at once, and reads every
    # session's entry.
    open_s = (
        math.ceil(data["shards"] / LISTED_AT_ONCE / NUM_PREFIXES) * config.request_s
        + data["entry_bytes"] / config.network_bytes_per_s
        + config.sessions * ENTRY_CPU_S
    )
    recovery_s = config.restart_s + open_s + saved["checkpoint_read_s"]
    between_s = 86400 / (config.failures_per_worker_day * config.workers)
    # A checkpoint counts once it is written, so work of that long is lost besides.
    again_s = recovery_s + saved["checkpoint_write_s"]
    stall_s = saved["checkpoint_stall_s"]
    intervals = np.geomspace(10, 86400, 400)
    best = max(intervals, key=lambda every_s: goodput(every_s, stall_s, again_s, between_s))
    return {
        "open_s": open_s,
        "recovery_s": recovery_s,
        "between_failures_s": between_s,
        "goodput": goodput(config.checkpoint_every_s, stall_s, again_s, between_s),
        "best_checkpoint_every_s": float(best),
        "best_goodput": goodput(best, stall_s, again_s, between_s),
    }


def goodput(every_s: float, stall_s: float, recovery_s: float, between_s: float) -> float:
    """Share of the time that is work which counts, failures coming at random at a constant rate.

    Work goes on from the newest checkpoint, and another failure may come during recovery (Daly 2006, "A
    higher order estimate of the optimum checkpoint interval for restart dumps").

    Args:
        every_s: work between two checkpoints.
        stall_s: that training stands still for one.
        recovery_s: from a failure until work goes on.
        between_s: mean time between failures.
    """
    took_s = between_s * math.exp(recovery_s / between_s) * math.expm1((every_s + stall_s) / between_s)
    return every_s / took_s


def _limits(config: PlanConfig, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The load on each part, relative to what it can bear: the part with the largest gives way first."""

    def row(part: str, load: float, words: str) -> dict[str, Any]:
        return {"part": part, "load": load, "words": words}

    return [
        row(
            "memory while a run goes on with a worker less",
            plan["resized_read_bytes"] / config.memory_bytes,
            "each reads every file that holds a session of its own",
        ),
        row(
            "reading ahead",
            plan["read_s"] / plan["compute_s"],
            f"{MOST_IN_FLIGHT} requests at a time at most; over 1, training waits for data",
        ),
        row(
            "a core for the requests",
            plan["request_cpu_s"] / plan["compute_s"],
            "besides that which trains, where it is not a GPU",
        ),
        row(
            "requests to the store",
            plan["requests_per_s"] / config.store_requests_per_s / NUM_PREFIXES,
            f"one for each window, over {NUM_PREFIXES} prefixes",
        ),
        row(
            "memory for the session entries",
            plan["entry_bytes"] / config.memory_bytes,
            "mapped, once a machine; checksums of pages only of the sessions it reads",
        ),
        row(
            "memory for a worker's interfaces",
            plan["interface_bytes_a_worker"] / config.memory_bytes,
            "values, gradients, moments",
        ),
        row(
            "exchange of the backbone's gradient",
            plan["exchange_s"] / plan["step_s"],
            "share of a step, not overlapped",
        ),
        row(
            "writing a checkpoint",
            plan["checkpoint_write_s"] / config.checkpoint_every_s,
            "share of the time between two",
        ),
    ]


def as_table(plan: dict[str, Any]) -> Table:
    """The numbers that people ask for, a row each."""
    table = Table("what", "how much")
    for name, value in (
        ("units a session", f"{plan['units_a_session']:,}"),
        ("frames a session", f"{plan['frames_a_session']:,}"),
        ("training windows", f"{plan['training_windows']:.3g}"),
        ("shards", f"{plan['shards']:,}"),
        ("stored, with overlaps", _bytes(plan["stored_bytes"])),
        ("entries of all sessions", _bytes(plan["entry_bytes"])),
        ("checksums of all pages", _bytes(plan["checksum_bytes"])),
        ("rows a step (units x windows)", f"{plan['rows_a_step']:.3g}"),
        ("busiest worker of a step, over the mean", f"{plan['busiest_over_mean']:.2f}"),
        ("sessions split by units", f"{plan['sessions_split']:,}"),
        (
            "a window, and what is read for it",
            f"{_bytes(plan['window_bytes'])}, {_bytes(plan['read_bytes_a_window'])}",
        ),
        ("read a step", _bytes(plan["read_bytes_a_step"])),
        ("given to the other workers a step, by each", _bytes(plan["gradient_bytes"])),
        ("a step: computing", f"{plan['compute_s']:.3g} s"),
        ("a step: reading one request after another", f"{plan['one_by_one_s']:.3g} s"),
        ("a step: requests in flight, so that it does not wait", f"{plan['requests_in_flight']:.1f}"),
        ("a step: exchange", f"{plan['exchange_s']:.3g} s"),
        ("requests to the store a second", f"{plan['requests_per_s']:,.0f}"),
        ("bytes from the store a second", _bytes(plan["store_bytes_per_s"])),
        ("steps until each training value was forecast once", f"{plan['steps_a_pass']:,.0f}"),
        ("worker hours for that, computing", f"{plan['worker_hours_a_pass']:,.1f}"),
        ("a checkpoint", _bytes(plan["checkpoint_bytes"])),
        ("a checkpoint: training stands still", f"{plan['checkpoint_stall_s']:.3g} s"),
        ("a checkpoint: written in the background in", f"{plan['checkpoint_write_s']:.3g} s"),
        ("a checkpoint: read by each worker in", f"{plan['checkpoint_read_s']:.3g} s"),
        ("a checkpoint: read by a worker at most, with one worker less", _bytes(plan["resized_read_bytes"])),
        ("opening the data", f"{plan['open_s']:.3g} s"),
        ("a failure every", f"{plan['between_failures_s'] / 3600:.3g} h"),
        ("recovery from it", f"{plan['recovery_s']:.3g} s"),
        ("goodput", f"{plan['goodput']:.1%}"),
        (
            f"goodput with a checkpoint every {plan['best_checkpoint_every_s']:.0f} s, the best",
            f"{plan['best_goodput']:.1%}",
        ),
    ):
        table.add_row(name, value)
    return table


def as_limits(plan: dict[str, Any]) -> Table:
    """Loads, the largest first."""
    table = Table("what gives way first", "load", "", left=[2])
    for row in plan["limits"]:
        table.add_row(row["part"], f"{row['load']:.2f}", row["words"])
    return table


def _bytes(count: float) -> str:
    units = ("B", "kB", "MB", "GB", "TB")
    thousands = min(int(math.log10(max(count, 1)) / 3), len(units) - 1)
    return f"{count / 1000**thousands:.3g} {units[thousands]}"
