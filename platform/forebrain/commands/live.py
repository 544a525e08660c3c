"""`forebrain live`: serve an adapted model, play a recording to it, soak it. Needs the extra `live`."""

from __future__ import annotations

import gc
import json
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from forebrain import realtime
from forebrain.adaptation.artifact import Adapted
from forebrain.errors import ConfigError
from forebrain.models.base import LossName
from forebrain.models.poco import Poco, PocoConfig
from forebrain.realtime.forecaster import LiveConfig, LiveForecaster
from forebrain.realtime.latency import Latency, latency_histogram
from forebrain.realtime.messages import max_frame_bytes
from forebrain.realtime.replay import frames_of, play
from forebrain.realtime.server import Port, serve
from forebrain.realtime.soak import SoakConfig, soak
from forebrain.realtime.state import StateFile
from forebrain.realtime.updating import InterfaceUpdater, UpdateConfig
from forebrain.scoring.protocols import Part, part_ranges
from forebrain.sessions.repair import MAX_RATE_ERROR
from forebrain.sessions.resample import resample
from forebrain.sessions.session import Session
from forebrain.shards.fits import Fit
from forebrain.shards.recordings import find_all, open_any

REHEARSALS = 20  # first calls are slow; after these a forecast takes as long as it will
MAX_LATE_S = 1.0  # at the end of a soak: a clock that drifts is late by more, a busy machine by less
Transport = Literal["requests", "streams", "lsl"]
TITLES = {
    "requests": "ZeroMQ request and reply",
    "streams": "two ZeroMQ streams",
    "lsl": "the Lab Streaming Layer",
}


@dataclass(frozen=True)
class ServeConfig:
    """What to serve, and where.

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
        updates: go on fitting the interface to the stream, in another process.
        live: see there.
        update: see there.
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
    updates: bool = False
    live: LiveConfig = field(default_factory=LiveConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)

    def __post_init__(self) -> None:
        if (self.adapted is None) == (self.untrained_units is None):
            raise ConfigError("give either --adapted or --untrained_units.")
        if self.threads < 1 or (self.untrained_units or 1) < 1:
            raise ConfigError("--threads and --untrained_units: expected 1 or more.")


@dataclass(frozen=True)
class ReplayConfig:
    """What to play, where to, and how late a forecast may be.

    Attributes:
        recording: file with one session; not given, noise of as many units as the forecaster expects.
        transport: as the forecaster's.
        address: of the frames; for lsl the name of the stream.
        forecasts: address of the forecasts, for `streams`.
        part: what of the recording to play: `train`, `validation`, `test` or `all`.
        frames: how many; each of the part once if not given, 1,000 of noise.
        speed: times the recording's rate; 0 plays the next frame as soon as the last is answered.
        rate_hz: of the frames; the recording's if not given.
        budget_ms: by when a forecast is due; the time between two frames if not given.
        max_miss_rate: a larger part of late or lost forecasts is a failure (exit status 1).
        out: folder for latency.json and latency.png.
    """

    recording: str | None = None
    transport: Transport = "requests"
    address: str = "tcp://127.0.0.1:5600"
    forecasts: str = "tcp://127.0.0.1:5601"
    part: Part | Literal["all"] = "test"
    frames: int | None = None
    speed: float = 1.0
    rate_hz: float | None = None
    budget_ms: float | None = None
    max_miss_rate: float = 0.01
    out: str | None = None

    def __post_init__(self) -> None:
        for name in ("frames", "rate_hz", "budget_ms"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"--{name} is {value}; expected more than 0.")
        if self.speed < 0:
            raise ConfigError(f"--speed is {self.speed}; expected 0 or more.")


@dataclass(frozen=True)
class SoakJobConfig:
    """How long to soak which model.

    Attributes:
        units: of the untrained model.
        threads: CPU threads of a forecast.
        model: its size.
        live: see there.
        soak: see there.
    """

    units: int = 64
    threads: int = 1
    model: PocoConfig = field(default_factory=PocoConfig)
    live: LiveConfig = field(default_factory=LiveConfig)
    soak: SoakConfig = field(default_factory=SoakConfig)


def run_server(config: ServeConfig, console: Console) -> None:
    """Serves until SIGINT or SIGTERM, and writes the state once more then.

    Raises:
        ForebrainError: the adaptation, the state or the address cannot be used.
    """
    torch.set_num_threads(1)  # the forecaster has its own
    live, loss = _open(config)
    with ExitStack() as stack:
        state = updater = None
        if config.state is not None:
            state = StateFile(config.state, live, config.state_every_s)
            if state.restore(live):
                console.print(f"going on after frame {live.arrivals.index}")
            stack.callback(state.close, live)
        if config.updates:
            updater = InterfaceUpdater(live, config.update, loss)
            stack.callback(updater.close)
        port, where = _port(config, live)
        stack.callback(port.close)
        stop = stack.enter_context(_stop_signals())

        def after_frame(live: LiveForecaster) -> None:
            if state is not None:
                state.offer(live)
            if updater is not None:
                updater.follow(live)

        for _ in range(REHEARSALS):
            live.rehearse()
        # What lives now stays: looking through it for garbage again would hold frames up.
        gc.collect()
        gc.freeze()
        console.print(f"serving {live.num_units} units at {where}")
        serve(live, port, lambda: bool(stop), after_frame)
    console.print(f"stopped; {json.dumps(live.status())}")


def run_replay(config: ReplayConfig, console: Console) -> bool:
    """Plays frames, shows the latency and writes it to `out`. False if too many forecasts were late.

    Raises:
        ForebrainError: the recording or the address cannot be used, or the forecaster refuses the frames.
    """
    session = None if config.recording is None else _session(config.recording)
    client, described = _client(config, session)
    if session is None:
        session = _noise(described["num_units"], config.frames or 1000)
        ranges = session.segments
    else:
        session = _at_rate(session, described.get("rate_hz"))
        ranges = session.segments
        if config.part != "all":
            ranges = part_ranges("chronological", config.part, session.num_frames, ranges)
    rate_hz = config.rate_hz or session.rate_hz
    if config.speed and rate_hz is None:
        raise ConfigError(f"{session.id} states no rate; give --rate_hz, or --speed 0.")
    period_s = 1 / (config.speed * rate_hz) if config.speed and rate_hz else 0.0
    num_frames = config.frames or sum(stop - start for start, stop in ranges)
    budget_ms = config.budget_ms or (1e3 * period_s if period_s else float("inf"))
    frames = frames_of(session, ranges, num_frames)
    console.print(f"playing {num_frames:,} frames of {session.num_units} units of {session.id} ...")
    try:
        played = play(client, frames, num_frames, period_s)
    finally:
        client.close()
    latency = Latency.of(played.latencies_ms, budget_ms)
    console.print(
        latency.as_table(f"{TITLES[config.transport]}: from when a frame is due to its forecast's arrival")
    )
    last, sources = played.last, ", ".join(f"{name} {n:,}" for name, n in played.sources.most_common())
    score = "none" if last.score is None else f"{last.score:.3f}"
    console.print(
        f"forecasts from: {sources}; rolling score against copy: {score}; "
        f"drift: {'yes' if last.drift else 'no'}; "
        f"last frame sent {1e3 * played.late_s:.1f} ms late"
    )
    if config.out is not None:
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        summary = {**latency.to_json(), "sources": dict(played.sources), "score": last.score}
        (out / "latency.json").write_text(json.dumps({"config": asdict(config), **summary}, indent=1))
        title = f"{session.num_units:,} units over {TITLES[config.transport]}"
        latency_histogram(played.latencies_ms, latency, title, out / "latency.png")
        console.print(f"{out}/latency.json, {out}/latency.png")
    return latency.miss_rate <= config.max_miss_rate


def run_soak(config: SoakJobConfig, console: Console) -> bool:
    """Soaks an untrained model, its state written beside. False if memory grew or the clock drifted."""
    torch.set_num_threads(1)
    live = _untrained(config.units, config.model, config.live, config.threads)
    with tempfile.TemporaryDirectory(prefix="forebrain-") as folder:
        state = StateFile(Path(folder) / "state.safetensors", live, every_s=1.0)
        soaked = soak(live, config.soak, state)
        state.close(live)
    table = Table("frames", "memory MiB", "grew by MiB", "last frame late by ms", "latest by ms")
    values = (soaked.rss_bytes / 2**20, soaked.growth_bytes / 2**20, 1e3 * soaked.last_late_s)
    table.add_row(
        f"{soaked.frames:,}", *(f"{value:.1f}" for value in values), f"{1e3 * soaked.worst_late_s:.1f}"
    )
    console.print(table)
    console.print(json.dumps(soaked.status))
    period_s = 1 / config.soak.rate_hz if config.soak.rate_hz else float("inf")
    return soaked.growth_bytes <= config.soak.max_growth_mb * 2**20 and soaked.last_late_s < max(
        MAX_LATE_S, period_s
    )


def _open(config: ServeConfig) -> tuple[LiveForecaster, LossName]:
    """The forecaster, and the loss that its backbone was trained with."""
    if config.adapted is None:
        assert config.untrained_units is not None
        live = _untrained(config.untrained_units, PocoConfig(relative=True), config.live, config.threads)
        return live, "relative"
    adapted = Adapted.load(config.adapted, registry=config.registry)
    live = realtime.open(
        adapted.backbone,
        adapted.interface,
        Fit(adapted.mean, adapted.scale),
        rate_hz=adapted.rate_hz,
        unit_names=adapted.unit_names,
        columns=adapted.columns,
        num_recorded=adapted.num_recorded,
        config=config.live,
        threads=config.threads,
    )
    return live, adapted.description.loss


def _untrained(num_units: int, model: PocoConfig, config: LiveConfig, threads: int) -> LiveForecaster:
    """A model that has learned nothing, for frames of about zero mean and unit spread."""
    torch.manual_seed(0)
    poco = Poco(model).requires_grad_(False)
    for parameter in poco.forecaster.parameters():
        nn.init.normal_(parameter, std=0.02)
    fit = Fit(np.zeros(num_units, np.float32), np.ones(num_units, np.float32))
    return realtime.open(poco, poco.new_interface(num_units), fit, config=config, threads=threads)


def _port(config: ServeConfig, live: LiveForecaster) -> tuple[Port, str]:
    """The server's end of a transport, and where it is."""
    if config.transport == "lsl":
        from forebrain.realtime.lsl import LslPort

        port = LslPort(config.address, live.horizon, live.num_units, live.arrivals.rate_hz, live.unit_names)
        return port, f"the LSL stream {config.address}"
    from forebrain.realtime.zeromq import RequestPort, StreamPort

    max_bytes = max_frame_bytes(max(live.num_units, live.num_recorded))
    if config.transport == "requests":
        requests = RequestPort(config.address, max_bytes)
        return requests, requests.address
    streams = StreamPort(config.address, config.forecasts, max_bytes)
    return streams, f"{streams.address[0]}, forecasts at {streams.address[1]}"


def _client(config: ReplayConfig, session: Session | None) -> tuple[Any, dict[str, Any]]:
    """A rig's end of a transport, connected, and what the forecaster says of itself."""
    if config.transport == "lsl":
        if session is None:
            raise ConfigError("over LSL nobody can be asked how many units to play; give --recording.")
        from forebrain.realtime.lsl import LslClient

        lsl = LslClient(config.address, session.num_units, session.rate_hz)
        lsl.ready()
        return lsl, {}
    from forebrain.realtime.zeromq import RequestClient, StreamClient

    if config.transport == "requests":
        requests = RequestClient(config.address)
        return requests, requests.ask("describe")
    streams = StreamClient(config.address, config.forecasts)
    return streams, streams.ready()


def _session(recording: str) -> Session:
    sessions = [session for address in find_all([recording]) for session in open_any(address)]
    if len(sessions) != 1:
        raise ConfigError(f"{recording} holds {len(sessions)} sessions; expected a file with one.")
    return sessions[0]


def _at_rate(session: Session, rate_hz: float | None) -> Session:
    """The session at the rate that the forecaster expects, averaged where it was recorded faster."""
    if rate_hz is None or session.rate_hz is None or abs(session.rate_hz / rate_hz - 1) <= MAX_RATE_ERROR:
        return session
    return resample(session, rate_hz)[0]


def _noise(num_units: int, num_frames: int) -> Session:
    traces = np.random.default_rng(0).standard_normal((min(num_frames, 10_000), num_units), np.float32)
    return Session(traces, None, "none", "noise", f"{num_units} units", "made up")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM put themselves into."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
