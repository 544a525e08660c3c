"""Forecasts what comes after the end of a recording of an animal that was adapted to.

The forecast is CSV: a row for each frame ahead, a column for each unit. With --quantiles a row for each
frame ahead and unit, and a column for each quantile.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rich.console import Console

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.plan_file import read_plan
from forebrain.adaptation.recording import open_session
from forebrain.adaptation.tables import forecast_csv, quantiles_csv
from forebrain.commands._out import doubts_told, require_free, write_out
from forebrain.scoring.quantiles import require_levels


@dataclass(frozen=True)
class Config:
    """The recording to forecast.

    Attributes:
        adapted: the --out of `forebrain adapt`.
        recording: of the same units, in their order.
        plan: a CSV file of what will be done, a row for each frame ahead and a column for each input; or
            `hold`, for inputs that stay as they are. Not given: it is not known.
        inputs: know the inputs that the recording has so far; under a plan they are known anyway.
        session: which session, where the recording holds several.
        quantiles: levels between 0 and 1, of calibrated quantiles.
        out: a CSV file; the terminal where not given.
        registry: where the model is; where it was pulled from where not given.
        overwrite: replace the file that is there.
    """

    adapted: str
    recording: str
    plan: str | None = None
    inputs: bool = False
    session: str | None = None
    quantiles: list[float] | None = None
    out: str | None = None
    registry: str | None = None
    overwrite: bool = False


def run(config: Config, console: Console) -> int:
    """Writes or prints the table."""
    if config.quantiles is not None:
        require_levels(config.quantiles)
    require_free(config.out, config.overwrite)
    adapted = Adapted.load(config.adapted, config.registry)
    plan = None if config.plan is None else read_plan(config.plan, adapted.rate_hz)
    session = open_session(config.recording, config.session)
    if told := adapted.other_animal(session):
        print(told, file=sys.stderr)
    known = True if config.inputs else None
    with doubts_told():
        forecast = adapted.forecast(session, known, plan).to_numpy()
        if config.quantiles is None:
            table = forecast_csv(forecast, adapted.preprocessing)
        else:
            bounds = adapted.forecast(session, known, plan, quantiles=config.quantiles).to_numpy()
            bounds = bounds.reshape(*forecast.shape, -1)
            table = quantiles_csv(forecast, bounds, config.quantiles, adapted.preprocessing)
    if config.out is None:
        print(table, end="")
        return 0
    write_out(config.out, table.encode(), config.overwrite)
    console.print(
        f"{adapted.horizon} frames of {adapted.num_units} units forecast, knowing "
        f"{adapted.known(config.inputs, plan)}: {config.out}"
    )
    return 0
