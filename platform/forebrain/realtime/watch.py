"""The changes in a stream, said as they happen: rate, drift, gaps, restarts, silence."""

from __future__ import annotations

import time
from collections.abc import Callable

from forebrain.realtime.forecaster import LiveForecaster

QUIET_S = 10.0  # a kind of event is said again no sooner; meanwhile it is counted
SILENT_S = 2.0  # without a frame, or ten times what is usual between two


class Watch:
    """Compares a forecaster with how it was.

    Args:
        live: as it is now.
        clock: seconds that only run forward.
    """

    def __init__(self, live: LiveForecaster, clock: Callable[[], float] = time.monotonic) -> None:
        self._live, self._clock = live, clock
        self._counts = {name: self._count(name) for name in _COUNTED}
        self._flags = {"rate": False, "drift": False, "copy": False, "coverage": False}
        self._said_at: dict[str, float] = {}
        self._heard_at: float | None = None
        self._heard = self._num_heard()
        self._is_silent = False

    def news(self) -> list[str]:
        """Sentences on what has changed since the last call; mostly none."""
        live, found = self._live, self._silence()
        for name, words in _COUNTED.items():
            new = self._count(name) - self._counts[name]
            if name == "missing_frames" and self._count("gaps") != self._counts["gaps"]:
                continue  # the gap is said
            if new and self.may_say(name):
                self._counts[name] = self._count(name)
                if name == "gaps":
                    self._counts["missing_frames"] = live.counts["missing_frames"]
                index = live.arrivals.index
                where = "before its first frame" if index is None else f"at frame {index}"
                found.append(f"{words} ({where}{f', {new} times' if new > 1 else ''})")
        flags = {"rate": live.arrivals.rate_differs, "drift": live.units_drift}
        if live.source in ("model", "copy"):  # a late frame says nothing of either
            flags["copy"] = live.source == "copy"
        flags["coverage"] = live.coverage_alarm
        sentences = {"rate": self._rate, "drift": self._drift, "copy": self._copy, "coverage": self._coverage}
        for name, flag in flags.items():
            if flag != self._flags[name] and self.may_say(name):
                self._flags[name] = flag
                found.append(sentences[name](flag))
        return found

    def may_say(self, name: str) -> bool:
        """Whether the last event of a kind is long enough ago; if so, this is one."""
        now = self._clock()
        if now - self._said_at.get(name, -QUIET_S) < QUIET_S:
            return False
        self._said_at[name] = now
        return True

    def _count(self, name: str) -> int:
        jumps = self._live.counts["time_jumps"] if name == "gaps" else 0  # said by themselves
        return self._live.counts[name] - jumps

    def _silence(self) -> list[str]:
        """Says when frames no longer come, and when they come again."""
        now, heard = self._clock(), self._num_heard()
        if heard != self._heard or self._heard_at is None:
            silent_s = 0.0 if self._heard_at is None else now - self._heard_at
            was_silent, self._is_silent = self._is_silent, False
            self._heard, self._heard_at = heard, now
            return [f"frames come again, after {silent_s:.3g} s"] if was_silent else []
        rate_hz = self._live.arrivals.measured_hz or self._live.arrivals.rate_hz
        patience_s = max(SILENT_S, 10 / rate_hz if rate_hz else 0.0)
        if self._is_silent or not heard or now - self._heard_at < patience_s:
            return []
        self._is_silent = True
        return [
            f"no frame has come for {now - self._heard_at:.3g} s (after frame {self._live.arrivals.index})"
        ]

    def _num_heard(self) -> int:
        return sum(self._live.counts[name] for name in ("frames", "late", "repeated", "refused"))

    def _rate(self, differs: bool) -> str:
        arrivals = self._live.arrivals
        if not differs:
            return "frames come at the expected rate again"
        return f"frames come at {arrivals.measured_hz:.4g} Hz; the model expects {arrivals.rate_hz:.4g} Hz"

    def _drift(self, drifts: bool) -> str:
        if not drifts:
            return "the stream is again as the interface was fitted to"
        return (
            f"drift: {self._live.drifted_units} of {self._live.num_units} units have left what the interface "
            "was fitted on"
        )

    def _copy(self, is_copy: bool) -> str:
        return "copy's forecast is given" if is_copy else "the model's forecast is given again"

    def _coverage(self, has_left: bool) -> str:
        intervals = self._live.intervals
        assert intervals is not None and intervals.coverage is not None
        now = f"80 % intervals cover {100 * intervals.coverage:.0f} % of what comes"
        return f"coverage: {now}; do not rely on them" if has_left else f"{now} again"


_COUNTED = {
    "gaps": "frames are missing: the window starts anew",
    "time_jumps": "time went on while no frame was counted: the window starts anew",
    "missing_frames": "a few frames are missing: the last values are held",
    "restarts": "the sender counts anew: the window starts anew",
    "resets": "the sender begins a new run",
    "late": "a frame came late: it changes nothing",
    "repeated": "a frame came again: it changes nothing",
    "skipped": "frames come faster than they can be forecast: only the newest is",
    "vanished": "a unit has no value any more: it holds its last one",
    "appeared": "a unit has a value again: its past is not known",
    "unknown_units": "a name is none of the model's: its value is left out",
    "not_finite": "the model's forecast was not finite: copy's was given",
    "lost_records": "a frame was not recorded, or is lost from the record",
}
