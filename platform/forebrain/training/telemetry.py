"""Where a run's events go: metrics.jsonl, TensorBoard, and lines that a person can follow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from forebrain.console import Follower, of
from forebrain.training.run_folder import RunFolder

Event = dict[str, Any]

_OF_SYSTEM = (
    "units_x_frames_per_s", "step_s", "wait_s", "communication_s", "bytes_given", "memory_bytes",
)  # fmt: skip


class MetricsLog:
    """Keeps step and validation events in the run folder, and as scalars for TensorBoard.

    Written just before a checkpoint is committed, so that it holds what a resumed run goes on from: rows of
    steps that were lost are dropped when they are done again.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._rows: list[Event] = []
        self._board: Any = None

    def __call__(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "start":
            self._board = tensorboard_writer(self._run, purge_step=event["step"] + 1)
            self._rows = [row for row in self._run.read_metrics() if row["step"] <= event["step"]]
        if kind in ("step", "validation", "checkpoint"):
            self._rows.append(event)
            self._scalars(event)
        if kind in ("committing", "stopped", "end"):
            # Committing is told in another thread, while this one adds rows.
            self._run.write_metrics(list(self._rows))
            if self._board:
                self._board.flush()

    def _scalars(self, event: Event) -> None:
        if self._board is None:
            return
        step = event["step"]
        if event["kind"] == "step":
            for name in ("loss", "gradient_norm", "learning_rate"):
                self._board.add_scalar(f"train/{name}", event[name], step)
            for name in _OF_SYSTEM:
                self._board.add_scalar(f"system/{name}", event[name], step)
            return
        if event["kind"] == "checkpoint":
            for name in ("stall_s", "goodput"):
                self._board.add_scalar(f"system/{name}", event[name], step)
            return
        for name in ("score", "mse", "mae", "correlation"):
            if event[name] is not None:
                self._board.add_scalar(f"validation/{name}", event[name], step)
        for horizon, score in enumerate(event["by_horizon"]["score"]["value"], start=1):
            if score is not None:
                self._board.add_scalar(f"validation_score_by_horizon/{horizon:02d}", score, step)
        for session, score in event["by_session"].items():
            if score is not None:
                self._board.add_scalar(f"validation_score_by_session/{session}", score, step)


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
        handler = getattr(self, f"_{event['kind']}", None)
        if handler:
            handler(event)

    def _start(self, event: Event) -> None:
        if self._steps:
            self._console.print(f"A worker was lost. Going on after step {event['step']:,}.")
            return
        self._steps = event["steps"]
        self._follow("step", event["step"], self._steps)
        table = Table("data set", title="What it trains on", title_justify="left", box=None, pad_edge=False)
        for name in ("sessions", "units", "windows", "share"):
            table.add_column(name, justify="right")
        for row in event["mixture"]:
            table.add_row(
                row["dataset"],
                *(f"{row[name]:,}" for name in ("sessions", "units", "windows")),
                f"{row['share']:.1%}",
            )
        self._console.print(table)
        for part, sessions in event["without_windows"].items():
            if sessions:
                shown = ", ".join(sessions[:8]) + (f" and {len(sessions) - 8} more" if sessions[8:] else "")
                self._console.print(f"no stretch is long enough for a {part} window in: {shown}")
        self._console.print(
            f"{event['backbone_parameters']:,} backbone parameters on {event['device']}, "
            f"{event['rows_each_step']:,} rows a step, {event['steps_each_epoch']:,} steps an epoch."
        )
        if event["step"]:
            self._console.print(f"Resuming after step {event['step']:,}.")

    def _step(self, event: Event) -> None:
        self._follow(
            "step",
            event["step"],
            self._steps,
            f"loss {event['loss']:.4f}  {event['units_x_frames_per_s'] / 1e6:.2f} M units x frames/s  ",
        )

    def _stopped(self, event: Event) -> None:
        self._console.print(f"Saved after step {event['step']:,} and stopping: {event['reason']}.")

    def _validation(self, event: Event) -> None:
        score = "undefined" if event["score"] is None else f"{event['score']:.4f}"
        self._console.print(
            f"step {of(event['step'], self._steps)}  validation score {score} (0 is copy, 1 is perfect)"
        )


def tensorboard_writer(run: RunFolder, purge_step: int | None = None) -> Any:
    """A summary writer in the run folder; None where TensorBoard is not installed (a lab's laptop).

    Args:
        purge_step: steps from here on, written by an attempt that was lost, are not shown.
    """
    try:
        from forebrain.training.board import Board
    except ImportError:
        return None
    return Board(run.folder, purge_step)
