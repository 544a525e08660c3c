"""A study of animals that a backbone has not seen: pretrain on all but one, adapt to it, each in turn.

    shards/                         the recordings, prepared
    without-<animal>/run-<seed>/    pretraining on all other animals
    scores/<session>-<seed>*.json   that backbone adapted to a session of the animal, beside its rivals
    study.json                      which sessions these are, and of what content
    result.json, report.md, minutes.png

Every file is a step that is not done again, so a study goes on where it was stopped. It needs no Ray.
"""

from __future__ import annotations

import dataclasses
import glob
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from forebrain import plotting
from forebrain.adaptation.adapting import default_mode
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.comparison import NOT_ADAPTED, RIVALS, SELF, compare
from forebrain.adaptation.fit import FitConfig
from forebrain.alone import alone_in
from forebrain.config import one_of
from forebrain.errors import AdaptationError, ConfigError, RecordingError
from forebrain.evaluation.tables import Table
from forebrain.models.base import ModelConfig
from forebrain.models.poco import PocoConfig
from forebrain.models.registry import MODELS
from forebrain.runs.pretrain import check_possible
from forebrain.scoring.intervals import percentile_interval, rng_for, session_resamples
from forebrain.sealed import plain_json, require_numbers
from forebrain.sessions.preprocessing import rates_agree
from forebrain.sessions.session import Session, session_key
from forebrain.shards.stream import MixtureConfig
from forebrain.studies.backbone import animal_of, config_without, prepared, pretrained, unscorable
from forebrain.studies.kept import claim, opened, read_step, require_unchanged, write_step
from forebrain.studies.remarks import Remarks
from forebrain.training.config import EvaluationConfig, PretrainConfig, TrainingConfig
from forebrain_registry.storage import Folder

ADAPTED = "adapted"
# The stack with the backbone as it was published: no step is taken.
ZERO_STEPS = "zero steps"
SCORED = (ADAPTED, ZERO_STEPS, NOT_ADAPTED, *RIVALS)
# What could have been chosen in its place: by steps alone, and by what is weighed as well.
REGRETS = {
    "steps": (ADAPTED, ZERO_STEPS),
    "steps and members": (ADAPTED, ZERO_STEPS, NOT_ADAPTED, "linear", "ridge"),
}
# Ends the names of scores of stretches.
_STRETCH = "min.json"
DRAWN = (ADAPTED, SELF, "ridge", "linear", "copy")


@dataclass(frozen=True)
class StudyConfig:
    """A study; the same command goes on where it was stopped.

    Attributes:
        recording: recordings of three animals or more, of one species or of several.
        out: folder for data, runs and results.
        minutes: lengths of a stretch of the new animal, of which alone anything is known: `adapt --minutes`;
            all that trains is the last of them. None: the whole recording, as `adapt` does.
        seeds: times that everything is done, with other seeds.
        species: leave out animals of these species alone; backbones are trained on all. None: every species.
        model: the backbones.
        pretraining: their optimisation.
        mixture: how data sets are mixed.
        fit: the optimisation of adaptations.
    """

    recording: list[str]
    out: str
    minutes: list[float] | None = None
    seeds: int = 2
    species: list[str] | None = None
    model: ModelConfig = field(default_factory=PocoConfig, metadata=one_of(MODELS))
    pretraining: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=400, batch_size=32, learning_rate=1e-3, units_per_window=64, keep_checkpoints=1
        )
    )
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}; expected 1 or more.")
        for minutes in self.minutes or ():
            if not (math.isfinite(minutes) and minutes > 0):
                raise ConfigError(f"minutes holds {minutes:g}; expected positive numbers.")
        if len({f"{minutes:g}" for minutes in self.minutes or ()}) < len(self.minutes or ()):
            raise ConfigError(f"minutes is {self.minutes}; expected each length once.")


@alone_in("out")
def study(config: StudyConfig, console: Console, command: str = "") -> dict[str, Any]:
    """Does what is not done yet, and sums up.

    Args:
        config: the study.
        console: for progress and tables.
        command: how the study was called, for the report.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: there are too few animals, two recordings are one session by name, one changes, none can
            be scored, or the folder holds other work or results of other settings. What can be known of it
            before a run is trained is raised before.
    """
    out, remarks = Folder(config.out), Remarks(console)
    _require_same_study(out, config.minutes is not None)
    animals, unchanged = prepared_animals(config.recording, config.species, out, remarks)
    steps = {
        (seed, animal): found
        for seed in range(config.seeds)
        for animal, own in animals.items()
        if (found := _find_steps(config, own, seed, remarks))
    }
    if not steps:
        raise ConfigError(f"no session could be scored; nothing was trained.{remarks.first()}")
    runs = {
        (seed, animal): run_without(
            animal, out, seed=seed, model=config.model, training=config.pretraining, mixture=config.mixture
        )
        for seed, animal in steps
    }
    for run in runs.values():
        check_possible(run)
    rows: list[dict[str, Any]] = []
    for key, run in runs.items():
        address = pretrained(run, console, remarks)
        rows += _rows(config, steps[key], address, key[0], unchanged, remarks, console)
    if not rows:
        raise ConfigError(f"no session could be scored.{remarks.first()}")
    result = {"command": command, "rows": rows, **summarise(rows), **remarks.values()}
    out.write("result.json", plain_json(result))
    tables = tables_of(result)
    pictures = []
    if config.minutes:
        with tempfile.TemporaryDirectory() as scratch:
            picture = draw(result, Path(scratch) / "minutes.png")
            out.write(picture.name, picture.read_bytes())
        pictures.append("![score by minutes of the new animal](minutes.png)\n")
    write_report(out, "report.md", command, tables, pictures, remarks)
    for table in tables[:-1]:
        console.print(table.to_rich())
    return result


def _require_same_study(out: Folder, by_minutes: bool) -> None:
    """Raises ConfigError if a folder's scores are of whole recordings where stretches are asked for, or the
    other way about: one report would take the other's place."""
    if any(name.endswith(_STRETCH) != by_minutes for name in out.child("scores").names()):
        there, asked = ("leave-one-out", "minutes") if by_minutes else ("minutes", "leave-one-out")
        raise ConfigError(f"{out.uri} holds study {there}; give another --out for study {asked}.")


def run_without(
    animal: str,
    out: Folder,
    *,
    seed: int,
    model: ModelConfig,
    training: TrainingConfig,
    mixture: MixtureConfig,
    name: str = "run",
) -> PretrainConfig:
    """The run that does not see an animal, dataset/subject, in `out`/without-<animal>/<name>-<seed>.

    Other arguments are those of `config_without`.
    """
    return config_without(
        out, f"without-{session_key(animal)}/{name}-{seed}", [glob.escape(animal)], seed=seed, model=model,
        training=training, mixture=mixture,
        evaluation=EvaluationConfig(windows_per_session=64, brief=True),
    )  # fmt: skip


def write_report(
    out: Folder,
    name: str,
    command: str,
    tables: Sequence[Table],
    pictures: Sequence[str],
    remarks: Remarks,
) -> None:
    """Writes a study's tables as Markdown, with the command that makes them again, its pictures' lines and
    its remarks."""
    said = [f"`{command}`\n"] * bool(command)
    report = "\n".join([*said, *(table.to_markdown() for table in tables), *pictures, *remarks.lines()])
    out.write(name, report.encode())


def prepared_animals(
    recording: Sequence[str], species: Sequence[str] | None, out: Folder, remarks: Remarks
) -> tuple[dict[str, list[Session]], dict[str, tuple[str, str]]]:
    """Claims a study's folder, and prepares its recordings in `out`/shards.

    Args:
        recording: files.
        species: of the animals that are left out; None: every species.
        out: the folder of the study.
        remarks: is told which recordings cannot be used.

    Returns:
        The sessions of each animal of these species that can be used, dataset/subject; of each session by
        id, its recording and the hash of it.

    Raises:
        ConfigError: there are too few animals or none of a species, two recordings are one session by name,
            one changes, or the folder holds other work.
    """
    read, contents = opened(recording)
    animals: dict[str, list[Session]] = {}
    for session, _ in sorted(read, key=lambda each: each[0].id):
        animals.setdefault(animal_of(session), []).append(session)
    if len(animals) < 3:
        raise ConfigError(
            f"{len(animals)} animals; expected 3 or more, so that two are left to train on. Give more "
            "recordings."
        )
    known = sorted({session.species for session, _ in read})
    for name in species or ():
        if name not in known:
            raise ConfigError(f"species holds {name!r}; the recordings are of {', '.join(known)}.")
    claim(out, contents, "leave-one-out")
    entries = prepared(recording, out, remarks)
    usable = {entry.id for entry in entries}
    animals = {name: own for name, own in animals.items() if any(one.id in usable for one in own)}
    if len(animals) < 3:
        raise ConfigError(
            f"{len(animals)} animals can be used; expected 3 or more, so that two are left to train on. Give "
            "more recordings, and another --out."
        )
    if species is not None:
        animals = {name: own for name, own in animals.items() if own[0].species in species}
    remarks.note_doubts(
        (
            [entry for entry in entries if animal_of(entry) != name],
            [entry for entry in entries if animal_of(entry) == name],
        )
        for name in animals
    )
    return animals, {session.id: (path, contents[session.id]) for session, path in read}


@dataclass(frozen=True)
class _Step:
    """A score: of a session, and of a stretch of it.

    Attributes:
        session: of an animal left out.
        minutes: of the stretch, infinite for all that trains; None for the whole recording.
        name: of its file.
        row: what is kept; None where it is not scored yet.
    """

    session: Session
    minutes: float | None
    name: str
    row: dict[str, Any] | None


def _find_steps(config: StudyConfig, sessions: Sequence[Session], seed: int, remarks: Remarks) -> list[_Step]:
    """Finds what of an animal's sessions is scored, and what can be.

    Raises:
        ConfigError: what is scored is of another fit.
    """
    place, fit = Folder(config.out).child("scores"), replace(config.fit, seed=seed)
    stretches: Sequence[float | None] = [*config.minutes, math.inf] if config.minutes else [None]
    steps = []
    for session in sessions:
        for minutes in stretches:
            ending = ".json" if minutes is None else f"-{minutes:g}{_STRETCH}"
            name = f"{session_key(session.id)}-{seed}{ending}"
            asked = None if minutes is None or math.isinf(minutes) else minutes
            of = {"session": session.id, "species": session.species, "seed": seed, "asked_minutes": asked}
            row = read_step(place, name, _require_row, of)
            if row is not None and row.get("fit") != dataclasses.asdict(fit):
                raise ConfigError(f"{place.uri_of(name)} is of another --fit; give another --out.")
            if row is None and (why := unscorable(session, config.model, fit, minutes=minutes)) is not None:
                remarks.leave_out(why)
                continue
            steps.append(_Step(session, minutes, name, row))
    return steps


def _rows(
    config: StudyConfig,
    steps: Sequence[_Step],
    run: str,
    seed: int,
    unchanged: Mapping[str, tuple[str, str]],
    remarks: Remarks,
    console: Console,
) -> list[dict[str, Any]]:
    """A row for each step of an animal; remarks what cannot be scored."""
    place, rows = Folder(config.out).child("scores"), []
    backbone, fit = Backbone.from_run(run), replace(config.fit, seed=seed)
    weights = backbone.origin.weights_sha256
    for step in steps:
        session, name = step.session, step.name
        row = of_own_frames(step.row, session, backbone, place.uri_of(name), console)
        if row is None:
            try:
                row = _adapt(backbone, session, step.minutes, fit)
            except (AdaptationError, RecordingError) as error:
                remarks.leave_out(str(error))
                continue
            require_unchanged(*unchanged[session.id])
            row = write_step(place, name, row)
            told = [f"{each} {row[each]:.3f}" for each in (ADAPTED, SELF) if row[each] is not None]
            what = "" if step.minutes is None else f", {row['minutes']:.3g} minutes"
            console.print(f"{session.id}, seed {seed}{what}: {', '.join(told)}")
        if row.get("weights_sha256", weights) != weights:  # of an earlier version, taken at its word
            raise ConfigError(f"{place.uri_of(name)} is of another backbone; give another --out.")
        remarks.step(row)
        rows.append(row)
    return rows


def of_own_frames(
    row: dict[str, Any] | None, session: Session, backbone: Backbone, uri: str, console: Console
) -> dict[str, Any] | None:
    """A step's row; None, which is said, where an earlier version brought the session to a rate of the
    backbone's and scored those frames."""
    if row is None or "rate_hz" in row or not backbone.rates_hz:
        return row
    if any(rates_agree(session.rate_hz, rate) for rate in backbone.rates_hz):
        return row
    console.print(
        f"{uri}: of frames that an earlier version brought to another rate than the recording's; it is done "
        "again."
    )
    return None


def _require_row(row: Mapping[str, Any]) -> None:
    """Raises ValueError or LookupError where a row cannot be summed up."""
    require_numbers(row, (ADAPTED, ZERO_STEPS, NOT_ADAPTED))
    require_numbers(row, ("minutes", *SCORED, "noise_ceiling"), or_none=True)


def _adapt(backbone: Backbone, session: Session, minutes: float | None, fit: FitConfig) -> dict[str, Any]:
    torch.set_num_threads(1)
    row: dict[str, Any] = {
        "session": session.id,
        "species": session.species,
        "seed": fit.seed,
        "minutes": None,
        "asked_minutes": None if minutes is None or math.isinf(minutes) else minutes,
        "fit": dataclasses.asdict(fit),
        "weights_sha256": backbone.origin.weights_sha256,
    }
    comparison = compare(backbone, session, default_mode(backbone.model, minutes), fit, minutes=minutes)
    zero = comparison
    if comparison.mode != "none":
        zero = compare(backbone, session, "none", fit, rivals=False)
    result = comparison.result()
    row["minutes"] = comparison.prepared.minutes
    row["rate_hz"] = comparison.prepared.session.rate_hz
    row |= {ADAPTED: result["score"], ZERO_STEPS: zero.result()["score"]}
    row |= {NOT_ADAPTED: result["others"].get(NOT_ADAPTED, result["score"])}
    row |= {name: result["baselines"][name] for name in RIVALS}
    return row | {
        name: result[name] for name in ("noise_ceiling", "weights", "seconds_in_all", "uncertainty")
    }


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over sessions, each the mean of its seeds, with bootstrap intervals over sessions.

    A session has for each length of stretch the longest that it holds of at most so many minutes. What could
    not be fitted to a stretch that short scores as copy.
    """
    found = []
    for species in sorted({row["species"] for row in rows}):
        own = [row for row in rows if row["species"] == species]
        longest = max((row["minutes"] or 0 for row in own), default=0)
        lengths = sorted({row["asked_minutes"] for row in own if row["asked_minutes"] is not None})
        lengths = [length for length in lengths if length < longest]
        for length in [*lengths, None]:
            chosen = _at_most(own, length)
            names = sorted({row["session"] for row in chosen})
            of_session = [[row for row in chosen if row["session"] == name] for name in names]
            values = np.array(
                [
                    [np.mean([row[name] or 0.0 for row in same_session]) for name in SCORED]
                    for same_session in of_session
                ]
            )
            low, high = _interval(values)
            ahead = values[:, :1] - values
            ahead_low, ahead_high = _interval(ahead)
            found.append({
                "species": species,
                "minutes": length,
                "sessions": names,
                "num_so_long": len({row["session"] for row in chosen if row["asked_minutes"] == length}),
                "score": {
                    name: [float(each[place]) for each in (values.mean(axis=0), low, high)]
                    for place, name in enumerate(SCORED)
                },
                "ahead_of": {
                    name: [float(each[place]) for each in (ahead.mean(axis=0), ahead_low, ahead_high)]
                    for place, name in enumerate(SCORED)
                },
                "regret": {
                    among: float(
                        (values[:, [SCORED.index(name) for name in names]].max(axis=1) - values[:, 0]).mean()
                    )
                    for among, names in REGRETS.items()
                },
            })  # fmt: skip
    return {"means": found}


def _at_most(rows: Sequence[Mapping[str, Any]], length: float | None) -> list[Mapping[str, Any]]:
    """Of each session and seed the row of the longest stretch of at most so many minutes; None for any."""

    def minutes(row: Mapping[str, Any]) -> float:
        return row["asked_minutes"] or row["minutes"] or math.inf

    chosen = {
        (row["session"], row["seed"]): row
        for row in sorted(rows, key=minutes)
        if length is None or minutes(row) <= length
    }
    return list(chosen.values())


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return percentile_interval(session_resamples(values, rng_for(0, "leave-one-out")))


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """Of each species mean scores by length of stretch, and how far the adapted is ahead; then all rows."""
    tables = []
    for species in dict.fromkeys(each["species"] for each in result["means"]):
        means = [each for each in result["means"] if each["species"] == species]
        stretches = any(each["minutes"] is not None for each in means)
        first = ("minutes at most", "of them so long") if stretches else ()
        names = [name for name in SCORED if not (stretches and name == ZERO_STEPS)]

        def length(each: Mapping[str, Any], stretches: bool = stretches) -> tuple[str, ...]:
            if not stretches:
                return ()
            return "all" if each["minutes"] is None else f"{each['minutes']:g}", str(each["num_so_long"])

        tables.append(Table(
            name=f"{species}-scores",
            title=f"{species}: mean test score, {len(means[-1]['sessions'])} sessions of animals left out",
            columns=(*first, *names),
            rows=tuple((*length(each), *(each["score"][name][0] for name in names)) for each in means),
        ))  # fmt: skip
        rivals = [name for name in names if name not in (ADAPTED, "copy", "mean")]
        tables.append(Table(
            name=f"{species}-ahead",
            title=f"{species}: adapted less each, 95 % interval over sessions",
            columns=(*first, *rivals),
            rows=tuple(
                (*length(each), *(_signed(each["ahead_of"][name]) for name in rivals))
                for each in means
            ),
        ))  # fmt: skip
        tables.append(Table(
            name=f"{species}-regret",
            title=f"{species}: best on the test part less adapted, mean over sessions: regret of choosing",
            columns=(*first, *REGRETS),
            rows=tuple((*length(each), *each["regret"].values()) for each in means),
        ))  # fmt: skip
    tables.append(Table(
        name="sessions",
        title="test score by session",
        columns=("session", "seed", "minutes", *SCORED, "noise ceiling"),
        rows=tuple(
            tuple(row[name] for name in ("session", "seed", "minutes", *SCORED, "noise_ceiling"))
            for row in result["rows"]
        ),
    ))  # fmt: skip
    return tables


def _signed(bounds: Sequence[float]) -> str:
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*bounds)


@plotting.style()
def draw(result: Mapping[str, Any], path: Path) -> Path:
    """Score against minutes of the new animal, a panel for each species."""
    every = list(dict.fromkeys(each["species"] for each in result["means"]))
    figure, panels = plotting.panels(3.4 * len(every) + 1.2, 3.6, 1, len(every), sharey=True)
    colours = plotting.colours(DRAWN)
    for axes, species in zip(panels[0], every, strict=True):
        means = [each for each in result["means"] if each["species"] == species]
        known = [row["minutes"] for row in result["rows"] if row["species"] == species and row["minutes"]]
        minutes = [each["minutes"] or max(known) for each in means]
        ends = {}
        for name in DRAWN:
            value, low, high = np.array([each["score"][name] for each in means]).T
            axes.plot(minutes, value, marker="o", **plotting.line(name, colours[name]))
            if name == ADAPTED:
                plotting.band(axes, np.array(minutes), np.stack([low, high]), colours[name])
            ends[name] = (float(value[-1]), colours[name])
        axes.set_xscale("log")
        axes.set_xticks(minutes, [f"{each:.2g}" for each in minutes])
        axes.minorticks_off()
        axes.grid(axis="y")
        axes.set_xlabel(f"minutes of the new animal ({species})")
        if species == every[-1]:
            plotting.label_line_ends(axes, ends)
    panels[0, 0].set_ylabel("score (0 is copy, 1 is perfect)")
    subtitle = "mean over sessions; shaded: 95 % interval over sessions"
    plotting.title(panels[0, 0], "What a backbone gives an animal that it has not seen", subtitle)
    return plotting.save(figure, path)
