"""Listeners to a run's events: metrics.jsonl, TensorBoard, and lines that a person can follow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rich.console import Console

from forebrain.console import Follower, Table, of
from forebrain.training.events import (
    CheckpointSaved,
    Committing,
    Ended,
    Event,
    Started,
    StepDone,
    Stopped,
    Validated,
    metrics_row,
)
from forebrain.training.run_folder import RunFolder

_OF_TRAINING = ("loss", "gradient_norm", "learning_rate")
_OF_SYSTEM = (
    "units_x_frames_per_s", "step_s", "wait_s", "communication_s", "bytes_given", "memory_bytes",
)  # fmt: skip


class MetricsLog:
    """Keeps steps, validations and checkpoints in the run folder, and as scalars for TensorBoard.

    They are written just before a checkpoint is committed, so the file holds what a resumed run goes on from;
    rows of steps that were lost are dropped when they are done again.

    Args:
        run: the run folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run, self._metrics = run, run.metrics()
        # Filled by the thread that trains, emptied by the one that saves.
        self._rows: deque[dict[str, Any]] = deque()
        self._board: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._board = tensorboard_writer(self._run, purge_step=event.step + 1)
            self._metrics.rewind(event.step)
        row = metrics_row(event)
        if row is not None:
            self._rows.append(row)
            self._add_scalars(event)
        if isinstance(event, Committing | Stopped | Ended):
            self._metrics.append([self._rows.popleft() for _ in range(len(self._rows))])
            if self._board:
                self._board.flush()
        if isinstance(event, Stopped | Ended):
            self._metrics.join()

    def _add_scalars(self, event: Event) -> None:
        if self._board is None:
            return
        match event:
            case StepDone():
                scalars = {
                    **{f"train/{name}": getattr(event, name) for name in _OF_TRAINING},
                    **{f"system/{name}": getattr(event, name) for name in _OF_SYSTEM},
                }
            case CheckpointSaved():
                scalars = {"system/stall_s": event.stall_s, "system/goodput": event.goodput}
            case Validated():
                values = event.scores.to_json()
                by_horizon = enumerate(values["by_horizon"]["score"]["value"], start=1)
                scalars = {
                    **{f"validation/{name}": values[name] for name in ("score", "mse", "mae", "correlation")},
                    **{f"validation_score_by_horizon/{step:02d}": score for step, score in by_horizon},
                    **{f"validation_score_by_session/{name}": own for name, own in event.by_session.items()},
                }
            case _:
                return
        for name, value in scalars.items():
            if value is not None:
                self._board.add_scalar(name, value, event.step)


class ConsoleLog:
    """Prints a run's events as lines: the mixture, a line every few seconds, a line each validation.

    Args:
        console: where to.
        every_s: seconds between progress lines.
        clock: seconds, for tests.
    """

    def __init__(
        self, console: Console, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._follow = Follower(console, every_s, clock)
        self._steps = 0

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._show_start(event)
            case StepDone():
                speed = f"{event.units_x_frames_per_s / 1e6:.2f} M units x frames/s"
                self._follow("step", event.step, self._steps, f"loss {event.loss:.4f}  {speed}  ")
            case Validated():
                score = "undefined" if event.score is None else f"{event.score:.4f}"
                step = of(event.step, self._steps)
                self._console.print(f"step {step}  validation score {score} (0 is copy, 1 is perfect)")
            case Stopped():
                self._console.print(f"Saved after step {event.step:,} and stopping: {event.reason}.")

    def _show_start(self, event: Started) -> None:
        if self._steps:
            self._console.print(f"A worker was lost. Going on after step {event.step:,}.")
            return
        self._steps = event.steps
        self._follow("step", event.step, self._steps)
        table = Table("data set", "sessions", "units", "windows", "share", title="What it trains on")
        for row in event.mixture:
            counts = (f"{count:,}" for count in (row.sessions, row.units, row.windows))
            table.add_row(row.dataset, *counts, f"{row.share:.1%}")
        self._console.print(table)
        for part, sessions in event.without_windows.items():
            if sessions:
                shown = ", ".join(sessions[:8]) + (f" and {len(sessions) - 8} more" if sessions[8:] else "")
                self._console.print(f"no stretch is long enough for a {part} window in: {shown}")
        self._console.print(
            f"{event.backbone_parameters:,} backbone parameters on {event.device}, "
            f"{event.rows_each_step:,} rows a step, {event.steps_each_epoch:,} steps an epoch."
        )
        if event.step:
            self._console.print(f"Resuming after step {event.step:,}.")


def tensorboard_writer(run: RunFolder, purge_step: int | None = None) -> Any:
    """A summary writer in the run folder; None where TensorBoard is not installed (a lab's laptop).

    Args:
        purge_step: steps from here on, written by an attempt that was lost, are not shown.
    """
    try:
        from forebrain.training.board import Board
    except ImportError:
        return None
    return Board(run.tensorboard, purge_step)
