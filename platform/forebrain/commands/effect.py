"""Forecasts the difference that a plan makes: what is forecast under it less what is forecast under another.

The difference is CSV: a row for each frame ahead, a column for each unit. With --quantiles a row for each
frame ahead and unit, and a column for each quantile of where the effect may truly lie. It is an association
under the inputs that were recorded, not a cause beyond them: see docs/inputs.md.
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
    """The recording, and the plans.

    Attributes:
        adapted: the --out of `forebrain adapt`.
        recording: of the same units, in their order, with its inputs so far.
        plan: a CSV file of what will be done, a row for each frame ahead and a column for each input.
        against: another such file; or `hold`, for inputs that stay as they are.
        session: which session, where the recording holds several.
        quantiles: levels between 0 and 1, of where the estimated effect may truly lie.
        out: a CSV file; the terminal where not given.
        registry: where the model is; where it was pulled from where not given.
        overwrite: replace the file that is there.
    """

    adapted: str
    recording: str
    plan: str
    against: str = "hold"
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
    plan, against = (read_plan(each, adapted.rate_hz) for each in (config.plan, config.against))
    session = open_session(config.recording, config.session)
    if told := adapted.other_animal(session):
        print(told, file=sys.stderr)
    with doubts_told():
        effect = adapted.effect(session, plan, against).to_numpy()
    if config.quantiles is None:
        table = forecast_csv(effect, adapted.preprocessing)
    else:
        bounds = adapted.effect(session, plan, against, quantiles=config.quantiles).to_numpy()
        bounds = bounds.reshape(*effect.shape, -1)
        table = quantiles_csv(effect, bounds, config.quantiles, adapted.preprocessing, "effect")
    if config.out is None:
        print(table, end="")
        return 0
    write_out(config.out, table.encode(), config.overwrite)
    console.print(f"the effect on {adapted.num_units} units over {adapted.horizon} frames: {config.out}")
    return 0
