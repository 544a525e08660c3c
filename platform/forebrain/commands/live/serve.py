"""Serves an adapted model to a rig: frames come in and forecasts go back, until SIGINT or SIGTERM.

Over ZeroMQ or the Lab Streaming Layer. docs/live.md has the messages, and what happens to frames that are
late, missing or damaged.
"""

from __future__ import annotations

import gc
import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType

import torch
from rich.console import Console
from torch import nn

from forebrain import realtime
from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.artifact import Identity
from forebrain.commands.live import Transport
from forebrain.errors import ConfigError
from forebrain.leaving import asked_to_stop_by, heed
from forebrain.models.base import LossName
from forebrain.models.poco import Poco, PocoConfig
from forebrain.realtime.forecaster import LiveConfig, LiveForecaster
from forebrain.realtime.inputs import MAX_HORIZONS
from forebrain.realtime.messages import max_frame_bytes
from forebrain.realtime.pictures import Pictures
from forebrain.realtime.recorder import Recorder
from forebrain.realtime.server import Follower, Port, serve
from forebrain.realtime.state import StateFile, keeping
from forebrain.realtime.updating import InterfaceUpdater, UpdateConfig
from forebrain.sessions.preprocessing import Preprocessing
from forebrain_registry.storage import path_here

REHEARSALS = 20  # first calls are slow; after these a forecast takes as long as it will


@dataclass(frozen=True)
class Config:
    """The model to serve, and where.

    Attributes:
        adapted: folder of an adaptation, the --out of `forebrain adapt`.
        untrained_units: serve an untrained model of so many units instead, to measure latency.
        registry: where the adaptation's backbone is; where it was pulled from if not given.
        transport: `requests` (ZeroMQ REQ/REP), `streams` (ZeroMQ PUB/SUB) or `lsl` (Lab Streaming Layer).
        address: to bind for frames; for lsl the name of the stream to read.
        forecasts: address to bind for forecasts, for `streams`.
        threads: that share the units of a forecast by POCO, 512 each at a time; they want a core each.
        state: file from which to go on after a restart, and to keep up to date.
        state_every_s: how often the state is written at most, seconds.
        page: port of a page to watch it in a browser, on this machine; ADDRESS:PORT, such as 0.0.0.0:8600,
        for
            all that reach it.
        pictures: address to bind for `forebrain live watch`, which shows the page from another machine.
        record: file for frames, forecasts and events, which `fb.read` opens; one by the same adaptation is
            gone on with.
        budget_ms: by when a forecast is due, for the page; the time between two frames if not given.
        updates: go on fitting the interface to the stream, in another process.
        live: the forecaster: gaps, normalisation, scores, drift.
        update: how the interface is fitted on, with --updates.
    """

    adapted: str | None = None
    untrained_units: int | None = None
    registry: str | None = None
    transport: Transport = "requests"
    address: str = "tcp://127.0.0.1:5600"
    forecasts: str = "tcp://127.0.0.1:5601"
    threads: int = 2
    state: str | None = None
    state_every_s: float = 1.0
    page: str | None = None
    pictures: str | None = None
    record: str | None = None
    budget_ms: float | None = None
    updates: bool = False
    live: LiveConfig = field(default_factory=LiveConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)

    def __post_init__(self) -> None:
        if (self.adapted is None) == (self.untrained_units is None):
            raise ConfigError("give either --adapted or --untrained_units.")
        if self.threads < 1 or (self.untrained_units or 1) < 1:
            raise ConfigError("--threads and --untrained_units: expected 1 or more.")
        if self.budget_ms is not None and self.budget_ms <= 0:
            raise ConfigError(f"--budget_ms is {self.budget_ms}; expected more than 0.")
        written = [path_here(each).resolve() for each in (self.state, self.record) if each is not None]
        if len(written) > len(set(written)):
            raise ConfigError(
                f"--state and --record are one file, {self.record}; name another for one of them."
            )


def run(config: Config, console: Console) -> int:
    """Serves until it is asked to stop, and writes the state once more then."""
    torch.set_num_threads(1)  # the forecaster has its own
    live, loss, identity = _open(config)
    about = asdict(identity)
    with (
        ExitStack() as page,
        ExitStack() as stack,
    ):  # state and record are whole before the page is waited for
        state, after_frame = None, _nothing
        if config.state is not None:
            stack.enter_context(keeping(config.state))
            state = StateFile(config.state, live, config.state_every_s)
            if state.restore(live):
                index = live.arrivals.index
                console.print(f"going on {'before a new run' if index is None else f'after frame {index}'}")
            stack.callback(state.close, live)
        if config.updates:
            updater = InterfaceUpdater(live, config.update, loss)
            stack.callback(updater.close)
            after_frame = updater.follow
        port, where = _port(config, live)
        stack.callback(port.close)
        followers: list[Follower] = []
        if config.record is not None:
            recorder = Recorder(config.record, live, about)
            stack.callback(lambda: console.print(f"{recorder.num_recorded:,} frames in {config.record}"))
            stack.callback(recorder.close)
            followers.append(recorder)
            if recorder.num_recorded:
                console.print(f"recording goes on in {config.record}, after {recorder.num_recorded:,} frames")
        if config.page is not None or config.pictures is not None:
            followers.append(_pictures(config, live, about, page, console))
        stop = stack.enter_context(_stop_signals())

        for _ in range(REHEARSALS):
            live.rehearse()
        # What lives now stays: looking through it for garbage again would hold frames up.
        gc.collect()
        gc.freeze()
        whose = "" if config.adapted is None else f" of {identity.species} {identity.id}"
        console.print(f"serving {live.num_units} units{whose} by {live.about['model']} at {where}")
        serve(live, port, lambda: bool(stop), after_frame, followers, state)
    console.print(f"stopped; {json.dumps(live.status())}")
    return 0


def _nothing(live: LiveForecaster) -> None:
    """After a frame."""


def _pictures(
    config: Config, live: LiveForecaster, about: Mapping[str, str], stack: ExitStack, console: Console
) -> Pictures:
    """Gives pictures to the page, which another process serves."""
    from forebrain.realtime import page
    from forebrain.realtime.zeromq import Publisher

    publisher = Publisher(config.pictures or "tcp://127.0.0.1:*")
    stack.callback(publisher.close)
    if config.pictures is not None:
        console.print(f"pictures for `forebrain live watch` at {publisher.address}")
    if config.page is not None:
        listening = page.listen(config.page)
        console.print(f"watch it at {page.url_of(listening)}")
        stack.enter_context(page.shown(listening, publisher.address.replace("0.0.0.0", "127.0.0.1")))
    return Pictures(live, publisher.send, config.budget_ms, f"{about['subject']}, {about['session']}")


def _open(config: Config) -> tuple[LiveForecaster, LossName, Identity]:
    """The forecaster, the loss that its backbone was trained with, and whose brain it forecasts."""
    if config.adapted is None:
        assert config.untrained_units is not None
        live = untrained(config.untrained_units, PocoConfig(relative=True), config.live, config.threads)
        identity = Identity("none", "untrained", f"{config.untrained_units} units", "none")
        live.about = {"model": "untrained", **asdict(identity)}
        return live, "relative", identity
    adapted = Adapted.load(config.adapted, registry=config.registry)
    live = adapted.stream(config.live, threads=config.threads)
    return live, adapted.description.loss, adapted.identity


def _port(config: Config, live: LiveForecaster) -> tuple[Port, str]:
    """The server's end of a transport, and where it is."""
    if config.transport == "lsl":
        from forebrain.realtime.lsl import LslPort

        port = LslPort(
            config.address, live.horizon, live.num_units, live.arrivals.rate_hz, live.unit_names,
            len(live.config.quantiles), live.about,
        )  # fmt: skip
        return port, f"the LSL stream {config.address}"
    from forebrain.realtime.zeromq import RequestPort, StreamPort

    planned = MAX_HORIZONS * live.horizon * len(live.input_names)
    num_named = max(live.num_units, live.preprocessing.num_recorded) + 2 * len(live.input_names)
    max_bytes = max_frame_bytes(num_named, planned)
    if config.transport == "requests":
        requests = RequestPort(config.address, max_bytes, live.arrivals.rate_hz)
        return requests, requests.address
    streams = StreamPort(config.address, config.forecasts, max_bytes, live.arrivals.rate_hz)
    return streams, f"{streams.address[0]}, forecasts at {streams.address[1]}"


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT, SIGTERM and SIGHUP put themselves into."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        heed(number)
        received.append(number)

    before = {number: signal.signal(number, receive) for number in asked_to_stop_by()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def untrained(num_units: int, model: PocoConfig, config: LiveConfig, threads: int) -> LiveForecaster:
    """A model that has learned nothing, for frames of about zero mean and unit spread."""
    torch.manual_seed(0)
    poco = Poco(model).requires_grad_(False)
    for parameter in poco.forecaster.parameters():
        nn.init.normal_(parameter, std=0.02)
    interface, frames_as_they_are = poco.new_interface(num_units), Preprocessing.none(num_units)
    return realtime.open(poco, interface, frames_as_they_are, config=config, threads=threads)
