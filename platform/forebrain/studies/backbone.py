"""A backbone to hand out: trained on public recordings, and scored on animals that it was not trained on.

    shards/                        the recordings of the catalogue, prepared
    without-<n>/run-<seed>/        pretraining without the animals of group n, which are then adapted to
    run/                           pretraining on every animal that may train: what is published
    scores/<session>-<seed>.json   an adaptation to a session of an animal that was left out
    study.json                     which sessions these are, and of what content
    result.json, report.md         scores by session, means over animals with intervals

Every file is a step that is not done again, so the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console

from forebrain.adaptation.adapting import default_mode
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.comparison import RIVALS, compare
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.publish import PublishConfig, publish_run, require_publishable, say_published
from forebrain.alone import alone_in
from forebrain.config import one_of
from forebrain.errors import AdaptationError, ConfigError, RecordingError
from forebrain.evaluation.tables import Table
from forebrain.models.base import ModelConfig
from forebrain.models.poco import PocoConfig
from forebrain.models.registry import MODELS
from forebrain.runs.pretrain import pretrain
from forebrain.scoring.intervals import LEVEL, percentile_interval, rng_for, session_resamples
from forebrain.sealed import plain_json, require_numbers
from forebrain.sessions import catalogue
from forebrain.sessions.session import Session, fits, session_key
from forebrain.shards.holdout import HoldoutConfig
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.stream import MixtureConfig
from forebrain.studies.kept import claim, opened, read_step, require_unchanged, write_step
from forebrain.training.config import EvaluationConfig, PretrainConfig, TrainingConfig
from forebrain_registry import Metric
from forebrain_registry.storage import Folder

# What is scored on an animal left out, in the order of tables; `score` is the adapted backbone's.
SCORED = ("score", *RIVALS)
SPLIT = "animals left out"
# In the study's folder, of the run that is published.
RUN = "run"


@dataclass(frozen=True)
class BackboneConfig:
    """A backbone, the recordings that it is made from, and the animals that it is tried on.

    Attributes:
        name: of the model in the registry.
        recordings: names in the catalogue.
        out: folder for data, runs and results.
        left_out: groups of animals, dataset/subject, in which * stands for anything. Each group in turn is
            left out of a run and then adapted to.
        unseen: animals that no run trains on; what is published is adapted to them.
        sessions_each: so many sessions of an animal are adapted to, the first by name. None: all.
        seeds: times that the groups are left out, with other seeds.
        registry: where it is published. None: nowhere.
        licence: of the weights, as SPDX writes it.
        summary: a sentence for lists and the card, before that on the scores.
        model: the backbone.
        training: its optimisation.
        mixture: how data sets are mixed.
        fit: the optimisation of the adaptations.
    """

    name: str
    recordings: list[str]
    out: str
    left_out: list[list[str]] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    sessions_each: int | None = None
    seeds: int = 1
    registry: str | None = None
    licence: str = PublishConfig.licence
    summary: str = ""
    model: ModelConfig = field(default_factory=PocoConfig, metadata=one_of(MODELS))
    training: TrainingConfig = field(default_factory=TrainingConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        for name in ("seeds", "sessions_each"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more.")


@alone_in("out")
def study(config: BackboneConfig, console: Console) -> dict[str, Any]:
    """Does what is not done yet, sums up, and publishes where that is asked.

    Returns:
        What result.json holds.

    Raises:
        ForebrainError: a recording cannot be had or has changed since the study began, an animal is unknown,
            nothing can be published there, or the folder holds results of other settings.
    """
    if config.registry is not None:
        require_publishable(config.name, config.registry)
    out = Folder(config.out)
    recordings = [str(catalogue.get(name)) for name in config.recordings]
    read, contents = opened(recordings)
    claim(out, contents, "backbone")
    prepared(recordings, out, console)
    sessions = {session.id: session for session, _ in read}
    unchanged = {session.id: (path, contents[session.id]) for session, path in read}
    rows: list[dict[str, Any]] = []
    for seed in range(config.seeds):
        for number, group in enumerate(config.left_out):
            place = f"without-{number + 1}/run-{seed}"
            run = _trained(config, place, seed, [*group, *config.unseen], console)
            rows += _scored(config, run, _chosen(config, group, sessions), seed, unchanged, console)
    run = _trained(config, RUN, 0, config.unseen, console)
    rows += _scored(config, run, _chosen(config, config.unseen, sessions), 0, unchanged, console)
    metrics = list(metrics_of(rows))
    table = as_table(metrics)
    result = {"name": config.name, "rows": rows, "metrics": [vars(metric) for metric in metrics]}
    out.write("result.json", plain_json(result))
    out.write("report.md", f"{table.to_markdown()}\n{_by_session(rows).to_markdown()}".encode())
    console.print(table.to_rich())
    if config.registry is not None:
        summary = " ".join(filter(None, (config.summary, _sentence(metrics))))
        asked = PublishConfig(run, config.name, config.registry, config.licence, summary=summary)
        say_published(*publish_run(asked, metrics), console)
    return result


def pretrained_without(
    out: Folder,
    place: str,
    animals: Sequence[str],
    console: Console,
    *,
    seed: int,
    model: ModelConfig,
    training: TrainingConfig,
    mixture: MixtureConfig,
    evaluation: EvaluationConfig,
) -> str:
    """The run on all animals of `out`/shards but some: trained, or gone on with, or found finished.

    Args:
        out: folder of a study.
        place: of the run in it.
        animals: dataset/subject, in which * stands for anything.
        console: for progress.
        seed, model, training, mixture, evaluation: of the run.

    Returns:
        Its address.
    """
    run = PretrainConfig(
        data=out.uri_of("shards"), out=out.uri_of(place), workers=0, seed=seed, model=model,
        training=training, mixture=mixture, evaluation=evaluation,
        holdout=HoldoutConfig(subjects=list(animals) or None),
    )  # fmt: skip
    return pretrain(run, console)


def prepared(recordings: Sequence[str], out: Folder, console: Console) -> set[str]:
    """Prepares the recordings of a study in `out`/shards, and says which cannot be used.

    Returns:
        The ids of the sessions that can.
    """
    found = prepare(recordings, out.uri_of("shards"), PrepareConfig(), run_each=map_here)
    for failure in found.failures:
        console.print(f"cannot be used: {failure}")
    return {entry.id for entry in found.sessions}


def animal_of(session: Session) -> str:
    """dataset/subject of a session."""
    return f"{session.dataset}/{session.subject}"


def _trained(config: BackboneConfig, place: str, seed: int, held_out: Sequence[str], console: Console) -> str:
    evaluation = EvaluationConfig(windows_per_session=128, exact=True, brief=place != RUN)
    return pretrained_without(
        Folder(config.out), place, held_out, console, seed=seed, model=config.model,
        training=config.training, mixture=config.mixture, evaluation=evaluation,
    )  # fmt: skip


def _chosen(
    config: BackboneConfig, animals: Sequence[str], sessions: Mapping[str, Session]
) -> Iterator[Session]:
    """The sessions of some animals that are adapted to."""
    taken: dict[str, int] = {}
    for _, session in sorted(sessions.items()):
        animal = animal_of(session)
        if any(fits(animal, pattern) for pattern in animals):
            taken[animal] = taken.get(animal, 0) + 1
            if config.sessions_each is None or taken[animal] <= config.sessions_each:
                yield session


def _scored(
    config: BackboneConfig,
    run: str,
    sessions: Iterator[Session],
    seed: int,
    unchanged: Mapping[str, tuple[str, str]],
    console: Console,
) -> Iterator[dict[str, Any]]:
    """A row for each session: its backbone adapted, and all that the recording can do for itself."""
    place = Folder(config.out).child("scores")
    backbone: Backbone | None = None
    fit = replace(config.fit, seed=seed)
    for session in sessions:
        name = f"{session_key(session.id)}-{seed}.json"
        row = read_step(
            place, name, _require_row, {"session": session.id, "species": session.species, "seed": seed}
        )
        if row is None:
            backbone = backbone or Backbone.from_run(run)
            row = _adapted(backbone, session, fit)
            require_unchanged(*unchanged[session.id])
            row = write_step(place, name, row)
        if row.get("fit", asdict(fit)) != asdict(fit):  # of an earlier version, taken at its word
            raise ConfigError(f"{place.uri_of(name)} is of another --fit; give another --out.")
        if row.get("weights_sha256") != (backbone or Backbone.from_run(run)).origin.weights_sha256:
            raise ConfigError(f"{place.uri_of(name)} is of another backbone; give another --out.")
        said = row["left_out_because"] or ", ".join(f"{each} {row[each]:.3f}" for each in SCORED)
        console.print(f"{session.id}, seed {seed}: {said}")
        yield row


def _require_row(row: Mapping[str, Any]) -> None:
    """Raises ValueError or LookupError where a row cannot be summed up."""
    if not isinstance(row["left_out_because"], str | None):
        raise ValueError(f"its left_out_because is {row['left_out_because']!r:.100}; expected text")
    if row["left_out_because"] is None:
        require_numbers(row, SCORED)
        require_numbers(row, ["noise_ceiling"], or_none=True)


def _adapted(backbone: Backbone, session: Session, fit: FitConfig) -> dict[str, Any]:
    """As `forebrain adapt --resample`: without an animal there may be no recording at its rate."""
    torch.set_num_threads(1)
    row: dict[str, Any] = {
        "session": session.id,
        "animal": animal_of(session),
        "species": session.species,
        "seed": fit.seed,
        "fit": asdict(fit),
        "weights_sha256": backbone.origin.weights_sha256,
        "left_out_because": None,
    }
    try:
        comparison = compare(backbone, session, default_mode(backbone.model, None), fit, to_rate=True)
    except (AdaptationError, RecordingError) as error:  # too short to be scored, most often
        return row | {"left_out_because": str(error)}
    result = comparison.result()
    if result["leak"]:
        raise ConfigError(f"{session.id}: {result['leak_note']}; name its animal in left_out or unseen.")
    row["rate_hz"] = comparison.prepared.session.rate_hz
    row |= {"score": result["score"], **{name: result["baselines"][name] for name in RIVALS}}
    return row | {name: result[name] for name in ("noise_ceiling", "others", "weights", "seconds")}


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Means over animals, each the mean of its sessions and seeds, and the lead over `self`: of all species
    together, where there are several, and of each."""
    scored = [row for row in rows if row["left_out_because"] is None]
    every = sorted({row["species"] for row in scored})
    for species in ([""] if len(every) > 1 else []) + every:
        of_animal: dict[str, list[list[float]]] = {}
        for row in scored:
            if species in ("", row["species"]):
                values = [float(row[name]) for name in SCORED]
                lead = row["score"] - row["self"]
                animal = row.get("animal") or row["session"].rpartition("/")[0]  # of an earlier version
                of_animal.setdefault(animal, []).append([*values, lead])
        means = np.array([np.mean(values, axis=0) for _, values in sorted(of_animal.items())])
        low, high = percentile_interval(session_resamples(means, rng_for(0, "backbone", species)))
        names = ("score", *(f"score of {name}" for name in RIVALS), "score less that of self")
        words = f"{LEVEL:.0%}, bootstrap over {len(means)} animals"
        for position, name in enumerate(names):
            value, bounds = float(means[:, position].mean()), (float(low[position]), float(high[position]))
            if len(means) > 2:
                yield Metric(name, value, *bounds, words, split=SPLIT, dataset=species)
            else:
                yield Metric(name, value, split=SPLIT, dataset=species)


def as_table(metrics: Sequence[Metric]) -> Table:
    """A row for each species and what was scored."""
    return Table(
        name="animals",
        title="test score on animals that it was not trained on",
        columns=("species", "metric", "value", "low", "high", "interval"),
        rows=tuple(
            (one.dataset or "all", one.name, one.value, one.low, one.high, one.interval) for one in metrics
        ),
    )


def _by_session(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        name="sessions",
        title="test score by session",
        columns=("session", "seed", *SCORED, "noise ceiling"),
        rows=tuple(
            (row["session"], row["seed"], *(row.get(name) for name in SCORED), row.get("noise_ceiling"))
            for row in rows
        ),
    )


def _sentence(metrics: Sequence[Metric]) -> str:
    """The scores in a sentence."""
    value = {(metric.dataset, metric.name): metric.value for metric in metrics}
    said = [
        f"{species or 'all'} {value[species, 'score']:.3f} "
        f"(linear {value[species, 'score of linear']:.3f}, ridge "
        f"{value[species, 'score of ridge']:.3f}, self {value[species, 'score of self']:.3f})"
        for species in sorted({metric.dataset for metric in metrics})
    ]
    return f"Test score on animals left out: {'; '.join(said)}." if said else ""
