"""Intervals of forecasts from a recording alone: what they cover on the test part, and how wide they are.

    forebrain study intervals --recording PATH... --out DIR

Session by session and by data set: what the 50, 80 and 90 % intervals of the closed-form stack (`linear` and
`ridge`, weighed) cover, how wide they are, MWQL and CRPS, beside a random walk and autoregressions; and what
they cover where they learn from the test part frame by frame, as in a stream. No network is trained;
adaptations are added by `--adapted DIR...`, from what their result.json holds. Of recordings most of whose
units lie on their least value much of the time, such as events and spike counts, coverage says little: CRPS
and the randomised PIT stand alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from rich.console import Console

from forebrain import plotting
from forebrain.adaptation.artifact import RECORD, scores_of
from forebrain.adaptation.stacking import linear_on
from forebrain.adaptation.streamed import covered_in_order, covered_while_drifting
from forebrain.adaptation.windows import SessionWindows
from forebrain.alone import alone_in
from forebrain.errors import AdaptationError, ConfigError, RecordingError
from forebrain.evaluation import figures
from forebrain.evaluation.examples import make_example
from forebrain.evaluation.tables import Cell, Table
from forebrain.scoring.baselines import CopyBaseline
from forebrain.scoring.conformal import Calibration
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.lu2025 import LuWindows
from forebrain.scoring.protocols import PARTS
from forebrain.scoring.quantiles import COVERAGES, QuantileScores
from forebrain.scoring.stack import StackFit, fit_stack
from forebrain.scoring.uncertainty import BASELINES, Uncertainty, assess, stack_residuals
from forebrain.scoring.window_source import WindowSource
from forebrain.sealed import plain_json
from forebrain.sessions.repair import repair
from forebrain.sessions.session import Numbers, Session, numbers_of
from forebrain.shards.recordings import find_all, open_any
from forebrain.studies.kept import claim, contents_of, require_unchanged
from forebrain.studies.remarks import Remarks
from forebrain_registry.storage import Folder, path_here

NAME = "stack"
# Coverage of a unit's 80 % intervals that is called near.
NEAR = (0.7, 0.9)


@dataclass(frozen=True)
class IntervalsConfig:
    """The recordings of the study, and how they are scored.

    Attributes:
        recording: files and folders, of any data sets.
        out: folder for result.json, report.md and pictures.
        protocol: `chronological`, or `lu2025` with windows a horizon apart, to compare with that paper.
        context, horizon: frames.
        short_context, short_horizon: where the segments of a recording are too short for these.
        windows_per_session: at most so many calibrate, and so many are scored.
        adapted: folders of adaptations whose intervals are shown beside.
        seed: of the choice of windows and of the randomised PIT.
    """

    recording: list[str]
    out: str
    protocol: Literal["chronological", "lu2025"] = "chronological"
    context: int = 48
    horizon: int = 16
    short_context: int = 32
    short_horizon: int = 8
    windows_per_session: int = 512
    adapted: list[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("context", "horizon", "short_context", "short_horizon", "windows_per_session"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more.")


@alone_in("out")
def study(config: IntervalsConfig, console: Console) -> dict[str, Any]:
    """Scores every session that has windows in all parts, and sums up.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: no session has, two have one name, a folder holds no adaptation with intervals, or `out`
            holds other work.
        StorageError: `out` cannot be written to; nothing was scored.
    """
    out, remarks = Folder(config.out), Remarks(console)
    adapted = [_of_adaptation(folder) for folder in config.adapted or []]
    rows: list[dict[str, Any]] = []
    numbers: list[tuple[str, Numbers]] = []
    shown: tuple[Session, WindowSource, StackFit, Calibration] | None = None
    recordings = find_all(config.recording)
    read = ((session, address) for address in recordings for session in open_any(address))
    contents = contents_of(read)
    settings = {
        key: value for key, value in asdict(config).items() if key not in ("recording", "out", "adapted")
    }
    claim(out, contents, "intervals", settings)
    for address in recordings:
        for recorded in open_any(address):
            try:
                session, _ = repair(recorded)
            except RecordingError as error:
                remarks.leave_out(str(error))
                continue
            source = _windows(session, config)
            if source is None:
                remarks.leave_out(f"session {session.id}: too short for a window in every part.")
                continue
            try:
                fit = fit_stack(source, linear_on(source, config.seed))
            except AdaptationError as error:
                remarks.leave_out(str(error))
                continue
            found = stack_residuals(fit, source)
            if found is None:
                remarks.leave_out(f"session {session.id}: nothing in it can calibrate intervals.")
                continue
            calibration = found[0].calibrate(found[1])
            scored = assess(
                NAME, _forecaster(fit), source, calibrations={0: calibration},
                windows_per_session=config.windows_per_session, seed=config.seed,
            )  # fmt: skip
            if session.id not in scored.scores[NAME]:
                remarks.leave_out(f"session {session.id}: no window of its test part could be scored.")
                continue
            rows.append(_row(session, source, scored))
            numbers.append((session.id, numbers_of(session)))
            if isinstance(source, SessionWindows):
                streamed = covered_in_order(_forecaster(fit), calibration, session, source)
                rows[-1]["streamed"] = {"coverage": streamed.whole, "near": _near(streamed.by_unit)}
                drifted = covered_while_drifting(_forecaster(fit), calibration, session, source)
                rows[-1]["live"] = None if drifted is None else asdict(drifted)
            require_unchanged(address, contents[recorded.id])
            console.print(_said(rows[-1]))
            if shown is None and not rows[-1]["is_counts"]:
                shown = session, source, fit, calibration
    if not rows:
        raise ConfigError(f"no session could be scored.{remarks.first()}")
    remarks.note_twins(numbers)
    result = {"settings": settings, "sessions": rows, "adapted": adapted, **remarks.values()}
    tables = [by_dataset(rows), by_session(rows)]
    if adapted:
        tables.append(of_adaptations(adapted))
    out.write("result.json", plain_json(result))
    report = [_report(config, tables, shown is not None), *remarks.lines()]
    out.write("report.md", "\n".join(report).encode())
    for table in tables:
        out.write(f"{table.name}.csv", table.to_csv().encode())
    _draw(out, rows, shown)
    for table in tables:
        console.print(table.to_rich())
    return result


def by_dataset(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Means over the sessions of each data set."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["dataset"], []).append(row)
    return Table(
        name="datasets",
        title="mean over sessions by data set, test part",
        columns=(
            "data set", "sessions", "test windows", "coverage 50", "coverage 80", "coverage 90",
            "units near 80", "worst tenth 80", "streamed 80", "streamed near 80", "width 80", "MWQL",
            "normal", "AR", "better than AR", "CRPS", "CRPS AR",
        ),
        rows=tuple(
            (
                name, len(group), min(row["test_windows"] for row in group),
                *(_unless_counts(group, ("coverage", str(level))) for level in COVERAGES),
                _unless_counts(group, ("units_near",)),
                _unless_counts(group, ("worst_tenth_coverage", "0.8")),
                *(_unless_counts(group, ("streamed", each)) for each in ("coverage", "near")),
                _mean(group, ("width", "0.8")), _mean(group, ("mwql",)),
                *(_mean(group, ("baselines", each, "mwql")) for each in BASELINES),
                f"{sum(row['mwql'] < row['baselines']['ar_valql']['mwql'] for row in group)} of {len(group)}",
                _mean(group, ("crps",)), _mean(group, ("baselines", "ar_valql", "crps")),
            )
            for name, group in sorted(groups.items())
        ),
    )  # fmt: skip


def by_session(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each session."""
    return Table(
        name="sessions",
        title="test part by session",
        columns=(
            "session", "units", "context + horizon", "test windows", "coverage 80", "units near 80",
            "worst tenth 80", "streamed 80", "MWQL", "normal", "AR", "CRPS", "informative", "PIT off",
            "live, drifting: any 500 frames",
        ),
        rows=tuple(
            (
                row["session"], row["units"], row["window"], row["test_windows"],
                *(None if row["is_counts"] else value for value in (
                    row["coverage"]["0.8"], row["units_near"], row["worst_tenth_coverage"]["0.8"],
                    row.get("streamed", {}).get("coverage"),
                )),
                row["mwql"], *(row["baselines"][each]["mwql"] for each in BASELINES), row["crps"],
                _ahead(row["informative"]), row["pit_off"], _any_stretch(row),
            )
            for row in rows
        ),
    )  # fmt: skip


def of_adaptations(found: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each adaptation, as its result.json has it."""
    return Table(
        name="adapted",
        title="adapted backbones, test part",
        columns=(
            "session", "model", "coverage 50", "coverage 80", "coverage 90", "worst tenth 80", "width 80",
            "MWQL", "normal", "AR", "CRPS", "calibrated on",
        ),
        rows=tuple(
            (
                each["session"], each["model"],
                *(each["uncertainty"]["coverage"][str(level)] for level in COVERAGES),
                each["uncertainty"]["worst_tenth_coverage"]["0.8"], each["uncertainty"]["width"]["0.8"],
                each["uncertainty"]["mwql"],
                *(each["uncertainty"]["baselines"][name]["mwql"] for name in BASELINES),
                each["uncertainty"]["crps"], each["uncertainty"]["calibrated_on"],
            )
            for each in found
        ),
    )  # fmt: skip


def _windows(session: Session, config: IntervalsConfig) -> WindowSource | None:
    for context, horizon in (
        (config.context, config.horizon),
        (config.short_context, config.short_horizon),
    ):
        source: WindowSource
        if config.protocol == "lu2025":
            source = LuWindows([session], context, horizon)
        else:
            source = SessionWindows(session, "chronological", context, horizon)
        if all(source.num_windows(0, part) for part in PARTS):
            return source
    return None


def _forecaster(fit: StackFit) -> Forecaster:
    return lambda session, context: fit.stack.forecast(context)


def _row(session: Session, source: WindowSource, scored: Uncertainty) -> dict[str, Any]:
    scores: QuantileScores = scored.scores[NAME][session.id]
    result = scored.result(NAME)
    assert result is not None
    one = result["by_session"][session.id]
    calibration = one["calibration"]
    return {
        "session": session.id,
        "dataset": session.dataset,
        "species": session.species,
        "units": session.num_units,
        "window": f"{source.context} + {source.horizon}",
        "test_windows": source.num_windows(0, "test"),
        # Where most units rest on their least value an interval that touches it covers for free.
        "is_counts": calibration["units_with_floor"] > 0.5 * session.num_units,
        "units_near": _near(scores.unit_coverage[COVERAGES.index(0.8)]),
        "pit_off": float(np.abs(len(scores.pit) * scores.pit - 1).mean()),
        **one,
    }


def _near(by_unit: np.ndarray) -> float:
    """Part of the units whose coverage is near."""
    return float(((by_unit >= NEAR[0]) & (by_unit <= NEAR[1])).mean())


def _of_adaptation(folder: str) -> dict[str, Any]:
    path = path_here(folder) / "result.json"
    try:
        result = scores_of(path.read_bytes(), path.with_name(RECORD).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); expected the --out of `forebrain adapt`."
        ) from error
    if not result.get("uncertainty"):
        raise ConfigError(f"{path}: holds no block `uncertainty`; adapt again to have one.")
    try:
        found = {name: result[name] for name in ("session", "model", "mode", "uncertainty")}
        of_adaptations([found]).to_markdown()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged ({error!r:.200}); adapt again.") from error
    return found


def _said(row: Mapping[str, Any]) -> str:
    covered = "counts" if row["is_counts"] else f"80 % intervals cover {row['coverage']['0.8']:.1%}"
    return (
        f"{row['session']}: {covered}, {row['units_near']:.0%} of units near; MWQL {row['mwql']:.3f}, AR "
        f"{row['baselines']['ar_valql']['mwql']:.3f}"
    )


def _any_stretch(row: Mapping[str, Any]) -> str | None:
    live = row.get("live")
    return None if live is None or row["is_counts"] else f"{live['least']:.3f} to {live['most']:.3f}"


def _ahead(informative: Mapping[str, Any]) -> str | None:
    if informative["horizon"] is None:
        return None
    sign = "≥ " if informative["or_longer"] else ""
    return f"{sign}{informative['horizon']:.3g} {informative['unit']}"


def _value(row: Mapping[str, Any], path: Sequence[str]) -> float:
    found: Any = row
    for name in path:
        found = None if found is None else found.get(name)
    return float("nan") if found is None else float(found)


def _mean(rows: Sequence[Mapping[str, Any]], path: Sequence[str]) -> Cell:
    values = np.array([_value(row, path) for row in rows])
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _unless_counts(rows: Sequence[Mapping[str, Any]], path: Sequence[str]) -> Cell:
    return None if any(row["is_counts"] for row in rows) else _mean(rows, path)


def _report(config: IntervalsConfig, tables: Sequence[Table], has_example: bool) -> str:
    pictures = ["![coverage](coverage.png)", ""]
    if has_example:
        pictures += ["![forecasts with intervals](forecasts.png)", ""]
    head = [
        "# Intervals of forecasts from a recording alone",
        "",
        f"Protocol {config.protocol}; the closed-form stack, calibrated on the validation part; at most "
        f"{config.windows_per_session} windows a session (seed {config.seed}). Values are standardised by "
        "the training part. `streamed`: intervals that learn from the test part frame by frame. Of events "
        "and counts coverage is not shown.",
        "",
    ]
    return "\n".join([*head, *pictures, *(table.to_markdown() for table in tables)])


def _draw(
    out: Folder,
    rows: Sequence[Mapping[str, Any]],
    shown: tuple[Session, WindowSource, StackFit, Calibration] | None,
) -> None:
    smooth = [row for row in rows if not row["is_counts"]]
    if smooth:
        out.write("coverage.png", figures.interval_coverage(smooth))
    if shown is not None:
        session, source, fit, calibration = shown
        example = make_example(
            {NAME: _forecaster(fit), "copy": CopyBaseline(source.horizon)},
            source,
            0,
            "test",
            calibrations={NAME: calibration},
        )
        out.write("forecasts.png", plotting.png(figures.traces_figure(example, NAME, session.unit_names)))
