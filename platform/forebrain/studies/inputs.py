"""What knowing the inputs is worth: forecasts with none, with past and with planned inputs, row by row.

    forebrain study inputs --config inputs --out DIR

Closed form on the last frame; no network is trained. Beside it stand a plan of another window, in training
and test (`shuffled`) and in test alone (`wrong`), ARX ridge, the same on principal components, and the mean
evoked response. A simulated worm tells whether the true responses are found.

    sessions/ROW/SESSION.json      one session's scores; done again if its recording changes
    result.json, report.md, inputs.png
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from forebrain import plotting
from forebrain.adaptation.windows import SessionWindows
from forebrain.alone import alone_in
from forebrain.errors import ConfigError, RecordingError
from forebrain.evaluation.tables import Table
from forebrain.plotting import FAINT, MUTED
from forebrain.scoring.arx import ArxConfig, Informed, fit_arx, fit_evoked
from forebrain.scoring.baselines import CopyBaseline
from forebrain.scoring.evoked import APART, EVOKED_SHARE, scores_apart
from forebrain.scoring.inputs import MEMORY_S, InputSource
from forebrain.scoring.intervals import percentile_interval, rng_for, session_resamples
from forebrain.scoring.protocols import LABELLED, PARTS, PROTOCOLS
from forebrain.scoring.response import (
    HeldPlan,
    OtherPlan,
    ResponseFit,
    RestWindows,
    fit_response,
    past_features,
    under_plan,
)
from forebrain.scoring.ridge import HeadFit, fit_head
from forebrain.sealed import plain_json, require_numbers
from forebrain.sessions.repair import repair
from forebrain.sessions.session import Numbers, Session, fits, numbers_of, session_key
from forebrain.sessions.stimulated import JUMP, Kernels, simulate_stimulated
from forebrain.shards.hashing import file_sha256
from forebrain.shards.recordings import open_any, sha256_of
from forebrain.studies.kept import changed, claim, read_step, require_unchanged, write_step
from forebrain.studies.remarks import Remarks
from forebrain_registry.storage import Folder, path_here

# In the order of tables.
INFORMED = ("none", "past", "plan", "shuffled", "wrong")
RIVALS = ("arx", "low-rank arx", "evoked mean")
RANK = 8
# Sessions for which an interval over them is given.
LEAST_SESSIONS = 5
# How long after a departure the mean evoked response is told.
EVOKED_S = 30.0
# Of the true responses of simulated worms that are looked for.
LEAST_PEAK = 0.3
KERNELS = "inputs/kernels/randi2023_response_kernels_wt.npz"


@dataclass(frozen=True)
class RowConfig:
    """A row of the table: recordings, how they are split and what is read.

    Attributes:
        recordings: pattern of files below the folder of the data; None for simulated worms.
        context, horizon: frames.
        protocol: see `forebrain.scoring.protocols`.
        hold_out: values of inputs, for protocol `values`.
        inputs: names; None for all that can be planned.
        memory_s: how far lags of inputs reach back at most.
        arx_memory, arx_differences: frames of past input and of the unit's own that ARX reads.
        subsets: further means, over the sessions whose id fits a pattern.
        target: least score under a plan; None for none.
        simulated: `minutes`, `noise` and `seeds` of worms.
    """

    recordings: str | None = None
    context: int = 48
    horizon: int = 16
    protocol: str = "chronological"
    hold_out: dict[str, list[float]] = field(default_factory=dict)
    inputs: list[str] | None = None
    memory_s: float = MEMORY_S
    arx_memory: int = 48
    arx_differences: int = 20
    subsets: dict[str, list[str]] = field(default_factory=dict)
    target: float | None = None
    simulated: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        known = (*PROTOCOLS, *LABELLED)
        if self.protocol not in known:
            raise ConfigError(f"protocol is {self.protocol!r}; expected one of {', '.join(known)}.")
        if (self.recordings is None) == (self.simulated is None):
            raise ConfigError("a row has both or neither of recordings and simulated; expected one of them.")


@dataclass(frozen=True)
class InputsConfig:
    """The rows of the study.

    Attributes:
        out: folder for results; the same command goes on there.
        rows: by name, see `RowConfig`.
        data: folder of the recordings. None: FOREBRAIN_TEST_DATA, or ../shared/data.
        only: names of the rows to run; none for all.
        seed: of shuffled plans and of the intervals.
    """

    out: str
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: str | None = None
    only: list[str] = field(default_factory=list)
    seed: int = 0

    def chosen(self) -> dict[str, RowConfig]:
        """The rows to run.

        Raises:
            ConfigError: there is no such row, or it has an unknown key.
        """
        unknown = [name for name in self.only if name not in self.rows]
        if unknown or not self.rows:
            raise ConfigError(
                f"rows {', '.join(unknown)} are unknown; expected some of {', '.join(self.rows)}."
            )
        found = {}
        for name, values in self.rows.items():
            if self.only and name not in self.only:
                continue
            try:
                found[name] = RowConfig(**values)
            except TypeError as error:
                raise ConfigError(f"row {name}: {error}; expected keys of a row.") from error
        return found

    @property
    def data_folder(self) -> Path:
        return path_here(self.data or os.environ.get("FOREBRAIN_TEST_DATA") or "../shared/data")


@alone_in("out")
def study(config: InputsConfig, console: Console, command: str = "") -> dict[str, Any]:
    """Scores every session of every row that is not scored yet, and sums up.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: a row has no recordings, or `out` holds other work; nothing was scored. Or no session
            could be.
        StorageError: `out` cannot be written to; nothing was scored.
    """
    out, rows, remarks = Folder(config.out), config.chosen(), Remarks(console)
    claim(out, {}, "inputs", {"seed": config.seed})
    files = {name: _files(row, config.data_folder) for name, row in rows.items()}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows.items():
        found[name] = []
        numbers: list[tuple[str, Numbers]] = []

        def leave_out(why: str, name: str = name) -> None:
            remarks.leave_out(f"{name}: {why}")

        for key, address, recording, load in _sessions(row, files[name], config.data_folder, leave_out):
            place = f"sessions/{session_key(name)}/{session_key(key)}.json"
            asked = {
                **asdict(row),
                "subsets": None,
                "target": None,
                "seed": config.seed,
                "recording": recording,
            }
            kept = read_step(out, place, _require_scored)
            is_kept = kept is not None and kept.get("asked") == asked
            if kept is not None and is_kept:
                scored = kept
            else:
                try:
                    session, kernels = load()
                    made = score_session(session, row, config.seed, kernels)
                    made["numbers"] = numbers_of(session)
                except RecordingError as error:
                    leave_out(str(error))
                    continue
                if kernels is None:  # else they were read at once, and made all of it
                    require_unchanged(address, recording)
                scored = write_step(out, place, {"asked": asked, **made})
            remarks.step(scored)
            scores = {each: scored["scores"][each] for each in (*INFORMED, *RIVALS)}
            if None in scores.values():
                leave_out(
                    f"session {scored['session']}: no score, since its test part holds no window of "
                    f"{row.context} + {row.horizon} frames, or nothing moves there."
                )
                continue
            found[name].append(scored)
            if "numbers" in scored:  # an earlier version kept none
                numbers.append((f"{name}, {key}", Numbers(*scored["numbers"])))
            if not is_kept:
                shown = ", ".join(f"{each} {score:.3f}" for each, score in scores.items())
                console.print(f"{name}, {scored['session']}: {shown}")
        remarks.note_twins(numbers)
    if not any(found.values()):
        raise ConfigError(f"no session could be scored.{remarks.first()}")
    tables = (
        overview(rows, found, config.seed), apart(found), by_session(found), of_simulated(found)
    )  # fmt: skip
    result = {"rows": found, "tables": {table.name: table.to_csv() for table in tables}, **remarks.values()}
    shown_tables = [table for table in tables if table.rows]
    text = "\n".join(table.to_markdown() for table in shown_tables)
    text = f"# What knowing the inputs is worth\n\n![scores by row](inputs.png)\n\n{text}"
    text = "\n".join([text, *remarks.lines()])
    if command:
        text += f"\n```\n{command}\n```\n"
    out.write("result.json", plain_json(result))
    out.write("report.md", text.encode())
    out.write("inputs.png", picture(found))
    console.print(tables[0].to_rich())
    return result


def _require_scored(found: dict[str, Any]) -> None:
    """Raises ValueError, LookupError or TypeError where a session's scores cannot be summed up."""
    for block in ("scores", *APART):
        require_numbers(found[block], (*INFORMED, *RIVALS), or_none=True)
    require_numbers(found, ["num_evoked"])
    require_numbers(found["windows"], PARTS)
    " ".join([found["session"]])
    for table in (by_session, of_simulated):
        table({"": [found]}).to_markdown()


def _files(row: RowConfig, data: Path) -> list[Path]:
    """The recordings of a row, or the kernels that it is made from.

    Raises:
        ConfigError: there are none.
    """
    if row.simulated is not None:
        pattern = str(row.simulated.get("kernels", KERNELS))
        paths = [path for path in (data / pattern,) if path.is_file()]
    else:
        pattern = str(row.recordings)
        try:
            paths = sorted(data.glob(pattern))
        except (ValueError, NotImplementedError) as error:
            raise ConfigError(
                f"recordings is {pattern!r} ({error}); expected a pattern of files below {data}."
            ) from error
    if not paths:
        raise ConfigError(f"no file is called {data / pattern}. Is the folder of the data right (--data)?")
    return paths


def _sessions(
    row: RowConfig, files: Sequence[Path], data: Path, leave_out: Callable[[str], None]
) -> Iterator[tuple[str, str, str, Any]]:
    """A key of each session, the address and hash of what it is read or made from, and what does it, with
    its kernels.

    Args:
        row, files: what is asked for, and where it is.
        data: the folder that keys begin in.
        leave_out: is told why a recording cannot be read.
    """
    if row.simulated is not None:
        given = {key: value for key, value in row.simulated.items() if key != "kernels"}
        (path,) = files
        of_kernels = file_sha256(path)
        for seed in given.pop("seeds", [0]):

            def simulate(seed: int = seed) -> tuple[Session, Kernels]:
                kernels = Kernels.read(path)
                if file_sha256(path) != of_kernels:
                    raise changed(str(path))
                return simulate_stimulated(kernels, seed=seed, **given), kernels

            yield f"seed{seed}", str(path), of_kernels, simulate
        return
    for path in files:
        place, recording = path.relative_to(data).as_posix(), sha256_of(str(path))
        try:
            sessions = open_any(str(path))
        except RecordingError as error:
            leave_out(str(error))
            continue
        for session in sessions:

            def read(session: Session = session) -> tuple[Session, None]:
                return repair(session)[0], None

            yield place if len(sessions) == 1 else f"{place}, {session.id}", str(path), recording, read


@dataclass(frozen=True, eq=False)
class InformedFit:
    """Forecasts with none, with past and with planned inputs, each kept only where it helps.

    Attributes:
        none: a head without inputs.
        response: to the inputs.
        held: to the inputs as far as the past tells them.
        past: a head that reads past inputs, or one on what `held` leaves; None where neither is better on
            blocks of time.
        past_is_held: whether it is the second.
        plan: a head on what the response leaves; None likewise.
    """

    none: HeadFit
    response: ResponseFit
    held: ResponseFit
    past: HeadFit | None
    past_is_held: bool
    plan: HeadFit | None

    @classmethod
    def of(
        cls, source: InputSource, names: Sequence[str], memory_s: float, none: HeadFit | None = None
    ) -> InformedFit:
        base = CopyBaseline(source.horizon)
        none = none or fit_head(source, base)
        response = fit_response(source, names, memory_s=memory_s)
        held = fit_response(HeldPlan(source), names, memory_s=memory_s)
        past, past_is_held, plan = None, False, None
        if response.features is not None:
            reading = fit_head(source, base, more=past_features(source, response.features))
            past = reading if _error(reading) < _error(none) else None
        if held.response is not None:
            left = fit_head(RestWindows(HeldPlan(source), held), base)
            if _error(left) < _error(past or none):
                past, past_is_held = left, True
        if response.response is not None:
            plan = fit_head(RestWindows(source, response), base)
            plan = plan if _error(plan) < _error(past or none) else None
        return cls(none, response, held, past, past_is_held, plan)

    def forecast(self, kind: str, context: np.ndarray, starts: np.ndarray, of: InputSource) -> np.ndarray:
        """[B, H, N] with `none`, `past` or `plan` of the inputs of a source."""
        base = CopyBaseline(of.horizon)
        if kind == "plan" and self.plan is not None:
            response = self.response.without(of, 0, starts)
            return under_plan(self.plan.forecaster(base), context, response)
        if kind != "none" and self.past is not None and self.past_is_held:
            response = self.held.without(HeldPlan(of), 0, starts)
            return under_plan(self.past.forecaster(base), context, response)
        if kind != "none" and self.past is not None and self.response.features is not None:
            forecast = base(0, context)
            if self.past.head is not None:
                more = past_features(of, self.response.features)(starts)
                forecast = forecast + self.past.head.correction(context, more)
            return forecast
        return self.none.forecaster(base)(0, context)


def _error(fit: HeadFit) -> float:
    """Squared error on blocks of time; infinite where there are none."""
    trial = fit.trial
    if trial is None:
        return math.inf
    return float(np.square(trial.target - trial.base - trial.added).sum(dtype=np.float64))


def score_session(
    session: Session, row: RowConfig, seed: int, kernels: Kernels | None = None
) -> dict[str, Any]:
    """One session's scores on its test part, over all, evoked and quiet windows.

    Raises:
        RecordingError: it has not the inputs, or none.
    """
    names = row.inputs or [each.name for each in session.inputs if each.can_be_planned]
    if not names:
        raise RecordingError(f"session {session.id}: has no input that can be planned.")
    source = SessionWindows(session, row.protocol, row.context, row.horizon, row.hold_out or None)
    began = time.process_time()
    fit = InformedFit.of(source, names, row.memory_s)
    seconds = time.process_time() - began
    other = OtherPlan(source, [source.starts(part) for part in PARTS], seed)
    shuffled = InformedFit.of(other, names, row.memory_s, fit.none)
    arx = ArxConfig(row.arx_differences, row.arx_memory, plan=True)

    def informed(fit: InformedFit, kind: str, of: InputSource | None = None) -> Informed:
        return lambda context, starts, given: fit.forecast(kind, context, starts, of or given)

    forecasters: dict[str, Informed] = {
        "none": informed(fit, "none"),
        "past": informed(fit, "past"),
        "plan": informed(fit, "plan"),
        "shuffled": informed(shuffled, "plan", other),
        "wrong": informed(fit, "plan", other),
        "arx": fit_arx(source, names, arx),
        "low-rank arx": fit_arx(source, names, arx, rank=RANK),
        "evoked mean": fit_evoked(source, names, round(EVOKED_S * (session.rate_hz or 1))),
    }
    in_time = {name: _InTime(each, source) for name, each in forecasters.items()}
    found_apart = scores_apart(in_time, source, names, source.starts("train"), seed=seed)
    found: dict[str, Any] = {
        "session": session.id,
        "units": session.num_units,
        "frames": session.num_frames,
        "windows": {part: source.num_windows(0, part) for part in PARTS},
        "scores": found_apart.pop("all"),
        **found_apart,
        "response": fit.response.record(),
        "uses": "plan" if fit.plan is not None else "past" if fit.past is not None else "none",
        "seconds": seconds,
    }
    if kernels is not None:
        found["simulated"] = score_simulated(fit.response, source, kernels, session, seed)
    return found


@dataclass(frozen=True, eq=False)
class _InTime:
    """A forecaster of the study, for the scorer."""

    forecaster: Informed
    source: SessionWindows

    def at(self, session: int, starts: np.ndarray, context: np.ndarray) -> np.ndarray:
        return self.forecaster(context, starts, self.source)


def score_simulated(
    fit: ResponseFit, source: SessionWindows, kernels: Kernels, session: Session, seed: int
) -> dict[str, Any]:
    """How well the true responses are found, and how well plans are chosen by them.

    For each pair of a target and another unit whose true response to a jump of 1 peaks at 0.3 or more (marks
    are jumps of 3): the correlation over 20 s,
    and whether the sign agrees at the true peak. For 200 draws of three units to raise and three to lower, by
    how much the true value of the chosen one of eight plans of one mark misses the best, over the same for
    choosing by chance.
    """
    num_frames = round(20 * (session.rate_hz or 1))
    targets = kernels.targets(len(session.stimulus_names or ()))
    true = np.stack([kernels.response(target, 20.0)[:num_frames] for target in targets])  # [targets, T, N]
    if fit.response is None:
        return {"pairs": 0, "median_r": None, "signs": None, "regret": None}
    features = fit.response.features
    scale = source.preprocessing.scale
    found = np.zeros_like(true)
    for number, name in enumerate(session.stimulus_names or ()):
        if name in features.channels:
            inputs = np.zeros((2, features.before + num_frames, len(features.channels)), np.float32)
            inputs[0, features.before, features.channels.index(name)] = 1
            answers = fit.response(inputs)[:, 1:]
            found[number] = (answers[0] - answers[1]) * scale
    correlations, signs = [], []
    for number, target in enumerate(targets):
        for unit in range(true.shape[2]):
            peak = np.abs(true[number, :, unit]).argmax()
            if unit != target and abs(true[number, peak, unit]) >= LEAST_PEAK * JUMP:
                pair = true[number, :, unit], found[number, :, unit]
                correlations.append(np.corrcoef(*pair)[0, 1] if pair[1].any() else 0.0)
                signs.append(pair[0][peak] * pair[1][peak] > 0)
    rng = rng_for(seed, "plans")
    frames = round(10 * (session.rate_hz or 1))
    regret = chance = 0.0
    for _ in range(200):
        units = rng.choice(true.shape[2], 6, replace=False)
        plans = rng.choice(len(targets), min(8, len(targets)), replace=False)
        sign = np.repeat([1, -1], 3) / 3
        worth, expected = (of[plans, :frames].mean(axis=1)[:, units] @ sign for of in (true, found))
        regret += float(worth.max() - worth[expected.argmax()])
        chance += float(worth.max() - worth.mean())
    return {
        "pairs": len(correlations),
        "median_r": float(np.median(correlations)),
        "signs": float(np.mean(signs)),
        "regret": regret / chance,
    }


def overview(rows: Mapping[str, RowConfig], found: Mapping[str, list[dict[str, Any]]], seed: int) -> Table:
    """A line for each row and each of its subsets."""
    lines = []
    for name, row in rows.items():
        groups = {name: found[name]}
        for subset, patterns in row.subsets.items():
            groups[subset] = [
                each for each in found[name] if any(fits(each["session"], one) for one in patterns)
            ]
        for label, group in groups.items():
            means = {key: _mean(group, key) for key in (*INFORMED, *RIVALS)}
            lines.append(
                (
                    label, len(group), row.target, *(means[key] for key in INFORMED),
                    _difference(group, "plan", "past", seed), *(means[key] for key in RIVALS),
                    _difference(group, "plan", "arx", seed),
                    _difference(group, "plan", "evoked mean", seed),
                )
            )  # fmt: skip
    return Table(
        "rows",
        "mean test score over sessions; 95 % interval over sessions where there are five or more",
        ("row", "sessions", "target", *INFORMED, "plan - past", *RIVALS, "plan - arx", "plan - evoked mean"),
        tuple(lines),
    )


def apart(found: Mapping[str, list[dict[str, Any]]]) -> Table:
    """Evoked and quiet windows apart."""
    lines = []
    for name, group in found.items():
        for which in APART:
            scored = [each for each in group if each[which]["plan"] is not None]
            if scored:
                share = sum(each["num_evoked"] for each in group) / sum(
                    each["windows"]["test"] for each in group
                )
                lines.append(
                    (
                        name, which, share if which == "evoked" else 1 - share, len(scored),
                        *(_mean(scored, key, which) for key in (*INFORMED, *RIVALS)),
                    )
                )  # fmt: skip
    return Table(
        "windows",
        f"windows in whose horizon an input changes by more than {EVOKED_SHARE:.0%} of its range, and others",
        ("row", "windows", "share", "sessions", *INFORMED, *RIVALS),
        tuple(lines),
    )


def by_session(found: Mapping[str, list[dict[str, Any]]]) -> Table:
    """A line for each session."""
    return Table(
        "sessions",
        "test score by session; `uses` is what blocks of time found to help",
        (
            "row", "session", "units", "windows", *INFORMED, *RIVALS, "uses", "encoding", "memory s",
            "features",
        ),
        tuple(
            (
                name, each["session"], each["units"], each["windows"]["test"],
                *(each["scores"][key] for key in (*INFORMED, *RIVALS)), each["uses"],
                each["response"]["encoding"], each["response"]["memory_s"],
                each["response"]["num_features"],
            )
            for name, group in found.items()
            for each in group
        ),
    )  # fmt: skip


def of_simulated(found: Mapping[str, list[dict[str, Any]]]) -> Table:
    """Responses found of simulated worms."""
    return Table(
        "simulated",
        "true responses: pairs of which a jump of 1 has a peak of 0.3 or more, median correlation over 20 s, "
        "agreeing signs; regret of choosing among eight plans, over that of chance",
        ("row", "session", "pairs", "median r", "signs", "regret"),
        tuple(
            (
                name,
                each["session"],
                *(each["simulated"][key] for key in ("pairs", "median_r", "signs", "regret")),
            )
            for name, group in found.items()
            for each in group
            if "simulated" in each
        ),
    )


@plotting.style()
def picture(found: Mapping[str, list[dict[str, Any]]]) -> bytes:
    """Each row's scores: with a plan, with past inputs, with none, and the rivals."""
    figure, axes = plotting.canvas(8.2, 1.6 + 0.5 * max(2, len(found)))
    shown = {
        "none": ("o", MUTED, "no input"), "past": ("o", plotting.CATEGORIES[1], "past input"),
        "plan": ("o", plotting.BLUE, "planned input"), "wrong": ("x", plotting.BLUE, "another's plan"),
        "arx": ("D", plotting.GREEN, "ARX, planned"), "evoked mean": ("s", FAINT, "mean evoked response"),
    }  # fmt: skip
    names = list(found)[::-1]
    for place, name in enumerate(names):
        means = {key: _mean(found[name], key) for key in shown}
        axes.plot([means["none"], means["plan"]], [place, place], color=FAINT, linewidth=2, zorder=1)
        for key, (marker, colour, label) in shown.items():
            axes.plot(
                max(means[key], -0.3), place, marker, color=colour, markersize=7,
                label=label if place == 0 else None,
            )  # fmt: skip
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_xlim(-0.33, 1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("test score (0: repeating the last frame; 1: perfect; below -0.3 drawn there)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.25 if len(names) < 4 else -0.14), ncols=3)
    plotting.title(axes, "What knowing the inputs is worth", "mean over sessions of each row")
    return plotting.png(figure)


def _mean(group: Sequence[Mapping[str, Any]], key: str, block: str = "scores") -> float:
    values = np.array([each[block][key] for each in group], float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _difference(group: Sequence[Mapping[str, Any]], first: str, second: str, seed: int) -> str:
    values, other = (np.array([each["scores"][name] for each in group], float) for name in (first, second))
    values = values - other
    if not len(values):
        return ""
    if len(values) < LEAST_SESSIONS:
        return f"{values.mean():+.3f}"
    low, high = percentile_interval(session_resamples(values[:, None], rng_for(seed, "pairs")))
    return f"{values.mean():+.3f} [{float(low[0]):+.3f}, {float(high[0]):+.3f}]"
