"""Several runs beside one another: models x data sets, on the same windows, with the baselines among them.

Runs that differ in nothing but their seed or their data share a row: a score of several seeds is their mean.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from forebrain.errors import CheckpointError, ConfigError
from forebrain.evaluation.tables import or_none
from forebrain.runs.evaluate import held_out_ids, sessions_to_score
from forebrain.runs.trained import TrainedModel
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.evaluate import (
    WINDOWS_PER_SESSION,
    Evaluation,
    Forecaster,
    baselines,
    evaluate,
    fit_linear,
)
from forebrain.scoring.metrics import Scores
from forebrain.scoring.pairs import Difference, paired_difference
from forebrain.scoring.protocols import Part
from forebrain.shards.windows import ShardWindows
from forebrain.training.data import open_windows
from forebrain.training.run_folder import RunFolder


@dataclass(frozen=True)
class ComparedRun:
    """A run to compare.

    Attributes:
        label: what tables call it; the same for all that share a row.
        trained: its best checkpoint.
        windows: its data.
    """

    label: str
    trained: TrainedModel
    windows: ShardWindows


@dataclass(frozen=True)
class Comparison:
    """Evaluations of the same models on several data sets.

    Attributes:
        part: the part that was scored.
        by_dataset: what was scored, by data set. Not every run need be in each.
        runs: label -> configs of the runs of that row.
    """

    part: Part
    by_dataset: dict[str, Evaluation]
    runs: dict[str, list[dict[str, Any]]]

    @property
    def labels(self) -> list[str]:
        """Rows in the order given, then the baselines."""
        return [*self.runs, *BASELINES]

    def differences(self) -> list[tuple[str, str, str, Difference]]:
        """(data set, one, other, difference) for every two runs, and every run and baseline."""
        return [
            (dataset, one, other, paired_difference(scores[one], scores[other], evaluation.seed))
            for dataset, evaluation in self.by_dataset.items()
            for scores in (evaluation.scores,)
            for one, other in itertools.combinations([name for name in self.labels if name in scores], 2)
            if one not in BASELINES
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "runs": self.runs,
            "by_dataset": {
                dataset: {
                    "sessions": [info.id for info in evaluation.sessions],
                    "windows_per_session": evaluation.windows_per_session,
                    "seed": evaluation.seed,
                    "forecasters": {name: evaluation.summary(name).to_json() for name in evaluation.scores},
                }
                for dataset, evaluation in self.by_dataset.items()
            },
            "differences": [
                {
                    "dataset": dataset,
                    "one": one,
                    "other": other,
                    "difference": or_none(difference.value),
                    "interval": [or_none(difference.low), or_none(difference.high)],
                    "num_sessions": difference.num_sessions,
                    "num_better": difference.num_better,
                }
                for dataset, one, other, difference in self.differences()
            ],
        }


def open_runs(runs: Sequence[RunFolder]) -> list[ComparedRun]:
    """Loads runs and names them: by their model, where settings differ by their folder too.

    Raises:
        CheckpointError: there is no run, or its checkpoints are damaged or of other data.
        ConfigError: a run is given twice, or runs of different settings have the same name.
    """
    trained = [TrainedModel.load(run) for run in runs]
    titles = [one.config.model.title for one in trained]
    settings = [_settings(one) for one in trained]
    of_title = {title: {s for t, s in zip(titles, settings, strict=True) if t == title} for title in titles}
    labels = [
        title if len(of_title[title]) == 1 else f"{title} ({_folder_name(run)})"
        for title, run in zip(titles, runs, strict=True)
    ]
    for label in labels:
        own = [number for number, other in enumerate(labels) if other == label]
        if len({settings[number] for number in own}) > 1:
            raise ConfigError(
                f"runs of different settings are called {label}; expected run folders of different names."
            )
        seeds = [(trained[n].config.seed, trained[n].checkpoint.record["data_fingerprint"]) for n in own]
        if len(set(seeds)) < len(own):
            uris = ", ".join(runs[number].uri for number in own)
            raise ConfigError(f"two runs of the same seed and data are called {label}: {uris}.")
    opened = []
    for label, run, one in zip(labels, runs, trained, strict=True):
        windows = open_windows(one.config, run.shards(one.config.data), run.kept_index())
        if windows.shards.fingerprint != one.checkpoint.record["data_fingerprint"]:
            raise CheckpointError(f"{run.uri} was trained on other data than {windows.shards.uri} holds now.")
        opened.append(ComparedRun(label, one, windows))
    return opened


def _settings(trained: TrainedModel) -> str:
    """Equal for runs that share a row."""
    identity = trained.config.identity()
    del identity["seed"], identity["data"]
    return json.dumps(identity, sort_keys=True)


def _folder_name(run: RunFolder) -> str:
    """The last part of its address that says more than a seed."""
    parts = run.uri.rstrip("/").split("/")
    return next(part for part in reversed(parts) if not re.fullmatch(r"seed-\d+", part))


def compare(
    runs: Sequence[ComparedRun],
    part: Part = "test",
    windows_per_session: int | None = WINDOWS_PER_SESSION,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Scores runs on every data set that they were trained on.

    Runs that read the same sessions of a data set under the same protocol are compared with one another, from
    whatever set of shards; a model of a shorter context forecasts the same frames. The linear baseline is
    fitted on the data set alone, with the longest context.

    Args:
        runs: from `open_runs`.
        part: the part to score.
        windows_per_session: at most this many windows a session, spread evenly; None for all.
        seed: of the choice of windows and of the bootstraps.
        progress: is told a line for each data set.

    Raises:
        ConfigError: nothing can be scored.
    """
    groups: dict[str, dict[str, list[ComparedRun]]] = {}
    for run in runs:
        scored = sessions_to_score(run.windows, part, run.trained.interfaces)
        for dataset in sorted({run.windows.sessions[number].dataset for number in scored}):
            groups.setdefault(dataset, {}).setdefault(_sameness(run, dataset, scored), []).append(run)
    by_dataset = {}
    for dataset in sorted(groups):
        for number, together in enumerate(groups[dataset].values(), 1):
            name = dataset if len(groups[dataset]) == 1 else f"{dataset}, setting {number}"
            progress(f"{name}: {', '.join(dict.fromkeys(run.label for run in together))}")
            by_dataset[name] = _evaluate(together, dataset, part, windows_per_session, seed)
    if not by_dataset:
        raise ConfigError(f"no session of these runs has a part {part} that could be scored.")
    configs: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        configs.setdefault(run.label, []).append(json.loads(json.dumps(run.trained.config.identity())))
    return Comparison(part, by_dataset, configs)


def _sameness(run: ComparedRun, dataset: str, scored: Sequence[int]) -> str:
    """Equal for runs whose scores on a data set are of the same things."""
    config, entries = run.trained.config, run.windows.shards.sessions
    of_dataset = (entries[number] for number in scored if entries[number].dataset == dataset)
    sessions = sorted(hashlib.sha256(entry.to_bytes()).hexdigest() for entry in of_dataset)
    held_out = config.holdout.conditions  # sessions are
    setting = [config.protocol, config.model.horizon, config.evaluation.longest_context, held_out]
    subset = asdict(config.subset) if config.subset.has_own_fits else None
    return json.dumps([*setting, subset, config.seed if subset else None, sessions])


def _evaluate(
    runs: Sequence[ComparedRun], dataset: str, part: Part, windows_per_session: int | None, seed: int
) -> Evaluation:
    widest = max(runs, key=lambda run: run.windows.context)
    source = widest.windows
    sessions = [
        number
        for number in sessions_to_score(source, part, widest.trained.interfaces)
        if source.sessions[number].dataset == dataset
    ]
    held_out = held_out_ids(source)
    names = [f"{run.label}, run {number}" for number, run in enumerate(runs)]
    forecasters: dict[str, Forecaster] = {
        name: _FromTheLast(run.windows.context, run.trained.forecaster(source.sessions, held_out))
        for name, run in zip(names, runs, strict=True)
    }
    fitted_on = [
        number
        for number, info in enumerate(source.sessions)
        if info.dataset == dataset and source.num_windows(number, "train")
    ]
    # Of a data set that is held out altogether nothing may be fitted on.
    linear = fit_linear(source, fitted_on or None, seed=seed).solve()
    evaluation = evaluate(
        {**forecasters, **baselines(source, linear)},
        source,
        part,
        sessions=sessions,
        windows_per_session=windows_per_session,
        seed=seed,
        as_scored=source.as_scored,
    )
    rows: dict[str, list[Mapping[str, Scores]]] = {}
    for name, run in zip(names, runs, strict=True):
        rows.setdefault(run.label, []).append(evaluation.scores[name])
    return replace(
        evaluation,
        scores={
            **{label: _mean_of_runs(scores) for label, scores in rows.items()},
            **{name: evaluation.scores[name] for name in BASELINES},
        },
    )


def _mean_of_runs(runs: Sequence[Mapping[str, Scores]]) -> dict[str, Scores]:
    """Scores by session, the mean of runs on the same windows; so are the bounds within a session."""

    def mean(of_runs: Sequence[Scores]) -> Scores:
        fields = ("values", "low", "high", "unit_quantiles")
        means = {name: np.mean([getattr(scores, name) for scores in of_runs], axis=0) for name in fields}
        return replace(of_runs[0], **means)

    return {session: mean([scores[session] for scores in runs]) for session in runs[0]}


@dataclass(frozen=True)
class _FromTheLast:
    """A forecaster that sees the last frames of a longer context."""

    context: int
    forecaster: Forecaster

    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        return self.forecaster(session, context[:, -self.context :])
