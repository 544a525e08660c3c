"""Features of inputs: what was, and will be, done to the animal, around the last frame of a context.

An input's channel is taken apart first. An event stays as it is; a level also tells its square, when it
comes (from zero) and goes, and how fast it rises and falls in between, for many cells answer to a change and
not to a value. Each is then summed over raised cosines of its past, evenly spaced in the logarithm of
the lag: at full resolution just now, more and more coarsely up to the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring.window_source import WindowSource
from forebrain.sessions.inputs import Input

MEMORY_S = 30.0
MAX_FEATURES = 64
MAX_BASIS = 16
# Beyond a lag of so many seconds a feature is scaled down as the lag grows, and penalties weigh more on it.
FULL_LAG_S = 3.0
# What a channel is taken apart into; an event only ever is `event`.
PARTS_OF_LEVEL = ("level", "square", "onset", "offset", "rise", "fall")
# Encodings that are tried: parts of levels. `of_source` keeps events in each.
ENCODINGS: Mapping[str, tuple[str, ...]] = {
    "level": ("level",),
    "change": ("onset", "offset", "rise", "fall"),
    "both": ("level", "onset", "offset", "rise", "fall"),
    "curved": ("level", "square"),
}
# A part that differs from its mean by less than this share of the channel's range says nothing.
_LEAST_SPREAD = 1e-4
_MAX_WINDOWS = 512


class InputSource(WindowSource, Protocol):
    """Windows of sessions with inputs."""

    def inputs_of(self, session: int) -> Sequence[Input]:
        """The inputs that the session has."""

    def inputs(
        self, session: int, starts: np.ndarray, before: int, after: int, names: Sequence[str]
    ) -> np.ndarray:
        """float32 [B, before + after, D]: named inputs of windows that start at `starts` [B].

        The first `before` frames end with the last frame of the context, the others are of the horizon.
        Before its segment a level is held at the first value there and an event is zero.
        """


@dataclass(frozen=True, eq=False)
class InputFeatures:
    """Turns inputs into features of the frames from the last of a context to the end of a horizon.

    Of a source that has inputs, and start frames of windows:

        features = InputFeatures.of_source(source, ["odor"], encoding="both")
        inputs = source.inputs(0, starts, features.before, source.horizon, features.channels)
        known = features(inputs)                           # [B, 1 + H, F]: under a plan
        past = features(inputs[:, : features.before])      # [B, 1, F]: the past alone

    A feature of a frame reads that frame and those before it, never one after it. So the first, of the last
    frame of the context, is all that a forecast without a plan may use.

    Attributes:
        channels: names of the inputs, D.
        kinds: of each, `event`, `level` or `pattern`.
        parts: (position in `channels`, part) of each of the K series that are summed over lags.
        basis: float32 [M, n], weights of lags 0 ... M - 1 of each series.
        rate_hz: frames a second; 1 where unknown.
        low, high: float32 [D], the range of each input in training.
        mean, scale: float32 [F], of the features in training; the scale grows with the lag.
    """

    channels: tuple[str, ...]
    kinds: tuple[str, ...]
    parts: tuple[tuple[int, str], ...]
    basis: np.ndarray
    rate_hz: float
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @property
    def before(self) -> int:
        """How many frames of input are read up to the last of the context, that one included."""
        return len(self.basis) + 1

    @property
    def num_features(self) -> int:
        """F."""
        return len(self.parts) * self.basis.shape[1]

    @classmethod
    def of_source(
        cls,
        source: InputSource,
        names: Sequence[str],
        session: int = 0,
        *,
        encoding: str = "both",
        memory_s: float = MEMORY_S,
        starts: np.ndarray | None = None,
    ) -> Self | None:
        """Features that are fitted to what the inputs do in training; None where none changes there.

        Args:
            source: of the session's windows.
            names: of inputs; what never changes in training is left out.
            session: its number in the source.
            encoding: of `ENCODINGS`.
            memory_s: how far lags reach back, seconds; frames where the rate is unknown.
            starts: start frames of the windows that ranges and scales are found in; None for the training
                part.

        Raises:
            ConfigError: there are more changing inputs than features.
        """
        rate_hz = source.sessions[session].rate_hz or 1.0
        memory = max(2, round(memory_s * rate_hz))
        if starts is None:
            count = source.num_windows(session, "train")
            _, _, starts = source.read(session, "train", np.arange(0, count, -(-count // _MAX_WINDOWS) or 1))
        starts = starts[:: -(-len(starts) // _MAX_WINDOWS) or 1]
        if not len(starts) or not names:
            return None
        values = source.inputs(session, starts, memory + 1, source.horizon, names)
        known = {each.name: each for each in source.inputs_of(session)}
        flat = values.reshape(-1, values.shape[2])
        low, high = flat.min(axis=0), flat.max(axis=0)
        kept = [column for column in range(len(names)) if high[column] > low[column]]
        if not kept:
            return None
        channels = tuple(names[column] for column in kept)
        kinds = tuple(known[name].kind if name in known else "level" for name in channels)
        if len(kept) > MAX_FEATURES:
            raise ConfigError(
                f"{len(kept)} inputs change in the training part; expected at most {MAX_FEATURES}. Name "
                "those that matter with --inputs."
            )
        low, high = low[kept], high[kept]
        parts = _parts(values[..., kept], kinds, ENCODINGS[encoding], rate_hz)
        if len(parts) > MAX_FEATURES:  # no more than a series of each input, then
            parts = _parts(values[..., kept], kinds, ENCODINGS["level"], rate_hz)
        if not parts:
            return None
        basis = lag_basis(memory, min(MAX_BASIS, MAX_FEATURES // len(parts)))
        unscaled = cls(
            channels, kinds, parts, basis, rate_hz, low, high,
            np.zeros(1, np.float32), np.ones(1, np.float32),
        )  # fmt: skip
        features = unscaled(values[..., kept]).reshape(-1, unscaled.num_features)
        mean, spread = (of(axis=0, dtype=np.float64) for of in (features.mean, features.std))
        # Each part has a unit of its own: amperes beside ones and zeros are no rounding error of theirs.
        largest = np.repeat(spread.reshape(len(parts), -1).max(axis=1), basis.shape[1])
        scale = np.where(spread > 1e-6 * largest, spread, np.inf)
        lag_s = (np.arange(memory) @ basis) / basis.sum(axis=0) / rate_hz
        scale *= np.tile(1 + lag_s / FULL_LAG_S, len(parts))
        return cls(
            channels, kinds, parts, basis, rate_hz, low, high,
            mean.astype(np.float32), scale.astype(np.float32),
        )  # fmt: skip

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """float32 [B, 1 + A, F], features of the last frame of the context and the A frames after it.

        Args:
            inputs: float32 [B, before + A, D], in the order of `channels`.

        Raises:
            ConfigError: the inputs have another shape.
        """
        if inputs.ndim != 3 or inputs.shape[1] < self.before or inputs.shape[2] != len(self.channels):
            raise ConfigError(
                f"inputs have shape {inputs.shape}; expected [windows, {self.before} frames up to the last "
                f"of the context and those that are planned, {len(self.channels)} inputs: "
                f"{', '.join(self.channels)}]."
            )
        series = self._series(inputs)  # [B, M + A, K]
        memory = len(self.basis)
        num_frames = series.shape[1] - memory + 1
        windows = np.lib.stride_tricks.sliding_window_view(series, memory, axis=1)  # [B, 1 + A, K, M]
        features = (windows @ self._newest_last).reshape(len(inputs), num_frames, -1)
        scaled: np.ndarray = (features - self.mean) / self.scale
        return scaled.astype(np.float32, copy=False)

    @cached_property
    def _newest_last(self) -> np.ndarray:
        """The basis in the order of frames."""
        return np.ascontiguousarray(self.basis[::-1])

    def outside(self, inputs: np.ndarray) -> list[str]:
        """Names of the inputs that leave the range they had in training.

        Args:
            inputs: [..., D].
        """
        flat = inputs.reshape(-1, len(self.channels))
        margin = 1e-5 * (self.high - self.low)
        is_outside = ((flat < self.low - margin) | (flat > self.high + margin)).any(axis=0)
        return [name for name, found in zip(self.channels, is_outside, strict=True) if found]

    def _series(self, inputs: np.ndarray) -> np.ndarray:
        """The series that lags are taken of, [B, T - 1, K] of inputs [B, T, D]: the first has no change."""
        taken = [taken_apart(inputs[..., column], part, self.rate_hz) for column, part in self.parts]
        return np.stack(taken, axis=-1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays among the fields, for a safetensors file."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def record(self) -> dict[str, Any]:
        """The other fields, plain and JSON-able."""
        return {
            "channels": list(self.channels),
            "kinds": list(self.kinds),
            "parts": [list(part) for part in self.parts],
            "rate_hz": self.rate_hz,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], where: str) -> Self:
        """The features whose `arrays` and `record` these are.

        Raises:
            ConfigError: something is missing or does not fit.
        """
        try:
            parts = tuple((int(column), str(part)) for column, part in record["parts"])
            made = cls(
                tuple(record["channels"]), tuple(record["kinds"]), parts, rate_hz=float(record["rate_hz"]),
                **{name: np.asarray(arrays[name], np.float32) for name in _ARRAYS},
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{where}: the features of inputs lack {error}. Is the file whole?") from error
        num_inputs = len(made.channels)
        fits = (
            made.basis.ndim == 2
            and made.low.shape == made.high.shape == (num_inputs,)
            and made.mean.shape == made.scale.shape == (made.num_features,)
            and all(0 <= column < num_inputs and part in ("event", *PARTS_OF_LEVEL) for column, part in parts)
        )
        if not fits:
            raise ConfigError(f"{where}: features of inputs do not fit each other. Is the file damaged?")
        return made


_ARRAYS = ("basis", "low", "high", "mean", "scale")


def taken_apart(values: np.ndarray, part: str, rate_hz: float) -> np.ndarray:
    """One part of a channel, [B, T - 1] of values [B, T]: the first frame tells only what changes next.

    `square` keeps the sign. `onset` and `offset` mark the frames at which it leaves zero and returns to it;
    `rise` and `fall` are its change a second where it does neither.
    """
    now, earlier = values[:, 1:], values[:, :-1]
    if part in ("level", "event"):
        return now
    if part == "square":
        return now * np.abs(now)
    comes, goes = (earlier == 0) & (now != 0), (earlier != 0) & (now == 0)
    if part == "onset":
        return comes.astype(values.dtype)
    if part == "offset":
        return goes.astype(values.dtype)
    change = np.where(comes | goes, 0, now - earlier) * np.float32(rate_hz)
    return np.maximum(change, 0) if part == "rise" else np.maximum(-change, 0)


def lag_basis(memory: int, count: int) -> np.ndarray:
    """float32 [M, n]: raised cosines, evenly spaced in the logarithm of the lag; single lags where there is
    room for all."""
    if count >= memory:
        return np.eye(memory, dtype=np.float32)
    if count == 1:
        return np.full((memory, 1), memory**-0.5, np.float32)
    # The offset makes the first ones about a frame apart, however long the memory.
    lags = np.arange(memory)
    offset = _offset(memory, count)
    places = np.log(lags + offset)
    centres = np.linspace(places[0], places[-1], count)
    away = (places[:, None] - centres) / (centres[1] - centres[0])
    basis = np.where(np.abs(away) < 1, 0.5 * (1 + np.cos(np.pi * away)), 0)
    scaled: np.ndarray = (basis / np.linalg.norm(basis, axis=0)).astype(np.float32)
    return scaled


def _offset(memory: int, count: int) -> float:
    """The offset of lags at which neighbouring centres lie a frame apart at the near end, by bisection."""
    low, high = 1e-3, 1e6
    for _ in range(60):
        middle = (low * high) ** 0.5
        ratio = ((memory - 1 + middle) / middle) ** (1 / (count - 1))
        low, high = (middle, high) if middle * (ratio - 1) < 1 else (low, middle)
    return low


def _parts(
    values: np.ndarray, kinds: Sequence[str], levels: Sequence[str], rate_hz: float
) -> tuple[tuple[int, str], ...]:
    """The parts that say something, in whatever unit, and that fit float32; each of them once: two that are
    the same but for their scale count as one."""
    parts: list[tuple[int, str]] = []
    seen: list[np.ndarray] = []
    for column, kind in enumerate(kinds):
        channel = values[..., column]
        relative = channel / (np.abs(channel).max() or 1)
        for part in ("event",) if kind == "event" else levels:
            series = taken_apart(relative, part, rate_hz).ravel().astype(np.float64)
            series = series - series.mean()
            size, largest = float(np.linalg.norm(series)), float(np.abs(series).max())
            if size == 0 or largest < _LEAST_SPREAD * float(np.ptp(relative)):
                continue
            with np.errstate(over="ignore"):
                if not np.isfinite(taken_apart(channel, part, rate_hz)).all():
                    continue
            series /= size
            if any(abs(float(series @ other)) > 1 - 1e-6 for other in seen):
                continue
            seen.append(series)
            parts.append((column, part))
    return tuple(parts)
