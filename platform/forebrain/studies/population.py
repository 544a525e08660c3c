"""What reading the population is worth: on animals left out, beside the same model trained without it.

Two backbones of all other animals, POCO and POCO without its population encoder (UICO), are taken as they are
(mode none) and weighed with the recording's regressions, whose heads read the population or do not: four
stacks. Then the whole one forecasts with the population rolled in time by half of each part, and with some of
the units alone read by encoder and heads, while all are forecast.

    without-<animal>/run-<seed>, uico-<seed>    pretraining on all other animals
    population/<session>-<seed>.json            scores of that animal's session
    population.json, population.md, population.png

Every file is a step that is not done again, so a study goes on where it was stopped. It needs no Ray.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from forebrain import plotting
from forebrain.adaptation.adapting import train
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.calibrating import Remembered
from forebrain.adaptation.fit import FitConfig, WindowForecaster
from forebrain.adaptation.recording import prepare_session
from forebrain.adaptation.stacking import StackForecaster, linear_on
from forebrain.adaptation.windows import SessionWindows
from forebrain.alone import alone_in
from forebrain.errors import AdaptationError, ConfigError, RecordingError
from forebrain.evaluation.tables import Table
from forebrain.models.ablations import UicoConfig
from forebrain.models.base import EncoderDecoder, Interface, Model, SessionInput
from forebrain.models.poco import PocoConfig
from forebrain.runs.pretrain import check_possible
from forebrain.scoring.evaluate import Forecaster, evaluate
from forebrain.scoring.gram import FeatureBlock
from forebrain.scoring.intervals import percentile_interval, rng_for, session_resamples
from forebrain.scoring.pairs import difference_over_time
from forebrain.scoring.ridge import Head, principal_components
from forebrain.scoring.stack import Stack, fit_stack
from forebrain.sealed import plain_json, require_numbers
from forebrain.sessions.session import Session, session_key
from forebrain.shards.stream import MixtureConfig
from forebrain.studies.backbone import pretrained, unscorable
from forebrain.studies.kept import read_step, require_unchanged, write_step
from forebrain.studies.leave_one_out import (
    StudyConfig,
    of_own_frames,
    prepared_animals,
    run_without,
    write_report,
)
from forebrain.studies.remarks import Remarks
from forebrain.studies.rivals import with_rolled
from forebrain.training.config import TrainingConfig
from forebrain_registry.storage import Folder

WITH, WITHOUT, ROLLED = "with it", "without", "rolled"
BACKBONE_ALONE, HEADS_ALONE = "backbone alone", "heads alone"
# Which of the four stacks' two parts read the population: the backbone, the heads.
STACKS = {
    WITH: (True, True),
    BACKBONE_ALONE: (True, False),
    HEADS_ALONE: (False, True),
    WITHOUT: (False, False),
}
SCORED = (*STACKS, ROLLED)


@dataclass(frozen=True)
class PopulationConfig:
    """A study; the same command goes on where it was stopped.

    Attributes:
        recording: recordings of three animals or more, of one species or of several.
        out: folder for data, runs and results; that of a `study leave-one-out` has some of the runs.
        seeds: times that everything is done, with other seeds.
        species: leave out animals of these species alone; backbones are trained on all. None: every species.
        units: how many units are read, drawn by seed, of sessions that have more.
        windows_per_session: at most so many are scored a session.
        model: the backbone that reads the population.
        pretraining: the optimisation of both.
        mixture: how data sets are mixed.
    """

    recording: list[str]
    out: str
    seeds: int = StudyConfig.seeds
    species: list[str] | None = None
    units: tuple[int, ...] = (1, 4, 16, 64)
    windows_per_session: int = 512
    model: PocoConfig = field(default_factory=PocoConfig)
    pretraining: TrainingConfig = field(default_factory=lambda: StudyConfig([], "").pretraining)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)

    def __post_init__(self) -> None:
        if any(count < 1 for count in self.units):
            raise ConfigError(f"units are {list(self.units)}; expected how many are read, 1 or more each.")
        for name in ("seeds", "windows_per_session"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more.")


@alone_in("out")
def study(config: PopulationConfig, console: Console, command: str = "") -> dict[str, Any]:
    """Does what is not done yet, and sums up.

    Args:
        config: the study.
        console: for progress and tables.
        command: how the study was called, for the report.

    Returns:
        What population.json holds.

    Raises:
        ConfigError: there are too few animals, two recordings are one session by name, one changes, or the
            folder holds other work or results of other settings.
    """
    out, remarks = Folder(config.out), Remarks(console)
    models = {"run": config.model, "uico": without_population(config.model)}
    animals, unchanged = prepared_animals(config.recording, config.species, out, remarks)
    steps = {
        (animal, seed): found
        for animal, own in animals.items()
        for seed in range(config.seeds)
        if (found := _find_steps(config, own, seed, remarks))
    }
    if not steps:
        raise ConfigError(f"no session could be scored; nothing was trained.{remarks.first()}")
    runs = {
        (animal, seed): [
            run_without(
                animal, out, seed=seed, model=model, training=config.pretraining, mixture=config.mixture,
                name=name,
            )
            for name, model in models.items()
        ]
        for animal, seed in steps
    }  # fmt: skip
    for each in itertools.chain.from_iterable(runs.values()):
        check_possible(each)
    rows: list[dict[str, Any]] = []
    for key, both in runs.items():
        addresses = [pretrained(run, console, remarks) for run in both]
        rows += _rows(config, steps[key], addresses, key[1], unchanged, remarks, console)
    if not rows:
        raise ConfigError(f"no session could be scored.{remarks.first()}")
    result = {"command": command, "rows": rows, **summarise(rows), **remarks.values()}
    out.write("population.json", plain_json(result))
    with tempfile.TemporaryDirectory() as scratch:
        picture = draw(result, Path(scratch) / "population.png")
        out.write(picture.name, picture.read_bytes())
    tables = tables_of(result)
    pictures = ["![score by units read](population.png)\n"]
    write_report(out, "population.md", command, tables, pictures, remarks)
    for table in tables[:-1]:
        console.print(table.to_rich())
    return result


def without_population(model: PocoConfig) -> UicoConfig:
    """The same model without its population encoder."""
    kept = (item.name for item in fields(model) if item.name not in ("name", *UicoConfig.UNUSED))
    return UicoConfig(**{name: getattr(model, name) for name in kept})


def _settings(config: PopulationConfig) -> dict[str, Any]:
    return {"units": list(config.units), "windows_per_session": config.windows_per_session}


def _find_steps(
    config: PopulationConfig, sessions: Sequence[Session], seed: int, remarks: Remarks
) -> list[tuple[Session, dict[str, Any] | None]]:
    """The sessions of an animal that are scored, each with its row, and those that can be, with None.

    Raises:
        ConfigError: what is scored is of other settings.
    """
    place, steps = Folder(config.out).child("population"), []
    for session in sessions:
        name = _step_of(session, seed)
        row = read_step(place, name, _require_row, {"session": session.id, "seed": seed})
        if row is not None and row["settings"] != _settings(config):
            raise ConfigError(
                f"{place.uri_of(name)} is of another --units or --windows_per_session; give another --out."
            )
        if row is None:
            why = unscorable(session, config.model, FitConfig(seed=seed), has_rivals=False)
            if why is not None:
                remarks.leave_out(why)
                continue
        steps.append((session, row))
    return steps


def _step_of(session: Session, seed: int) -> str:
    return f"{session_key(session.id)}-{seed}.json"


def _rows(
    config: PopulationConfig,
    steps: Sequence[tuple[Session, dict[str, Any] | None]],
    runs: Sequence[str],
    seed: int,
    unchanged: Mapping[str, tuple[str, str]],
    remarks: Remarks,
    console: Console,
) -> list[dict[str, Any]]:
    place, rows = Folder(config.out).child("population"), []
    backbones = [Backbone.from_run(run) for run in runs]
    weights = [backbone.origin.weights_sha256 for backbone in backbones]
    for session, kept in steps:
        name = _step_of(session, seed)
        row = of_own_frames(kept, session, backbones[0], place.uri_of(name), console)
        if row is None:
            try:
                row = score_session(backbones[0], backbones[1], session, config, seed)
            except (AdaptationError, RecordingError) as error:
                remarks.leave_out(str(error))
                continue
            require_unchanged(*unchanged[session.id])
            row |= {"seed": seed, "settings": _settings(config), "weights_sha256": weights}
            row = write_step(place, name, row)
        if row["weights_sha256"] != weights:
            raise ConfigError(f"{place.uri_of(name)} is of other backbones; give another --out.")
        remarks.step(row)
        told = ", ".join(f"{each} {row[each]:.3f}" for each in SCORED)
        console.print(f"{session.id}, seed {seed}: {told}")
        rows.append(row)
    return rows


def _require_row(row: Mapping[str, Any]) -> None:
    """Raises ValueError, LookupError or TypeError where a row cannot be summed up."""
    require_numbers(row, SCORED)
    require_numbers(row["by_units"], row["by_units"])
    for table in tables_of({"rows": [row], **summarise([row])}):
        table.to_markdown()
    row["settings"], row["weights_sha256"]


def score_session(
    backbone: Backbone, without: Backbone, session: Session, config: PopulationConfig, seed: int
) -> dict[str, Any]:
    """One session's scores on its test part.

    Args:
        backbone, without: that read the population and that do not, of the same sessions.
        session: as it was recorded, of an animal that neither has seen.
        config: how many units are read, how many windows scored.
        seed: of the units that are drawn, and of the choice of windows.

    Raises:
        AdaptationError: it is too short, or nothing moves in its test part.
    """
    torch.set_num_threads(1)
    fit = FitConfig(seed=seed)
    prepared = prepare_session(session, backbone.description, backbone.rates_hz)
    windows, session = prepared.windows, prepared.session
    linear = linear_on(windows, seed)
    trained = [train(each, prepared, "none", fit) for each in (backbone, without)]
    models = [Remembered(WindowForecaster(each.model, each.interface, fit)) for each in trained]
    nobody = np.zeros((session.num_units, 0), np.float32)
    stacks = {
        name: (
            fit_stack(windows, linear, models[not reads], loadings=None if head_reads else nobody).stack,
            reads,
        )
        for name, (reads, head_reads) in STACKS.items()
    }
    forecasters: dict[str, Forecaster] = {
        name: StackForecaster(stack, models[not reads]) for name, (stack, reads) in stacks.items()
    }
    model, interface = trained[0].model, trained[0].interface
    assert isinstance(model, EncoderDecoder), "POCO"
    order = rng_for(seed, "units", session.id).permutation(session.num_units)
    counts = [count for count in config.units if count < session.num_units]
    for count in counts:
        read = np.sort(order[:count])
        forecast = Remembered(_of(ReadsSome(model, torch.from_numpy(read)), interface))
        components = principal_components(windows, units=read)
        stack = fit_stack(windows, linear, forecast, loadings=components).stack
        forecasters[str(count)] = StackForecaster(stack, forecast)
    test = evaluate(forecasters, windows, "test", windows_per_session=config.windows_per_session, seed=seed)
    if not test.summary(WITH).num_sessions:
        raise AdaptationError(f"session {session.id}: nothing moves in its test part.")
    doubled = SessionWindows(
        with_rolled(session, windows.protocol), windows.protocol, windows.context, windows.horizon
    )
    rolled = evaluate(
        {ROLLED: _rolled(model, interface, stacks[WITH][0])}, doubled, "test",
        windows_per_session=config.windows_per_session, seed=seed,
        as_scored=lambda _, values: values[..., : session.num_units],
    )  # fmt: skip
    scores = {name: test.summary(name).value("score") for name in forecasters}
    return {
        "session": session.id,
        "species": session.species,
        "num_units": session.num_units,
        "rate_hz": session.rate_hz,
        **{name: scores[name] for name in STACKS},
        ROLLED: rolled.summary(ROLLED).value("score"),
        "by_units": {**{str(count): scores[str(count)] for count in counts}, "all": scores[WITH]},
        "worth": [_plain(bound) for bound in difference_over_time(test.summary(WITH), test.summary(WITHOUT))],
    }


class ReadsSome(Model):
    """A model whose encoder reads some of the units alone; it forecasts all, as they see it.

    Args:
        model: the whole.
        read: int64 [k], the units that the encoder reads.
    """

    def __init__(self, model: EncoderDecoder, read: Tensor) -> None:
        super().__init__()
        self.model, self.config, self.read = model, model.config, read

    def forecast_session(self, entry: SessionInput) -> Tensor:
        units = self.model.embed_units(entry)
        population = replace(entry, context=entry.context[..., self.read], forecast_units=None)
        latents = self.model.encode(population, units[self.read])
        context = entry.of_forecast(entry.context, 2)
        return self.model.decode(context, entry.of_forecast(units, 0), latents)


def _of(model: Model, interface: Interface, forecast_units: Tensor | None = None) -> Forecaster:
    """A model with an interface, for the scorer."""

    @torch.inference_mode()
    def forecast(session: int, context: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(np.ascontiguousarray(context))
        entry = SessionInput(frames, interface, forecast_units=forecast_units)
        return model.eval().forecast([entry])[0].numpy()

    return forecast


def _rolled(model: EncoderDecoder, interface: Interface, stack: Stack) -> Forecaster:
    """The stack as it was fitted, reading the population in the second half of the units of `with_rolled`."""
    num_units = len(interface.unit)
    twice = model.new_interface(2 * num_units)
    twice.is_smooth = interface.is_smooth
    with torch.no_grad():
        twice.unit.copy_(torch.cat([interface.unit, interface.unit]))
        twice.session.copy_(interface.session)
    moved = _of(ReadsSome(model, torch.arange(num_units, 2 * num_units)), twice, torch.arange(num_units))
    head = stack.head
    if head is not None:
        common = {ROLLED: head.common["population"]} if "population" in head.common else {}
        stack = replace(stack, head=Head(head.features, head.shared, head.own, common))

    def forecast(session: int, context: np.ndarray) -> np.ndarray:
        more = []
        if head is not None:
            (population,) = head.features.common(context[..., num_units:])
            more.append(FeatureBlock(ROLLED, population.values))
        return stack.forecast(context[..., :num_units], moved(session, context), more)

    return forecast


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over sessions, each the mean of its seeds, with bootstrap intervals over sessions."""
    found = []
    for species in sorted({row["species"] for row in rows}):
        own = [row for row in rows if row["species"] == species]
        names = sorted({row["session"] for row in own})
        of_session = [[row for row in own if row["session"] == name] for name in names]
        values = np.array([[np.mean([row[name] for row in same]) for name in SCORED] for same in of_session])
        worth = values - values[:, [SCORED.index(WITHOUT)]]
        low, high = percentile_interval(session_resamples(worth, rng_for(0, "population")))
        by_units = {}
        for count in dict.fromkeys(count for row in own for count in row["by_units"]):
            # Where a session has fewer units, all of them are read.
            seen = [
                np.mean([row["by_units"].get(count, row["by_units"]["all"]) for row in same])
                for same in of_session
            ]
            by_units[count] = float(np.mean(seen))
        by_units["all"] = by_units.pop("all")
        found.append({
            "species": species,
            "sessions": names,
            "score": dict(zip(SCORED, map(float, values.mean(axis=0)), strict=True)),
            "worth": {
                name: [float(each[place]) for each in (worth.mean(axis=0), low, high)]
                for place, name in enumerate(SCORED)
            },
            "by_units": by_units,
        })  # fmt: skip
    return {"means": found}


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """Means by species; what each is worth over none; by units read; then every session."""
    means, counts = result["means"], _counts(result)
    by_units = [[each["by_units"].get(count) for count in counts] for each in means]
    return [
        Table(
            name="scores",
            title="mean test score by what reads the population",
            columns=("species", "sessions", *SCORED),
            rows=tuple(
                (each["species"], len(each["sessions"]), *(each["score"][name] for name in SCORED))
                for each in means
            ),
        ),
        Table(
            name="worth",
            title="score less that without the population, 95 % interval over sessions",
            columns=("species", *(name for name in SCORED if name != WITHOUT)),
            rows=tuple(
                (each["species"], *(_signed(each["worth"][name]) for name in SCORED if name != WITHOUT))
                for each in means
            ),
        ),
        Table(
            name="units",
            title="mean test score of all units by how many are read",
            columns=("species", *counts),
            rows=tuple((each["species"], *row) for each, row in zip(means, by_units, strict=True)),
        ),
        Table(
            name="sessions",
            title="test score by session; the interval is over blocks of time",
            columns=("session", "seed", "units", *SCORED, "with it less without"),
            rows=tuple(
                (
                    row["session"], row["seed"], row["num_units"], *(row[name] for name in SCORED),
                    _signed(row["worth"]),
                )
                for row in result["rows"]
            ),
        ),
    ]  # fmt: skip


def _counts(result: Mapping[str, Any]) -> list[str]:
    counts = {count for each in result["means"] for count in each["by_units"]} - {"all"}
    return [*sorted(counts, key=int), "all"]


def _signed(bounds: Sequence[float | None]) -> str:
    value, low, high = bounds
    if low is None or high is None:  # too short for an interval
        return "–" if value is None else f"{value:+.3f}"
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None


@plotting.style()
def draw(result: Mapping[str, Any], path: Path) -> Path:
    """Score against the units that are read, a line for each species, less the score without any."""
    counts = _counts(result)
    figure, axes = plotting.canvas(5.6, 3.6)
    colours = plotting.colours([each["species"] for each in result["means"]])
    ends = {}
    for each in result["means"]:
        known = [count for count in counts if count in each["by_units"]]
        places = [counts.index(count) for count in known]
        gains = [each["by_units"][count] - each["score"][WITHOUT] for count in known]
        colour = colours[each["species"]]
        axes.plot(places, gains, marker="o", color=colour, linewidth=1.8)
        ends[each["species"]] = (gains[-1], colour)
    axes.axhline(0, color=plotting.INK, linewidth=0.8)
    axes.set_xticks(range(len(counts)), counts)
    axes.grid(axis="y")
    axes.set_xlabel("units whose activity is read")
    axes.set_ylabel("score, less that without any")
    plotting.label_line_ends(axes, ends)
    plotting.title(
        axes, "What reading the population is worth", "animals that no backbone has seen, mean over sessions"
    )
    return plotting.save(figure, path)
