"""The forecasts, units and embeddings of an adaptation as tables: data frames for a notebook, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from forebrain.errors import ConfigError
from forebrain.sessions.preprocessing import Preprocessing

if TYPE_CHECKING:
    import pandas


# Columns that are empty where they are not defined.
_SCORES = ("explained", "noise_ceiling", "r2", "correlation", "score", "trusted_seconds", "trusted_frames")


def forecast_table(
    forecast: np.ndarray, preprocessing: Preprocessing, levels: Sequence[float] | None = None
) -> pandas.DataFrame:
    """A forecast [H, N]: a row for each frame ahead, a column for each unit.

    The index is seconds ahead; frames ahead where the rate is not known. Of quantiles [H, N, Q] at levels the
    columns are pairs (unit, quantile).
    """
    ahead, rate_hz = np.arange(1, 1 + len(forecast)), preprocessing.rate_hz
    index = require_pandas().Index(
        ahead if rate_hz is None else ahead / rate_hz,
        name="frames ahead" if rate_hz is None else "seconds ahead",
    )
    columns = unit_index(preprocessing)
    if levels is not None:
        columns = require_pandas().MultiIndex.from_product([columns, levels], names=["unit", "quantile"])
    return require_pandas().DataFrame(forecast.reshape(len(forecast), -1), index, columns)


def quantiles_csv(
    forecast: np.ndarray,
    quantiles: np.ndarray,
    levels: Sequence[float],
    preprocessing: Preprocessing,
    name: str = "forecast",
) -> str:
    """A forecast [H, N] and its quantiles [H, N, Q] as CSV: a row for each frame ahead and unit.

    The point is in the column of that name, quantiles are in columns named after their levels.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [preprocessing.name(unit) for unit in range(preprocessing.num_units)]
    writer.writerow(["frames_ahead", "seconds_ahead", "unit", name, *(f"{level:g}" for level in levels)])
    for ahead, (points, bounds) in enumerate(zip(forecast, quantiles, strict=True), 1):
        for unit, point, row in zip(names, points, bounds, strict=True):
            values = (f"{value:.6g}" for value in (point, *row))
            writer.writerow([ahead, _seconds(ahead, preprocessing), unit, *values])
    return stream.getvalue()


def forecast_csv(forecast: np.ndarray, preprocessing: Preprocessing) -> str:
    """A forecast [H, N] as CSV: a row for each frame ahead with its time, a column for each unit."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["frames_ahead", "seconds_ahead", *preprocessing.unit_names])
    for ahead, row in enumerate(forecast, 1):
        writer.writerow([ahead, _seconds(ahead, preprocessing), *(f"{value:.6g}" for value in row)])
    return stream.getvalue()


def _seconds(ahead: int, preprocessing: Preprocessing) -> str:
    return "" if preprocessing.rate_hz is None else f"{ahead / preprocessing.rate_hz:.6g}"


def unit_table(
    preprocessing: Preprocessing, scored: Mapping[str, Sequence[Any]] | None = None
) -> pandas.DataFrame:
    """A row for each unit: what it scores, its place among the recorded ones, and its mean and scale.

    Args:
        preprocessing: of the units.
        scored: columns of `evaluation.tables.by_unit`; None where nothing was scored.
    """
    columns: dict[str, Any] = {name: values for name, values in (scored or {}).items() if name != "unit"}
    columns |= {"column": preprocessing.columns, "mean": preprocessing.mean, "scale": preprocessing.scale}
    table: pandas.DataFrame = require_pandas().DataFrame(columns, unit_index(preprocessing))
    return table if scored is None else table.astype({name: float for name in _SCORES if name in table})


def embedding_table(embeddings: np.ndarray, preprocessing: Preprocessing) -> pandas.DataFrame:
    """A row for each unit, a column for each of the embedding's dimensions."""
    return require_pandas().DataFrame(embeddings, unit_index(preprocessing))


def unit_index(preprocessing: Preprocessing) -> pandas.Index:
    """The units' names."""
    names = [preprocessing.name(unit) for unit in range(preprocessing.num_units)]
    return require_pandas().Index(names, name="unit")


def require_pandas() -> Any:
    """The package pandas. Raises ConfigError where it is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise ConfigError("tables need pandas; install forebrain with the extra `lab`.") from error
    return pandas
