"""Forecasts what comes after the end of a recording of an animal that was adapted to.

The forecast is CSV: a row for each frame ahead, a column for each unit. With --quantiles a row for each
frame ahead and unit, and a column for each quantile.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.recording import open_session
from forebrain.adaptation.tables import forecast_csv, quantiles_csv
from forebrain.scoring.quantiles import require_levels
from forebrain_registry.storage import Folder


@dataclass(frozen=True)
class Config:
    """The recording to forecast.

    Attributes:
        adapted: the --out of `forebrain adapt`.
        recording: of the same units, in their order.
        session: which session, where the recording holds several.
        quantiles: levels between 0 and 1, of calibrated quantiles.
        out: a CSV file; the terminal where not given.
        registry: where the model is; where it was pulled from where not given.
    """

    adapted: str
    recording: str
    session: str | None = None
    quantiles: list[float] | None = None
    out: str | None = None
    registry: str | None = None


def run(config: Config, console: Console) -> int:
    """Writes or prints the table."""
    adapted = Adapted.load(config.adapted, config.registry)
    window = adapted.latest_window(open_session(config.recording, config.session))
    if config.quantiles is None:
        table = forecast_csv(adapted.forecast(window), adapted.preprocessing)
    else:
        levels = require_levels(config.quantiles)
        quantiles = adapted.forecast(window, quantiles=levels)
        table = quantiles_csv(adapted.forecast(window), quantiles, levels, adapted.preprocessing)
    if config.out is None:
        print(table, end="")
        return 0
    out = Path(config.out)
    Folder(out.parent).write(out.name, table.encode())
    print(f"{adapted.horizon} frames of {adapted.num_units} units forecast: {out}")
    return 0
