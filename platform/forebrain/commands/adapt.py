"""Fits an interface for a recording's units to a published model, whose backbone stays as it is.

What comes of it is weighed with regressions of the recording itself, and scored on the part held back in
time, beside copy, mean, linear, ridge, and the same with a model trained on this recording alone. OUT gets
what forecasts again, a report and pictures. Several recordings get a folder each in OUT and a table of all;
the same command then goes on with what is not finished. The exit status is 1 if none could be adapted to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from rich.console import Console

from forebrain.adaptation.adapting import Mode, default_mode
from forebrain.adaptation.artifact import begun
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.choice import choose_model
from forebrain.adaptation.comparison import Comparison, compare
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.recording import open_session, with_rate
from forebrain.adaptation.report import finish_comparison
from forebrain.adaptation.windows import is_held
from forebrain.console import Follower
from forebrain.errors import ConfigError, RecordingError
from forebrain.evaluation.tables import intervals, known_inputs, overview
from forebrain.scoring.evoked import EVOKED_SHARE
from forebrain.scoring.protocols import RecordingProtocol
from forebrain.sessions.remote import is_remote
from forebrain.sessions.session import Session
from forebrain.shards.recordings import find_all, has_changed, hashes_of

FIRST = (
    "model",
    "recording",
    "out",
    "registry",
    "mode",
    "fit.steps",
    "fit.batch_size",
    "fit.stack",
    "session",
    "minutes",
    "rate_hz",
    "protocol",
    "inputs",
    "workers",
)
NO_MODEL = "none"
# Options of a single recording.
OF_ONE = ("session", "protocol", "hold_out", "inputs", "context", "horizon")
ALIASES = {
    # As scripts have it.
    "--recordings": "--recording",
    "--serial": "--workers 0",
    # Much used.
    "--steps": "--fit.steps",
    "--batch_size": "--fit.batch_size",
    "--learning_rate": "--fit.learning_rate",
    "--precision": "--fit.precision",
    "--seed": "--fit.seed",
    "--stack": "--fit.stack",
}


@dataclass(frozen=True)
class Config:
    """The model to adapt, and the recording.

    Attributes:
        model: name, name@3 or name@alias of a published model; or a run folder, with a / in it; or `none`,
            for regressions of the recording alone. Not given: the nearest by species and rate, of one
            recording.
        recording: a file as for `forebrain inspect`, or several, or folders of them.
        out: a folder that does not exist yet; of several recordings, any folder or s3://bucket/folder.
        session: which session, where the recording holds several.
        registry: where the model is. None: FOREBRAIN_REGISTRY.
        mode: what is trained: embeddings (of the recording's units), forecaster (and it), full (everything),
            scratch (everything, from random weights) or none. None: embeddings; none if there are minutes, or
            if the model has no embeddings.
        minutes: fit and choose by so many minutes before the validation part, and by no other frame. None:
            the whole recording.
        rate_hz: frames a second of recordings that do not state it.
        resample: bring recordings to the nearest rate that the model was trained on.
        protocol: which frames train and which test, in place of the model's own: given (the recording's own
            split), repetition (the last repetition of each condition tests), values (--hold_out) and others.
        hold_out: NAME=4,7: windows under these values of an input test, with --protocol values.
        inputs: names of those that forecasts may know, or `none`. Not given: all that can be planned.
        context: frames that a forecast is made from, with --model none; else the model's own.
        horizon: frames forecast, likewise.
        each: a folder in OUT for each session, and a table, also of a single recording.
        workers: of several recordings, 0: one after another in this process, without Ray. None: with Ray, as
            many at once as there are CPUs.
        fit: the optimisation.
    """

    recording: list[str]
    out: str
    model: str | None = None
    session: str | None = None
    registry: str | None = None
    mode: Mode | None = None
    minutes: float | None = None
    rate_hz: float | None = None
    resample: bool = False
    protocol: RecordingProtocol | None = None
    hold_out: list[str] = field(default_factory=list)
    inputs: list[str] | None = None
    context: int | None = None
    horizon: int | None = None
    each: bool = False
    workers: Literal[0] | None = None
    fit: FitConfig = field(default_factory=FitConfig)


def run(config: Config, console: Console) -> int:
    """Adapts, and says whether it was worth it; 1 where no session of several could be adapted to."""
    if config.each or len(config.recording) > 1 or len(recordings := find_all(config.recording)) > 1:
        return _adapt_each(config, console)
    (recording,) = recordings
    with begun(config.out) as folder:
        session, sha256 = _session(config, recording)
        comparison = _compared(session, config, console)
        # Before anything is written: the folder may lie in the recording's own.
        if sha256 is not None and has_changed(recording, sha256):
            raise RecordingError(
                f"{recording}: changed, or is gone, since it began to be read, so what was read may be of "
                "before and after; nothing was kept. Give the same command again when it is finished."
            )
        finish_comparison(comparison, folder, config.out)
    for finding in comparison.findings():
        console.print(finding)
    console.print(overview(comparison.test).to_rich())
    if comparison.known is not None:
        console.print(known_inputs(comparison.result()["inputs"], EVOKED_SHARE).to_rich())
    if comparison.uncertainty is not None and (found := comparison.uncertainty.result(comparison.name)):
        console.print(intervals(comparison.name, found).to_rich())
    if comparison.leak:
        console.print(f"LEAK: {comparison.leak}.", style="bold red")
    console.print(comparison.verdict())
    console.print(f"Report and pictures: {config.out}/report.md")
    return 0


def _session(config: Config, recording: str) -> tuple[Session, str | None]:
    """The session, and the hash of what it is read from, where that goes on all through the work.

    None of a session that is held in memory: what becomes of its recording later, which may still grow, does
    not touch it. None either of what lies elsewhere, or has no hash.
    """
    session = open_session(config.recording[0], config.session)
    if is_held(session) or is_remote(recording):
        return session, None
    sha256 = hashes_of([recording])[recording]
    return open_session(config.recording[0], config.session), sha256  # again: hashing takes long


def _compared(session: Session, config: Config, console: Console) -> Comparison:
    """Adapts to one recording, beside what that can do for itself."""
    session = with_rate(session, config.rate_hz)
    model = config.model
    if model is None:
        choice = choose_model(session, config.registry)
        console.print(choice.why)
        model, config = choice.reference, replace(config, registry=choice.registry)
    backbone = _opened(model, config)
    mode = "none" if model == NO_MODEL else config.mode or default_mode(backbone.model, config.minutes)
    with config.fit.few_threads(session.num_units):
        return compare(
            backbone, session, mode, config.fit, config.resample, progress=Follower(console),
            inputs=[] if config.inputs == [NO_MODEL] else config.inputs,
            hold_out=_held_out(config.hold_out), minutes=config.minutes,
        )  # fmt: skip


def _opened(model: str, config: Config) -> Backbone:
    """The backbone, under the protocol that is asked for."""
    asked = {name: getattr(config, name) for name in ("context", "horizon")}
    asked = {name: frames for name, frames in asked.items() if frames is not None}
    if model == NO_MODEL:
        return Backbone.nothing(**asked).under(config.protocol)
    backbone = Backbone.open(model, config.registry)
    for name, frames in asked.items():
        own = getattr(backbone.model.config, name)
        if frames != own:
            raise ConfigError(f"{name} is {frames} and {backbone.origin} takes {own}; leave it out.")
    return backbone.under(config.protocol)


def _held_out(given: list[str]) -> dict[str, list[float]] | None:
    """The values by input of --hold_out NAME=4,7."""
    held: dict[str, list[float]] = {}
    for each in given:
        name, _, values = each.rpartition("=")
        try:
            held[name] = [float(value) for value in values.split(",")]
        except ValueError:
            name = ""
        if not name:
            raise ConfigError(f"hold_out is {each!r}; expected NAME=VALUE,VALUE, of an input.")
    return held or None


def _adapt_each(config: Config, console: Console) -> int:
    from forebrain.studies.many_adaptations import ManyConfig, adapt_many, show

    if config.model in (None, NO_MODEL):
        given = config.model or "not given"
        raise ConfigError(f"model is {given}; expected a backbone with several recordings. Give --model.")
    for name in OF_ONE:
        if getattr(config, name) not in (None, []):
            raise ConfigError(
                f"{name} is {getattr(config, name)!r} with several recordings; expected one recording "
                "with it, since of several every session is adapted to in the same way."
            )
    asked = ManyConfig(
        model=config.model,
        recordings=config.recording,
        out=config.out,
        registry=config.registry,
        mode=config.mode,
        minutes=config.minutes,
        rate_hz=config.rate_hz,
        resample=config.resample,
        serial=config.workers == 0,
        fit=config.fit,
    )
    rows = adapt_many(asked, console)
    show(asked, rows, console)
    return 0 if any(row["status"] != "failed" for row in rows) else 1
