"""Runs side by side as a page: how their configs differ, how they learned, what they score."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from forebrain import plotting
from forebrain.errors import CheckpointError
from forebrain.models.registry import MODELS
from forebrain.pages import charts
from forebrain.pages.build import picture, write_page
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.metrics import UNIT_QUANTILES
from forebrain.training.run_folder import RunFolder

PAGE = "index.html"
PART = "test"
PICTURES = {"forecast_traces": "forecasts of single units", "population_raster": "the population"}
# Of a page; what is drawn takes the rest of two million.
_PICTURE_BYTES = 1_100_000
_MOST_PICTURE_BYTES = 160_000
MAX_PICTURED = 30  # runs, the best: a picture of fewer bytes shows nothing
_MAX_POINTS = 20_000  # of all curves
_MAX_CELLS = 2_500  # sessions x runs
_MAX_SESSION_ROWS = 40
_ADDRESSES = ("out", "publish", "registry")


@dataclass(frozen=True)
class Run:
    """What a run folder tells.

    Attributes:
        label: the run's name here, unlike that of all others.
        colour: of CSS.
        model: its title.
        config: dotted key -> value as text.
        result: of result.json; None of a run that has not finished.
        losses, scores: (step, value) of training steps, and of validations.
        pictures: what it shows -> address within the page.
    """

    label: str
    colour: str
    model: str
    config: Mapping[str, str]
    result: Mapping[str, Any] | None
    losses: Sequence[tuple[int, float | None]]
    scores: Sequence[tuple[int, float | None]]
    pictures: Mapping[str, str]

    @property
    def test(self) -> Mapping[str, Any] | None:
        """The block of the part that runs are compared on."""
        return None if self.result is None else self.result.get(PART)

    @property
    def r2(self) -> float | None:
        """Against the units' training means: the mean over sessions."""
        return None if self.test is None else self.test.get("r2")


def write_side_by_side(runs: Sequence[str], out: str, overwrite: bool = False) -> str:
    """Writes the page of several runs.

    Args:
        runs: run folders, each the --out of `forebrain pretrain`; one that goes on is shown as far as it is.
        out: a folder or s3://bucket/folder.
        overwrite: replace the page that is there.

    Returns:
        The page's address.

    Raises:
        CheckpointError: there is no run in a folder, or its result is damaged.
        ForebrainError: the page cannot be written.
    """
    shown = list(_read(runs))
    ranked = sorted(range(len(shown)), key=lambda number: -_score(shown[number].result))
    return write_page(
        out,
        PAGE,
        "runs.html",
        overwrite,
        runs=shown,
        ranked=ranked,
        differences=config_differences(shown),
        same=_in_common(shown),
        curves=_curves(shown),
        by_horizon=_by_horizon(shown),
        by_session=_by_session(shown),
        sessions=_session_table(shown),
        by_unit=_by_unit(shown),
        max_pictured=MAX_PICTURED,
        part=PART,
    )


def config_differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Each key of the configs that is not the same in all runs, with its value in each."""
    keys = sorted({key for run in runs for key in run.config})
    values = {key: [run.config.get(key, "–") for run in runs] for key in keys}
    return {
        key: each
        for key, each in values.items()
        if len(set(each)) > 1 and key.split(".")[0] not in _ADDRESSES
    }


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """A config's values as text, by dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value)


def labels_of(addresses: Sequence[str]) -> list[str]:
    """The last part of each address, and as many before it as tell it from all others."""
    parts = [address.rstrip("/").split("/") for address in addresses]
    labels = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        labels.append("/".join(own[-length:]))
    return labels


def _read(addresses: Sequence[str]) -> Iterator[Run]:
    folders = [RunFolder(address) for address in addresses]
    configs = []
    for folder in folders:
        config = folder.read_config()
        if config is None:
            raise CheckpointError(f"{folder.uri}: there is no run; give the --out of `forebrain pretrain`.")
        configs.append(config)
    titles = [_title(config) for config in configs]
    labels = labels_of([folder.uri for folder in folders])
    colours = plotting.colours([f"{title} ({label})" for title, label in zip(titles, labels, strict=True)])
    results = [folder.read_result() for folder in folders]
    for folder, result in zip(folders, results, strict=True):
        _require_whole(result, folder)
    ranked = sorted(range(len(folders)), key=lambda number: -_score(results[number]))
    pictured = ranked[:MAX_PICTURED]
    allowance = min(_MOST_PICTURE_BYTES, _PICTURE_BYTES // max(1, len(pictured) * len(PICTURES)))
    points = max(12, _MAX_POINTS // max(1, 2 * len(folders)))
    rows = zip(folders, configs, titles, labels, results, strict=True)
    for number, (folder, config, title, label, result) in enumerate(rows):
        metrics = folder.read_metrics()
        losses = [(row["step"], row.get("loss")) for row in metrics if row["kind"] == "step"]
        scores = [(row["step"], row.get("score")) for row in metrics if row["kind"] == "validation"]
        yield Run(
            label=label,
            colour=colours[f"{title} ({label})"],
            model=title,
            config=dict(flat(config)),
            result=result,
            losses=thinned(losses, points),
            scores=thinned(scores, points, mean=False),
            pictures=dict(_pictures(folder, allowance)) if number in pictured else {},
        )


def _require_whole(result: Mapping[str, Any] | None, folder: RunFolder) -> None:
    """Raises CheckpointError, which names the run, if its result cannot be shown."""
    run = Run("", "", "", {}, result, [], [], {})
    try:
        _score(result)
        for draw in (_by_horizon, _by_session, _session_table, _by_unit):
            draw([run])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise folder.damaged_result(repr(error)) from error


def thinned(
    points: Sequence[tuple[int, float | None]], most: int, mean: bool = True
) -> list[tuple[int, float | None]]:
    """At most so many points: means of equal stretches, or every so many-th and the last."""
    known = [(x, y) for x, y in points if y is not None]
    if len(known) <= most:
        return list(known)
    edges = [len(known) * part // most for part in range(most + 1)]
    stretches = [known[start:stop] for start, stop in itertools.pairwise(edges)]
    if not mean:
        return [stretch[-1] for stretch in stretches]
    return [(stretch[-1][0], sum(y for _, y in stretch) / len(stretch)) for stretch in stretches]


def _title(config: Mapping[str, Any]) -> str:
    name = (config.get("model") or {}).get("name", "poco")
    return str(MODELS[name].title) if name in MODELS else str(name)


def _pictures(folder: RunFolder, allowance: int) -> Iterator[tuple[str, str]]:
    for name, what in PICTURES.items():
        path = f"evaluation/{PART}/{name}.png"
        if folder.folder.exists(path):
            yield what, picture(folder.folder.read(path), allowance)


def _score(result: Mapping[str, Any] | None) -> float:
    value = ((result or {}).get(PART) or {}).get("score")
    return float("-inf") if value is None else float(value)


def _in_common(runs: Sequence[Run]) -> int:
    """How many keys of the configs are the same in all runs."""
    return len({key for run in runs for key in run.config}) - len(config_differences(runs))


def _curves(runs: Sequence[Run]) -> tuple[Markup, Markup]:
    losses = [charts.Line(run.label, run.colour, run.losses, series=n) for n, run in enumerate(runs)]
    scores = [charts.Line(run.label, run.colour, run.scores, series=n) for n, run in enumerate(runs)]
    return (
        charts.line_chart(losses, "optimiser steps", "training loss"),
        charts.line_chart(scores, "optimiser steps", "score, validation"),
    )


def _by_horizon(runs: Sequence[Run]) -> Markup:
    lines = []
    for number, run in enumerate(runs):
        if run.test is None:
            continue
        steps = run.test["by_horizon"]["score"]
        ahead = range(1, 1 + len(steps["value"]))
        # Bands of several runs would cover one another.
        band = list(zip(ahead, steps["low"], steps["high"], strict=True)) if len(runs) == 1 else []
        points = list(zip(ahead, steps["value"], strict=True))
        lines.append(charts.Line(run.label, run.colour, points, band, series=number))
    first = next((run.test for run in runs if run.test is not None), None)
    if first is not None:
        for name, dashes in (("linear", "6 3"), ("copy", "2 3")):
            values = first["baselines"][name]["by_horizon"]["score"]["value"]
            points = list(enumerate(values, 1))
            lines.insert(0, charts.Line(name, plotting.COLOURS[name], points, dashes=dashes))
    return charts.line_chart(lines, "frames ahead", f"score, {PART}")


def _sessions(runs: Sequence[Run]) -> list[str]:
    """Ids of all sessions scored, those first that more runs share."""
    counts: dict[str, int] = {}
    for run in runs:
        for name in (run.test or {}).get("by_session", {}):
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def _of_session(run: Run, session: str) -> Mapping[str, Any]:
    return (run.test or {}).get("by_session", {}).get(session, {})


def _by_session(runs: Sequence[Run]) -> Markup:
    rows = []
    for session in _sessions(runs)[: min(_MAX_SESSION_ROWS, _MAX_CELLS // max(1, len(runs)))]:
        dots = []
        for number, run in enumerate(runs):
            own = _of_session(run, session)
            low, high = own.get("interval", {}).get("score", (None, None)) if len(runs) <= 3 else (None, None)
            dots.append(charts.Dot(run.label, run.colour, own.get("score"), low, high, number))
        rows.append((session, dots))
    return charts.dot_rows(rows, f"score, {PART}", label_width=240)


def _session_table(runs: Sequence[Run]) -> tuple[list[tuple[str, list[float | None]]], int]:
    """Rows of session and its score in each run, and how many sessions are left out."""
    names = _sessions(runs)
    shown = names[: max(1, _MAX_CELLS // max(1, len(runs)))]
    rows = [(name, [_of_session(run, name).get("score") for run in runs]) for name in shown]
    return rows, len(names) - len(shown)


def _by_unit(runs: Sequence[Run]) -> Markup:
    """The median unit of each run, and how widely units differ."""
    low, middle, high = (str(UNIT_QUANTILES[place]) for place in (1, 2, 3))
    rows = []
    for number, run in enumerate(runs):
        if run.test is not None:
            quantiles = run.test["unit_quantiles"]
            own = (quantiles[middle], quantiles[low], quantiles[high])
            rows.append((run.label, [charts.Dot("median unit", run.colour, *own, series=number)]))
    test = next((run.test for run in runs if run.test is not None), None)
    if test is not None:
        quantiles = test["baselines"]["linear"]["unit_quantiles"]
        own = (quantiles[middle], quantiles[low], quantiles[high])
        rows.append((BASELINES[2], [charts.Dot("median unit", plotting.COLOURS["linear"], *own)]))
    return charts.dot_rows(rows, f"score of single units, {PART}: median, and the middle half")
