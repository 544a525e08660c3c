"""Frames and forecasts over the Lab Streaming Layer, where streams find each other by name.

Frames are one numeric stream of N channels, in order or labelled with the names of the units; a frame's place
is told from its time stamp. Forecasts go out as the float32 stream NAME-forecast of 1 + H N channels, stamped
with the time of the frame they were made from: the first is 1 where the model forecast and 0 where it is copy
or still warming up, then come the N units of the first step ahead, of the second, and so on. Where the
forecaster gives quantiles, they go out as the stream NAME-quantiles of H N Q channels under the same time:
the Q levels of the first unit one step ahead, of the second unit, and so on, then all units two steps ahead.
The description (`desc`) of both says whose forecasts they are: `model`, `species`, `dataset`, `subject`,
`session`, `horizon`, and `units` with a `unit` each. Their source id is the same after a restart, and another
for another model, session or units.

Needs the extra `live`, and the library liblsl, which pylsl's wheels carry.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from forebrain.errors import ConfigError, FrameError
from forebrain.realtime.messages import Forecast, Frame, Question

try:
    import pylsl
except (ImportError, RuntimeError, OSError) as error:  # pylsl raises RuntimeError where it finds no liblsl
    raise ConfigError(
        f"the Lab Streaming Layer is not there ({str(error).strip().splitlines()[0]}). Install the extra "
        "`live`; where pylsl brings no liblsl, install that too and name its file in PYLSL_LIB."
    ) from error

NUMERIC = (pylsl.cf_float32, pylsl.cf_double64, pylsl.cf_int8, pylsl.cf_int16, pylsl.cf_int32)
BUFFER_S = 10
MOST_STREAMS = 100  # of one name; not so many, so all that answer in time are found
ALL_FOUND_S = 1.0
OPEN_S = 5.0  # for a stream that was found to answer
LOOK_S = 5.0  # of silence, after which it is looked whether the stream is still there
UNANSWERED = 1000  # frames whose index is remembered, which the stream does not carry
_log = logging.getLogger(__name__)


def forecast_name(name: str) -> str:
    return f"{name}-forecast"


def quantiles_name(name: str) -> str:
    return f"{name}-quantiles"


class LslPort:
    """Reads a stream and publishes its forecasts. Of two streams of one name neither is read.

    Args:
        address: name of the stream of frames, or NAME@SOURCE_ID where several have the name. It is waited
            for, and found again after it was away.
        horizon, num_units: H and N.
        rate_hz: of the forecasts; None where not known.
        unit_names: of the N units; a stream whose channels are labelled is taken by its labels then.
        num_levels: Q, quantiles that every forecast brings; 0 for none, and no stream of them.
        about: who forecasts whom, see `LiveForecaster.about`.

    Raises:
        ConfigError: another forecaster's forecasts have the name already.
    """

    def __init__(
        self,
        address: str,
        horizon: int,
        num_units: int,
        rate_hz: float | None,
        unit_names: tuple[str, ...] | None,
        num_levels: int = 0,
        about: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._require_alone(address)
        self._address, self._look_for_others_s = address, math.inf
        self.name, _, source_id = address.partition("@")
        self._source_id = source_id or None
        self._told: list[str] = []  # where the stream comes from, as it was last told
        self._unit_names = unit_names or ()
        described = _Described(about, horizon, self._unit_names)
        self._outlet = _outlet(forecast_name(address), 1 + horizon * num_units, rate_hz, described)
        try:
            self._require_alone(address, self._outlet.get_info().uid(), only_before=True)
        except ConfigError:
            del self._outlet  # which the error would keep
            raise
        self._sample = np.empty((1, 1 + horizon * num_units), np.float32)
        self._quantiles: pylsl.StreamOutlet | None = None
        if num_levels:
            channels = horizon * num_units * num_levels
            self._quantiles = _outlet(quantiles_name(address), channels, rate_hz, described)
        self._inlet: pylsl.StreamInlet | None = None
        self._uid = ""  # of what the inlet reads, which another rig of the same source id does not share
        self._heard_s = 0.0
        self._names: tuple[str, ...] = ()

    def receive(self, timeout_s: float) -> Frame | Question | None:
        """The next frame, None if none comes in time.

        Raises:
            FrameError: there is a stream, and it cannot be read.
            ConfigError: another forecaster of the rig began while this one stood still, and did not answer.
        """
        began = time.monotonic()
        if began > self._look_for_others_s:
            self._look_for_others_s = math.inf
            self._require_alone(self._address, self._outlet.get_info().uid())
        frame = self._receive(timeout_s)
        # One that begins looks for others for so long, and may be about to give way to this one.
        if (now := time.monotonic()) - began > timeout_s + 2 * ALL_FOUND_S:
            self._look_for_others_s = now + 2 * ALL_FOUND_S
        return frame

    def _receive(self, timeout_s: float) -> Frame | None:
        if self._inlet is None:
            self._connect(timeout_s)
        if self._inlet is None:
            return None
        try:
            values, time_s = self._inlet.pull_sample(timeout=timeout_s)
        except RuntimeError:  # pylsl's LostError, which its versions keep in different places
            self._lose()
            return None
        if values is None:
            self._look()
            return None
        self._heard_s = time.monotonic()
        return Frame(values, time_s=time_s, units=self._names, is_new=True)

    def is_behind(self) -> bool:
        return self._inlet is not None and self._inlet.samples_available() > 0

    def send(self, forecast: Forecast) -> None:
        """Gives a forecast to who listens, under the time of its frame."""
        self._sample[0, 0] = forecast.source == "model"
        self._sample[0, 1:] = forecast.values.reshape(-1)
        if self._quantiles is not None and forecast.quantiles is not None:
            _push(self._quantiles, forecast.quantiles.reshape(1, -1), forecast.time_s)
        _push(self._outlet, self._sample, forecast.time_s)

    def answer(self, answer: dict[str, Any]) -> None:
        """Nobody can ask over this transport."""

    def refuse(self, error: FrameError) -> None:
        """Nobody waits for an answer; the refusal is in the log."""

    def close(self) -> None:
        self._inlet = self._quantiles = None
        del self._outlet

    def _require_alone(self, address: str, own: str = "", only_before: bool = False) -> None:
        """Raises ConfigError if forecasts of others than `own` uid have the name; or only where another's
        comes first: of forecasters that were begun at one moment each sees all, and one stays."""
        there = [stream for stream in _named(forecast_name(address), 0.0) if stream.uid() != own]
        if only_before:
            there = [stream for stream in there if stream.uid() < own]
        if there:
            raise ConfigError(
                f"the LSL stream {forecast_name(address)} is there already, from "
                f"{' and '.join(sorted(map(_place, there)))}: another forecaster reads {address}, and who "
                "listens could not tell its forecasts from these. End it, or read a rig of another name."
            )

    def _connect(self, timeout_s: float) -> None:
        found = self._found(timeout_s)
        if not found:
            return
        if len(found) > 1:
            told = sorted(_place(stream) for stream in found)
            self._refuse_once(
                told,
                f"{len(found)} streams are called {self.name}, from {' and '.join(told)}; none is read. "
                f"Stop all but one, or choose one by its source id: {self.name}@SOURCE_ID.",
            )
            return
        (stream,) = found
        if stream.channel_format() not in NUMERIC:
            raise FrameError(f"the stream {self.name} holds no numbers; expected one channel for each unit.")
        # One that recovers by itself would go on with any stream of this source id, whatever its labels.
        inlet = pylsl.StreamInlet(stream, max_buflen=BUFFER_S, recover=False, as_numpy=True)
        try:
            labels = inlet.info(timeout=OPEN_S).get_channel_labels() or []
            inlet.open_stream(timeout=OPEN_S)
        except RuntimeError as error:  # pylsl's TimeoutError or LostError
            self._refuse_once(
                [_place(stream), "silent"],
                f"the stream {self.name} from {_place(stream)} was found, and cannot be read ({error}); it "
                "is tried again. If it still runs, let its machine's firewall pass it.",
            )
            return
        if self._unit_names and any(labels) and len(set(labels)) < len(labels):
            self._refuse_once(
                ["labels"], f"the stream {self.name} has two channels of one label; it is not read."
            )
            return
        if self._unit_names and any(labels):
            self._names = tuple(label or f"channel {number}" for number, label in enumerate(labels))
        else:
            self._names = ()  # in order, whatever the labels of a stream before it
        self._inlet, self._uid, self._heard_s = inlet, stream.uid(), time.monotonic()
        if self._told not in ([], [_place(stream)]):
            _log.warning("the stream %s comes from %s now", self.name, _place(stream))
        self._told = [_place(stream)]
        _log.info("reading the stream %s from %s", self.name, _place(stream))

    def _look(self) -> None:
        """After a long silence looks whether the stream is still there: a machine that loses its power or its
        network says no farewell."""
        if time.monotonic() - self._heard_s < LOOK_S:
            return
        self._heard_s = time.monotonic()
        if not pylsl.resolve_byprop("uid", self._uid, minimum=1, timeout=ALL_FOUND_S):
            self._lose()

    def _lose(self) -> None:
        self._inlet = None
        _log.warning("the stream %s has ended, or its connection is lost; it is waited for", self.name)

    def _refuse_once(self, told: list[str], reason: str) -> None:
        if told != self._told:
            self._told = told
            raise FrameError(reason)

    def _found(self, timeout_s: float) -> list[pylsl.StreamInfo]:
        """Every stream of the name, and of the source where one is chosen."""
        found = _named(self.name, timeout_s)
        return [stream for stream in found if self._source_id in (None, stream.source_id())]


def _named(name: str, timeout_s: float) -> list[pylsl.StreamInfo]:
    """Every stream of a name; none if the first does not answer in time, nor a moment later."""
    # resolve_byprop puts a name between apostrophes as it is, and finds none that has one itself.
    quoted = "concat('" + name.replace("'", "', \"'\", '") + "')" if "'" in name else f"'{name}'"
    if timeout_s and not pylsl.resolve_bypred(f"name={quoted}", 1, timeout_s):
        return []
    # Streams answer one after another: others of the name have a moment to do so too.
    found: list[pylsl.StreamInfo] = pylsl.resolve_bypred(f"name={quoted}", MOST_STREAMS, ALL_FOUND_S)
    return found


def _place(stream: pylsl.StreamInfo) -> str:
    """Where a stream comes from, for people."""
    return f"{stream.hostname()} (source id {stream.source_id() or 'none'!r})"


class LslClient:
    """Publishes frames under a name and reads the forecasts that come back.

    Args:
        name: of the stream of frames.
        num_units: N.
        rate_hz: of the frames; None where not known.
        unit_names: which the channels are labelled by; None for units in order.
    """

    awaits_answers = False

    def __init__(
        self, name: str, num_units: int, rate_hz: float | None, unit_names: Sequence[str] | None = None
    ) -> None:
        self.name, self._num_units = name, num_units
        self._outlet = _outlet(name, num_units, rate_hz, labels=unit_names)
        self._inlet: pylsl.StreamInlet | None = None
        self._began = pylsl.local_clock()
        self._index_at: dict[float, int] = {}  # of frames that are not answered yet

    def ready(self, timeout_s: float = 10.0) -> None:
        """Waits until the forecaster reads the frames.

        Raises:
            FrameError: there is none, or more than one.
        """
        found = _named(forecast_name(self.name), timeout_s)
        if len(found) > 1:
            raise FrameError(
                f"{len(found)} streams are called {forecast_name(self.name)}, from "
                f"{' and '.join(sorted(map(_place, found)))}; expected one forecaster. End all but one."
            )
        if not found or not self._outlet.wait_for_consumers(timeout_s):
            raise FrameError(
                f"nobody reads the stream {self.name} after {timeout_s:g} s; is the forecaster running?"
            )
        self._inlet = pylsl.StreamInlet(found[0], max_buflen=BUFFER_S, as_numpy=True)
        self._inlet.open_stream(timeout=timeout_s)

    def send(self, frame: Frame) -> None:
        """Gives a frame to the forecaster, under its own time or, where it has none, the clock's."""
        time_s = pylsl.local_clock() if frame.time_s is None else self._began + frame.time_s
        if frame.index is not None:
            self._index_at[time_s] = frame.index
            if len(self._index_at) > UNANSWERED:
                del self._index_at[next(iter(self._index_at))]
        _push(self._outlet, np.ascontiguousarray(frame.values, np.float32)[None], time_s)

    def receive(self, timeout_s: float) -> Forecast | None:
        """The next forecast, None if none comes in time."""
        assert self._inlet is not None, "ready() was not called"
        sample, time_s = self._inlet.pull_sample(timeout=timeout_s)
        if sample is None:
            return None
        values = sample[1:].reshape(-1, self._num_units)
        source = "model" if sample[0] else "copy"
        return Forecast(values, self._index_at.pop(time_s, None), time_s, source, None, False, float("nan"))

    def close(self) -> None:
        self._inlet = None
        del self._outlet


def _push(outlet: pylsl.StreamOutlet, sample: np.ndarray, time_s: float | None) -> None:
    """Sends a sample [1, channels]. As a chunk, since `push_sample` makes a Python number of each value."""
    outlet.push_chunk(sample, pylsl.local_clock() if time_s is None else time_s)


class _Described:
    """What a stream of forecasts says of itself; see the module."""

    def __init__(self, about: Mapping[str, str], horizon: int, units: Sequence[str]) -> None:
        self._about, self._units = {**about, "horizon": str(horizon)}, list(units)
        text = json.dumps([self._about, self._units])
        self.source_id = f"forebrain-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def put_into(self, info: pylsl.StreamInfo) -> None:
        desc = info.desc()
        for name, value in self._about.items():
            desc.append_child_value(name, value)
        units = desc.append_child("units")
        for unit in self._units:
            units.append_child_value("unit", unit)


def _outlet(
    name: str,
    num_channels: int,
    rate_hz: float | None,
    described: _Described | None = None,
    labels: Sequence[str] | None = None,
) -> pylsl.StreamOutlet:
    rate = pylsl.IRREGULAR_RATE if rate_hz is None else rate_hz
    source_id = f"forebrain-{name}" if described is None else described.source_id
    info = pylsl.StreamInfo(name, "Activity", num_channels, rate, pylsl.cf_float32, source_id)
    if described is not None:
        described.put_into(info)
    if labels is not None:
        info.set_channel_labels(list(labels))
    return pylsl.StreamOutlet(info, max_buffered=BUFFER_S)
