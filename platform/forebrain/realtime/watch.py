"""The changes in a stream, said as they happen: rate, drift, gaps, restarts."""

from __future__ import annotations

import time
from collections.abc import Callable

from forebrain.realtime.forecaster import LiveForecaster

QUIET_S = 10.0  # a kind of event is said again no sooner; meanwhile it is counted


class Watch:
    """Compares a forecaster with how it was.

    Args:
        live: as it is now.
        clock: seconds that only run forward.
    """

    def __init__(self, live: LiveForecaster, clock: Callable[[], float] = time.monotonic) -> None:
        self._live, self._clock = live, clock
        self._counts = {name: live.counts[name] for name in _COUNTED}
        self._flags = {"rate": False, "drift": False, "coverage": False}
        self._said_at: dict[str, float] = {}

    def news(self) -> list[str]:
        """Sentences on what has changed since the last call; mostly none."""
        live, found = self._live, []
        for name, words in _COUNTED.items():
            new = live.counts[name] - self._counts[name]
            if new and self._may_say(name):
                self._counts[name] = live.counts[name]
                found.append(f"{words} (at frame {live.arrivals.index}{f', {new} times' if new > 1 else ''})")
        for name, flag, sentence in (
            ("rate", live.arrivals.rate_differs, self._rate),
            ("drift", live.units_drift, self._drift),
            ("coverage", live.coverage_alarm, self._coverage),
        ):
            if flag != self._flags[name] and self._may_say(name):
                self._flags[name] = flag
                found.append(sentence(flag))
        return found

    def _may_say(self, name: str) -> bool:
        now = self._clock()
        if now - self._said_at.get(name, -QUIET_S) < QUIET_S:
            return False
        self._said_at[name] = now
        return True

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

    def _coverage(self, has_left: bool) -> str:
        intervals = self._live.intervals
        assert intervals is not None and intervals.coverage is not None
        now = f"80 % intervals cover {100 * intervals.coverage:.0f} % of what comes"
        return f"coverage: {now}; do not rely on them" if has_left else f"{now} again"


_COUNTED = {
    "gaps": "frames are missing: the window starts anew",
    "restarts": "the sender counts anew: the window starts anew",
    "not_finite": "the model's forecast was not finite: copy's was given",
}
