"""Where a frame belongs: told from its index, else from its time, else from the order of arrival."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from itertools import accumulate
from statistics import fmean, median
from typing import Any, Literal, NamedTuple

import numpy as np

from forebrain.errors import FrameError
from forebrain.sessions.clock import MAX_TIME_GAP, MIN_ARRIVALS, arrives_at, pause_after
from forebrain.sessions.clock import PAUSE_S as PAUSE_S
from forebrain.sessions.repair import MAX_RATE_ERROR, MIN_GAP_FRAMES

RATE_INTERVALS = 64  # the rate is that of this many frame intervals
MIN_RATE_INTERVALS = 16
FIRST_INTERVALS = 4  # after so many a pause is told already, though not yet a frame or two that are missing
FEW_STEPS = 5  # whose median tells how far apart frames come
ARRIVALS = 256  # by which a rate is told of frames without times
RATE_NOISE = 0.005  # a measured rate so near to the expected one is that
# By their times, frames are counted by how late each comes. What is late is forgotten within 8 frames, so
# that a rate a little off makes none missing; what is early within 128, and of a burst all but ten frames at
# once, so that of frames which jitter, have a coarse clock or come in blocks the latest ones are in time.
LATE_FRAMES, EARLY_FRAMES, MOST_EARLY = 8, 128, 10.0
MAX_INDEX = 2**62
# No stream pauses for twelve days: times that jump by more are no seconds, or of another clock.
MAX_TIME_STEP_S = 1e6
# Times whose first steps are so many times those expected, in powers of ten and to a fifth, are in these.
PARTS = {"milliseconds": 3, "microseconds": 6, "nanoseconds": 9}
MAX_PART_ERROR = 0.2
# A step of more frames than these may be one of such times.
LONG_STEP = 100


class Arrival(NamedTuple):
    """The place of a frame in the stream.

    Attributes:
        kind: `next` (it is new), `repeated` (the newest again), `late` (older than the newest), or `restart`
            (the sender counts anew).
        missing: frames that should have come before it and did not.
        has_jumped: it came later, by so many frames' time as make a gap, than index or order tell: its sender
            took none for a while, and counts on.
    """

    kind: Literal["next", "repeated", "late", "restart"]
    missing: int = 0
    has_jumped: bool = False


class Arrivals:
    """Follows the indices and times of a stream.

    A sender that starts again counts from an earlier index, or its clock was set back: all its frames look
    late. After `MIN_GAP_FRAMES` late frames in a row, each after the one before, they are taken as a new
    count. Times that jump by more than `MAX_TIME_STEP_S` are refused; so many in a row with the usual steps
    between them are another clock, and without indices a new count too. Times that look like milliseconds, or
    smaller parts of a second, from the first ones on are refused as long as they do.

    Args:
        rate_hz: that the model expects, or None where it is not known.
    """

    def __init__(self, rate_hz: float | None) -> None:
        self.rate_hz = rate_hz
        self._intervals: deque[float] = deque(maxlen=RATE_INTERVALS)  # s, where by index: of one frame
        self._arrived: deque[tuple[float, int]] = deque(maxlen=ARRIVALS)  # seconds and index
        self._steps: deque[float] = deque(maxlen=FEW_STEPS)  # s, between frames that did not wait, each
        self.reset()

    def reset(self) -> None:
        """Forgets the stream: the next frame is the first."""
        self.index: int | None = None
        self.time_s: float | None = None
        self._forget_rate()
        self._arrived.clear()
        self._in_time: tuple[float, int] | None = None  # as `_arrived`, the newest that did not wait
        self._block = 0.0, 0  # the first of the frames that came at once with it
        self._steps.clear()
        self._late_from: float | None = None  # positions of the first and the last late frame in a row
        self._late_at: float | None = None
        self._late_run = 0
        self._jumped_to: float | None = None
        self._jumped_run = 0
        self._refused: tuple[int | None, float] | None = None  # the newest frame, if for what its time counts

    def __copy__(self) -> Arrivals:
        new = object.__new__(Arrivals)
        new.__dict__.update(self.__dict__)
        new._intervals, new._arrived = self._intervals.copy(), self._arrived.copy()
        new._steps = self._steps.copy()
        return new

    def judge(self, index: int | None, time_s: float | None, is_new: bool = False) -> Arrival:
        """Places a frame, and remembers it unless it is late or repeated.

        Args:
            index: counts the frames of the stream; None where the sender does not count.
            time_s: when the frame was taken, seconds on any clock that runs forward; None where not known.
            is_new: it is not the newest frame again, though its time may be the same: as of a chunk of
                frames, or by a coarse clock.

        Raises:
            FrameError: an index that is no whole number from 0 on, or a time that is not finite, jumps, or
                counts no seconds.
        """
        if index is not None and (isinstance(index, bool) or not isinstance(index, int | np.integer)):
            raise FrameError(f"the frame's index is {index!r}; expected a whole number.")
        if index is not None and not 0 <= index < MAX_INDEX:
            raise FrameError(f"the frame's index is {index}; expected 0 or more and below 2^62.")
        if time_s is not None and not math.isfinite(time_s):
            raise FrameError(f"the frame's time is {time_s}; expected seconds, or none.")
        if time_s is not None:
            self._require_seconds(index, time_s)
        is_new_count = self._has_changed_clocks(time_s) and index is None
        self._refused = None
        arrival = Arrival("restart") if is_new_count else self._place(index, time_s, is_new)
        if arrival.kind == "next":
            if index is not None and self._has_jumped(arrival.missing + 1, time_s):
                arrival = arrival._replace(has_jumped=True)
            self._measure(0 if index is None else arrival.missing, time_s)
        if arrival.kind in ("next", "restart"):
            self.index = self._next_index(arrival) if index is None else int(index)
            self.time_s = time_s
        return arrival

    def note_arrival(self, at_s: float, is_behind: bool = False) -> bool:
        """Measures the rate of frames that bring no times, by when the newest came.

        Args:
            at_s: seconds on any clock that only runs forward.
            is_behind: newer frames wait already. They may all have waited, so a pause is told by the last.

        Returns:
            Whether it came after a pause that neither the index nor a block of frames before it explains.
        """
        if self.index is None:
            return False
        if self._arrived and self.index <= self._arrived[-1][1]:
            self._arrived.clear()
            self._in_time = None
        paused = not is_behind and self._pauses(at_s, self.index)
        if self._arrived and at_s - self._arrived[-1][0] > PAUSE_S:
            self._arrived.clear()
        self._arrived.append((at_s, self.index))
        return paused

    def _pauses(self, at_s: float, index: int) -> bool:
        """Whether no frame came for longer than `pause_after`, until this one, which did not wait."""
        before, self._in_time = self._in_time, (at_s, index)
        if before is None:
            self._block = at_s, index
            return False
        step_s, frames = at_s - before[0], index - before[1]
        # Not by the last step alone: a frame may be late before a pause, too.
        usual_s = max(1 / self.rate_hz if self.rate_hz else 0.0, median(self._steps) if self._steps else 0.0)
        self._steps.append(step_s / frames)
        began_s, first = self._block
        early = before[1] - first if before[0] - began_s <= PAUSE_S else 0
        if step_s >= usual_s * frames / 2:
            self._block = at_s, index
        if not usual_s or step_s <= pause_after(usual_s):
            return False
        return step_s / usual_s - frames - early >= MIN_GAP_FRAMES

    @property
    def measured_hz(self) -> float | None:
        """Frames a second: of the last ones by their times, else by their arrival; None until enough came."""
        if len(self._intervals) >= MIN_RATE_INTERVALS:
            return self._rate_by_times()
        if len(self._arrived) >= MIN_ARRIVALS:
            (began, first), (ended, last) = self._arrived[0], self._arrived[-1]
            return (last - first) / (ended - began) if ended > began else None
        return None

    @property
    def rate_differs(self) -> bool:
        """Whether frames come at another rate than the model expects."""
        measured = self.measured_hz
        if measured is None or self.rate_hz is None:
            return False
        if len(self._intervals) >= MIN_RATE_INTERVALS:
            return abs(measured / self.rate_hz - 1) > MAX_RATE_ERROR
        return not arrives_at(measured, self.rate_hz)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to place the next frame as this would, in plain values."""
        return {
            "index": self.index, "time_s": self.time_s,
            "intervals_s": list(self._intervals), "late_frames": self._late_frames,
        }  # fmt: skip

    def restore(
        self,
        index: int | None,
        time_s: float | None,
        intervals_s: Iterable[float] = (),
        late_frames: float = 0.0,
    ) -> None:
        """Goes on where another left off."""
        is_sound = index is None or index < MAX_INDEX
        self.index, self.time_s = index if is_sound else None, time_s
        self._intervals.extend(intervals_s)
        self._late_frames = late_frames

    def _forget_rate(self) -> None:
        self._intervals.clear()
        self._late_frames = 0.0  # than expected; below 0 where it came earlier

    def _has_changed_clocks(self, time_s: float | None) -> bool:
        """Whether times are of another clock from here on. Raises FrameError where they may be no seconds."""
        if time_s is None or self.time_s is None or abs(time_s - self.time_s) <= MAX_TIME_STEP_S:
            self._jumped_to, self._jumped_run = None, 0
            return False
        step_s = time_s - (self.time_s if self._jumped_to is None else self._jumped_to)
        follows = self._jumped_to is not None and 0 < step_s <= MAX_TIME_STEP_S
        self._jumped_run = self._jumped_run + 1 if follows else 1
        self._jumped_to = time_s
        if self._jumped_run >= MIN_GAP_FRAMES:
            self._jumped_to, self._jumped_run = None, 0
            self._forget_rate()
            self.time_s = None
            return True
        raise FrameError(
            f"the frame's time is {time_s:.6g}, the one before it was {self.time_s:.6g}; expected seconds on "
            f"one clock. {self._advice(step_s) or 'Divide nanoseconds by 1e9'}; a clock that has changed is "
            "followed after a few frames."
        )

    def _require_seconds(self, index: int | None, time_s: float) -> None:
        """Raises FrameError where times have counted parts of a second from the first ones on, and still do.
        Only of a stream's first steps that is asked: later ones are pauses, or another rate."""
        before, before_s = self.index, self.time_s
        if self._refused is not None and time_s > self._refused[1]:
            before, before_s = self._refused
        if self.rate_hz is None or before_s is None or len(self._intervals) != FIRST_INTERVALS:
            return
        frames = 1 if index is None or before is None else index - before
        if frames < 1 or (time_s - before_s) * self.rate_hz <= LONG_STEP * frames:
            return
        step_s = median(self._intervals)
        advice = self._advice(step_s)
        # All but one, before which a frame may be missing.
        if advice and sum(self._advice(each) == advice for each in self._intervals) >= FIRST_INTERVALS - 1:
            self._refused = index, time_s
            raise FrameError(
                f"the first frames' times are {step_s:.4g} apart, where the model expects "
                f"{1 / self.rate_hz:.4g}; expected seconds. {advice}."
            )

    def _advice(self, step_s: float) -> str | None:
        """What to do about times that step so far each frame; None if they count none of PARTS."""
        for part, power in PARTS.items():
            if self.rate_hz and abs(step_s * self.rate_hz / 10**power - 1) <= MAX_PART_ERROR:
                return f"Divide {part} by 1e{power}"
        return None

    def _place(self, index: int | None, time_s: float | None, is_new: bool) -> Arrival:
        if index is not None and self.index is not None:
            return self._by_position(index, self.index, index - self.index - 1)
        if index is None and time_s is not None and self.time_s is not None:
            if is_new and time_s == self.time_s:
                self._late_run, self._late_frames = 0, self._late_frames - 1
                return Arrival("next")
            missing = self._frames_between(time_s - self.time_s) if time_s > self.time_s else 0
            return self._by_position(time_s, self.time_s, missing)
        return Arrival("next")

    def _by_position(self, at: float, newest: float, missing: int) -> Arrival:
        if at >= newest:
            # A run that was stopped within its first frames: the new one's count runs on past the old one's.
            is_anew = self._late_run > 0 and self._late_from in (0, 1) and at == (self._late_at or 0) + 1
            if at == newest:
                self._late_run, self._late_at = (self._late_run + 1, at) if is_anew else (0, None)
                return Arrival("repeated")
            self._late_run = 0
            return self._restarted() if is_anew else Arrival("next", missing)
        follows = self._late_at is not None and at > self._late_at
        self._late_run = self._late_run + 1 if follows and self._late_run else 1
        if self._late_run == 1:
            self._late_from = at
        self._late_at = at
        if self._late_run < MIN_GAP_FRAMES:
            return Arrival("late")
        self._late_run = 0
        return self._restarted()

    def _restarted(self) -> Arrival:
        self._forget_rate()
        return Arrival("restart")

    def _rate_by_times(self) -> float | None:
        """Frames a second, by the median or the mean interval, whichever is nearer to what the model expects:
        frames that do not come leave the median as it was, and bursts and coarse clocks the mean."""
        typical, mean = median(self._intervals), self._mean_interval()
        rates = [1 / each for each in (typical, mean) if each]
        if self.rate_hz is None or len(rates) < 2:
            return rates[0] if rates else None
        expected = self.rate_hz
        return min(rates, key=lambda rate_hz: abs(rate_hz / expected - 1))

    def _mean_interval(self) -> float | None:
        """Seconds, without pauses. Frames of one time count towards the step to the next time; those before
        the first step may not be all of theirs."""
        steps = [place for place, interval_s in enumerate(self._intervals) if interval_s > 0]
        if not steps:
            return None
        pause_s = pause_after(median(self._intervals))
        whole = list(self._intervals)[steps[0] + 1 : steps[-1] + 1]
        return fmean(short) if (short := [each for each in whole if each <= pause_s]) else None

    def _counting_rate(self) -> float | None:
        """Frames a second to count missing ones by: the expected rate, unless the measured one is another."""
        measured = self._rate_by_times() if len(self._intervals) >= FIRST_INTERVALS else None
        if measured is None or self.rate_hz is None:
            return measured
        is_burst = measured > MAX_TIME_GAP * self.rate_hz
        return self.rate_hz if is_burst or abs(measured / self.rate_hz - 1) <= RATE_NOISE else measured

    def _frames_between(self, interval_s: float) -> int:
        """Frames that are missing in an interval, by what intervals usually are and how late the last frames
        came: one that comes late and the next one in time are none."""
        rate_hz = self._counting_rate()
        if rate_hz is None:
            return 0
        if len(self._intervals) < MIN_RATE_INTERVALS:
            frames = interval_s * rate_hz
            return round(frames) - 1 if frames > MIN_GAP_FRAMES else 0
        late = self._late_frames + interval_s * rate_hz - 1
        missing = round(late) if late > MAX_TIME_GAP - 1 else 0
        late -= missing
        self._late_frames = max(late * (1 - 1 / (LATE_FRAMES if late > 0 else EARLY_FRAMES)), -MOST_EARLY)
        return missing

    def _has_jumped(self, frames: int, time_s: float | None) -> bool:
        """Whether time went on by MIN_GAP_FRAMES frames more than the `frames` that the index tells, which
        neither the newest steps, of another rate, nor a burst just before, of which this is the end, explain.
        """
        rate_hz = self._counting_rate()
        if rate_hz is None or time_s is None or self.time_s is None or self.index is None:
            return False
        newest_s = median(list(self._intervals)[-FIRST_INTERVALS:])
        interval_s = newest_s if newest_s * rate_hz > MAX_TIME_GAP else 1 / rate_hz
        late = (time_s - self.time_s) / interval_s - frames
        if late < MIN_GAP_FRAMES:
            return False
        since = accumulate(each / interval_s - 1 for each in reversed(self._intervals))
        return late + min(0.0, *since) >= MIN_GAP_FRAMES

    def _measure(self, missing: int, time_s: float | None) -> None:
        if time_s is None or self.time_s is None or time_s < self.time_s:
            return
        self._intervals.append((time_s - self.time_s) / (missing + 1))

    def _next_index(self, arrival: Arrival) -> int:
        return 0 if self.index is None else self.index + arrival.missing + 1
