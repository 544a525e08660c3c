"""Frame times: the interval between frames, and where time jumps, however coarsely the times are written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_TIME_GAP = 1.5  # frame intervals; a longer one breaks the segment
# Where frames have no times their arrival tells the rate. They may come in chunks, so it takes longer, and it
# is told less exactly.
MIN_ARRIVALS = 64
MAX_ARRIVAL_RATE_ERROR = 0.2
PAUSE_S = 2.0  # a sender that is silent for so long pauses; its rate by arrival is measured anew
PAUSE_FRAMES = 10  # usual intervals; a step longer than these and PAUSE_S says nothing of the rate
_COARSE = 0.2  # times written in steps of so much of an interval are rounded coarsely
_LAG = 20  # frames over which the interval of coarse times is taken
_NOISY = 0.05  # a median deviation of the intervals, relative to their median
_AROUND = 8  # frames on either side that tell a gap from one late time stamp
_SAME_RATE = 1e-3
_MIN_ROUNDED = 5  # uneven intervals, of which fewer may be anything


@dataclass(frozen=True, eq=False)
class FrameClock:
    """The clock of a recording, as its frame times tell it.

    Attributes:
        interval_s: between frames, outside of jumps.
        breaks: int64, frames at which time jumps: frames are missing before them, or the clock runs back.
        step_s: to which the times are rounded, 0 where that is fine.
        strays: int64, frames whose time alone lies off those around it, as a late or wrong stamp does.
        jitter: standard deviation of the intervals outside of jumps and strays beyond what rounding explains,
            relative to `interval_s`.
    """

    interval_s: float
    breaks: np.ndarray
    step_s: float
    strays: np.ndarray
    jitter: float

    @property
    def rate_hz(self) -> float:
        """Frames a second; a number of few digits where only the rounding of the times is between them."""
        rate = 1.0 / self.interval_s
        plain = float(f"{rate:.6g}")
        return plain if abs(plain / rate - 1) < 1e-9 else rate


def read_clock(time_s: np.ndarray) -> FrameClock | None:
    """The clock of frame times, seconds [T]; None where they are not finite or do not run forward.

    One late time stamp whose successor is on time is no gap, nor are equal times that rounding makes.
    """
    times = np.asarray(time_s, np.float64).ravel()
    intervals = np.diff(times)
    if intervals.size == 0 or not np.isfinite(times).all():
        return None
    step = _step(times)
    typical = float(np.median(intervals))
    noise = float(np.median(np.abs(intervals - typical)))
    is_coarse = _is_coarse(times, intervals, typical, step)
    if is_coarse or noise > _NOISY * typical:
        lag = min(_LAG, intervals.size)
        typical = float(np.median(times[lag:] - times[:-lag])) / lag
    if typical <= 0:
        return None
    rounding = step if is_coarse else 0.0
    suspects = np.flatnonzero((intervals > MAX_TIME_GAP * typical + rounding + noise) | (intervals <= 0)) + 1
    breaks = _breaks(times, suspects, typical, rounding + noise)
    is_jump = np.zeros(intervals.size, bool)
    is_jump[breaks - 1] = True
    inside = intervals[~is_jump]
    mean = _slope(times, breaks) if is_coarse else float(inside.mean()) if inside.size else typical
    # The median is the rate that the device was set to, unless rounding is what parts it from the mean.
    is_rounding = abs(mean - typical) <= step and abs(mean / typical - 1) > _SAME_RATE
    interval = mean if mean > 0 and (is_coarse or is_rounding or noise > _NOISY * typical) else typical
    is_jump[suspects - 1] = True
    usual = intervals[~is_jump]
    spread = float(usual.std()) if usual.size else 0.0
    strays = np.setdiff1d(suspects, breaks) if not is_coarse else suspects[:0]
    jitter = max(0.0, spread**2 - rounding**2 / 4) ** 0.5 / interval
    return FrameClock(interval, breaks, rounding, strays, jitter)


def pause_after(usual_s: float) -> float:
    """Seconds, the longest step that is no pause, where this is the usual one."""
    return max(PAUSE_S, PAUSE_FRAMES * usual_s)


def arrives_at(measured_hz: float, rate_hz: float) -> bool:
    """Whether frames that come at the one rate may be of the other."""
    return abs(measured_hz / rate_hz - 1) <= MAX_ARRIVAL_RATE_ERROR


def _slope(times: np.ndarray, breaks: np.ndarray) -> float:
    """The interval by one straight line through the times of each stretch, all of one slope."""
    top = bottom = 0.0
    for part in np.split(times, breaks):
        count = np.arange(part.size) - (part.size - 1) / 2
        top += float(count @ (part - part.mean()))
        bottom += float(count @ count)
    return top / bottom if bottom else 0.0


def _is_coarse(times: np.ndarray, intervals: np.ndarray, typical: float, step: float) -> bool:
    """Whether rounding is what makes the intervals of times uneven."""
    if typical <= 0:
        return step > 0
    if step <= _COARSE * typical:
        return False
    is_even = np.abs(intervals - typical) < 1e-6 * typical
    if is_even.mean() < 0.9:
        return True
    # A clock of even steps with a longer one now and then: frames are lost, unless that keeps it on a
    # straight line.
    if (~is_even).sum() < _MIN_ROUNDED:
        return False
    line = np.polyfit(np.arange(times.size), times - times[0], 1)
    off = times - times[0] - np.polyval(line, np.arange(times.size))
    return float(np.abs(off).max()) < 0.75 * step


def _step(times: np.ndarray) -> float:
    """The step of the grid that times lie on: a power of ten, or what single precision leaves; 0 for none."""
    shifted = times - times[0]
    largest = float(np.abs(times).max())
    for digits in range(10):
        scaled = times * 10.0**digits
        if np.abs(scaled - np.rint(scaled)).max() < 1e-4 and 10.0**-digits > 8 * np.spacing(largest):
            whole = np.rint(shifted * 10.0**digits).astype(np.int64)
            return float(np.gcd.reduce(whole)) / 10.0**digits if whole.any() else 0.0
    is_single = bool((times.astype(np.float32) == times).all())
    return float(np.spacing(np.float32(largest))) if is_single else 0.0


def _breaks(times: np.ndarray, suspects: np.ndarray, typical: float, slack: float) -> np.ndarray:
    """The frames among the suspects from which on times lie more than half an interval and `slack` off
    those before."""
    drift = times - typical * np.arange(times.size)
    edges = [0, *suspects.tolist(), times.size]
    found: list[int] = []
    last = 0
    for position, frame in enumerate(suspects.tolist(), start=1):
        if frame == last + 1 and found and found[-1] == last:
            before = drift[last:frame]
        else:
            before = drift[max(last, frame - _AROUND) : frame]
        after = drift[frame : min(times.size, frame + _AROUND)]
        # Beyond the next suspect lies another jump, unless so little lies before it that it may be jitter.
        if edges[position + 1] - frame > 1:
            after = drift[frame : min(edges[position + 1], frame + _AROUND)]
        shift = float(np.median(after) - np.median(before))
        if abs(shift) > (MAX_TIME_GAP - 1) * typical + slack:
            found.append(frame)
            last = frame
    return np.array(found, np.int64)
