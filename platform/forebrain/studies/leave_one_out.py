"""A study of adaptation: pretrain on all animals but one, adapt to the one left out, each in turn.

    without-<recording>/shards, run-<seed>        pretraining on the others
    without-<recording>/<way>-<seed>.json         one way of adapting to it: curve, scores on the test part
    recordings.json                               hashes of the recordings that the study is of
    result.json, report.md, score_by_step.png     means over animals, with intervals

Every file is a step that is not done again, so a study goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from forebrain.adaptation.adapting import Mode, train
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.fit import FitConfig, WindowForecaster
from forebrain.adaptation.recording import Prepared, open_session, prepare_session
from forebrain.adaptation.start import StartName
from forebrain.config import one_of
from forebrain.errors import ConfigError
from forebrain.evaluation import figures
from forebrain.evaluation.tables import Table
from forebrain.models.base import ModelConfig
from forebrain.models.poco import PocoConfig
from forebrain.models.registry import MODELS
from forebrain.runs.pretrain import pretrain
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.evaluate import Evaluation, Forecaster, evaluate, fit_baselines
from forebrain.scoring.intervals import percentile_interval, rng_for, session_resamples
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.recordings import sha256_of
from forebrain.training.config import EvaluationConfig, PretrainConfig, TrainingConfig
from forebrain_registry.storage import Folder


@dataclass(frozen=True)
class Way:
    """One way of adapting, and its name in tables and files."""

    name: str
    mode: Mode
    start: StartName


WAYS = (
    Way("none", "none", "regression"),
    Way("embeddings", "embeddings", "regression"),
    Way("embeddings-from-mean", "embeddings", "mean"),
    Way("embeddings-from-random", "embeddings", "random"),
    Way("forecaster", "forecaster", "regression"),
    Way("full", "full", "regression"),
    Way("scratch", "scratch", "random"),
)
RECORDINGS = "recordings.json"
# What the claims compare: embeddings against each of these, animal by animal.
COMPARED = ("full", "forecaster", "scratch", "none", "linear")


@dataclass(frozen=True)
class StudyConfig:
    """A study; the same command goes on where it was stopped.

    Attributes:
        recording: one recording an animal, of one data set.
        out: folder for runs and results.
        seeds: times that everything is done, with other seeds.
        model: the backbones.
        pretraining: their optimisation.
        fit: the optimisation of each way of adapting.
    """

    recording: list[str]
    out: str
    seeds: int = 2
    model: ModelConfig = field(default_factory=PocoConfig, metadata=one_of(MODELS))
    pretraining: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=250, validate_every=50))
    fit: FitConfig = field(default_factory=FitConfig)


def study(config: StudyConfig, console: Console) -> dict[str, Any]:
    """Runs what is not done yet, and sums up.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: there are too few recordings, or results of other settings or recordings in the folder.
    """
    if len(config.recording) < 3:
        raise ConfigError(
            f"{len(config.recording)} recordings; expected 3 or more, so that two are left to train on."
        )
    out = Folder(config.out)
    _claim(out, config.recording)
    rows: list[dict[str, Any]] = []
    for seed in range(config.seeds):
        for left_out in config.recording:
            run = pretrained(config, left_out, seed, console)
            rows += adapted(config, left_out, seed, run, console)
    result = summarise(rows)
    out.write("result.json", json.dumps({"rows": rows, **result}, indent=1, allow_nan=False).encode())
    table = as_table(result)
    with tempfile.TemporaryDirectory() as scratch:
        picture = draw(result, Path(scratch) / "score_by_step.png")
        out.write(picture.name, picture.read_bytes())
    out.write("report.md", f"{table.to_markdown()}\n![score by step](score_by_step.png)\n".encode())
    console.print(table.to_rich())
    return result


def pretrained(config: StudyConfig, left_out: str, seed: int, console: Console) -> str:
    """The run on all recordings but one: trained, or gone on with, or found finished. Returns its address."""
    place = _place(config, left_out)
    others = [recording for recording in config.recording if recording != left_out]
    prepare(others, place.uri_of("shards"), PrepareConfig(), run_each=map_here)
    run = PretrainConfig(
        data=place.uri_of("shards"),
        out=place.uri_of(f"run-{seed}"),
        workers=0,
        seed=seed,
        model=config.model,
        training=config.pretraining,
        evaluation=EvaluationConfig(windows_per_session=128),
    )
    return pretrain(run, console)


def adapted(
    config: StudyConfig, left_out: str, seed: int, run: str, console: Console
) -> Iterator[dict[str, Any]]:
    """A row for each way of adapting to the recording that was left out."""
    place = _place(config, left_out)
    waiting = [way for way in WAYS if not place.exists(f"{way.name}-{seed}.json")]
    if waiting:
        backbone = Backbone.from_run(run)
        prepared = prepare_session(open_session(left_out), backbone.description, backbone.rates_hz)
        for way in waiting:
            row = _adapt(backbone, prepared, way, replace(config.fit, seed=seed, start=way.start))
            row |= {"left_out": prepared.session.id, "seed": seed, "fit": dataclasses.asdict(config.fit)}
            place.write(f"{way.name}-{seed}.json", json.dumps(row, allow_nan=False).encode())
            score = row["test"][way.name]
            console.print(f"{prepared.session.id}, seed {seed}, {way.name}: test score {score:.3f}")
    for way in WAYS:
        row = json.loads(place.read(f"{way.name}-{seed}.json"))
        if row["fit"] != dataclasses.asdict(config.fit):
            raise ConfigError(f"{place.uri} holds results with another --fit; give another --out.")
        yield row


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over animals, each the mean over its seeds, with bootstrap intervals over animals."""
    animals = sorted({row["left_out"] for row in rows})
    test = {
        name: np.array([_mean_test(rows, animal, name) for animal in animals])
        for name in (*(way.name for way in WAYS), *BASELINES)
    }
    own = test["embeddings"]
    return {
        "animals": animals,
        "test": {name: _with_interval(values) for name, values in test.items()},
        "embeddings_less": {name: _with_interval(own - test[name]) for name in COMPARED},
        "validation_by_step": {way.name: _mean_curve(rows, way.name) for way in WAYS},
        "validation": {
            name: float(np.mean([row["validation"][name] for row in rows if row["way"] == "none"]))
            for name in BASELINES
        },
        "seconds": {
            way.name: float(np.median([row["seconds"] for row in rows if row["way"] == way.name]))
            for way in WAYS
        },
    }


def as_table(result: Mapping[str, Any]) -> Table:
    """A row for each way, with its difference from embeddings."""
    rows = []
    for name, (score, low, high) in result["test"].items():
        less = result["embeddings_less"].get(name)
        seconds = result["seconds"].get(name)
        difference = "" if less is None else f"{less[0]:+.3f} ({less[1]:+.3f} to {less[2]:+.3f})"
        rows.append((name, score, low, high, difference, seconds))
    return Table(
        name="adaptation",
        title=f"test score, mean over {len(result['animals'])} animals left out in turn, "
        "95 % interval over animals",
        columns=("way", "score", "low", "high", "embeddings less this", "seconds"),
        rows=tuple(rows),
    )


def draw(result: Mapping[str, Any], path: Path) -> Path:
    """Validation score by step, a line for each way."""
    curves = {
        name: [(step, score) for step, score in curve]
        for name, curve in result["validation_by_step"].items()
        if name != "none"
    }
    title = f"Adapting to an animal left out, validation, mean over {len(result['animals'])}"
    return figures.score_by_step(curves, result["validation"], title, path)


def _adapt(backbone: Backbone, prepared: Prepared, way: Way, config: FitConfig) -> dict[str, Any]:
    torch.set_num_threads(1)
    trained = train(backbone, prepared, way.mode, config)
    forecasters: dict[str, Forecaster] = {
        way.name: WindowForecaster(trained.model, trained.interface, config),
        **fit_baselines(prepared.windows, seed=config.seed),
    }
    validation = evaluate(forecasters, prepared.windows, "validation", seed=config.seed)
    test = evaluate(forecasters, prepared.windows, "test", seed=config.seed)
    return {
        "way": way.name,
        "score_by_step": trained.score_by_step,
        "best_step": trained.best_step,
        "seconds": trained.seconds,
        "validation": _scores(validation),
        "test": _scores(test),
    }


def _scores(evaluation: Evaluation) -> dict[str, float]:
    return {name: evaluation.summary(name).value("score") for name in evaluation.scores}


def _mean_test(rows: Sequence[Mapping[str, Any]], animal: str, name: str) -> float:
    """Mean over seeds; baselines are in every row of an animal, and the same."""
    found = [row["test"][name] for row in rows if row["left_out"] == animal and name in row["test"]]
    return float(np.mean(found))


def _with_interval(values: np.ndarray) -> list[float]:
    """Mean over animals and its bounds."""
    low, high = percentile_interval(session_resamples(values[:, None], rng_for(0, "study")))
    return [float(values.mean()), float(low[0]), float(high[0])]


def _mean_curve(rows: Sequence[Mapping[str, Any]], way: str) -> list[tuple[int, float]]:
    curves = [dict(row["score_by_step"]) for row in rows if row["way"] == way]
    return [(step, float(np.mean([curve[step] for curve in curves]))) for step in curves[0]]


def _place(config: StudyConfig, left_out: str) -> Folder:
    name = Path(left_out).stem
    if (
        sum(Path(each).stem == name for each in config.recording) > 1
    ):  # as the folder `suite2p` of each animal
        name = f"{name}-{sha256_of(left_out)[:8]}"
    return Folder(config.out).child(f"without-{name}")


def _claim(out: Folder, recordings: Sequence[str]) -> None:
    """Keeps which recordings the study is of, by content, or raises ConfigError where it is of others.

    What is done already was trained on all but one of them, so none may come, go or change.
    """
    hashes = sorted(map(sha256_of, recordings))
    if len(set(hashes)) < len(hashes):
        raise ConfigError("two of the recordings are the same to the byte; give each animal's once.")
    with contextlib.suppress(FileExistsError):
        out.create(RECORDINGS, json.dumps(hashes).encode())
    if out.read(RECORDINGS) != json.dumps(hashes).encode():
        raise ConfigError(
            f"{out.uri} holds a study of other recordings, or of these before one or its sidecar file "
            "changed. Give the same recordings to go on there, or another --out."
        )
