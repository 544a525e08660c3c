"""Forecasts what comes after the end of a recording of an animal that was adapted to.

The forecast is CSV: a row for each frame ahead, a column for each unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.recording import open_session
from forebrain.adaptation.tables import forecast_csv
from forebrain_registry.storage import file_at


@dataclass(frozen=True)
class Config:
    """The recording to forecast.

    Attributes:
        adapted: the --out of `forebrain adapt`.
        recording: of the same units, in their order.
        session: which session, where the recording holds several.
        out: a CSV file; the terminal where not given.
        registry: where the model is; where it was pulled from where not given.
    """

    adapted: str
    recording: str
    session: str | None = None
    out: str | None = None
    registry: str | None = None


def run(config: Config, console: Console) -> int:
    """Writes or prints the table."""
    adapted = Adapted.load(config.adapted, config.registry)
    window = adapted.latest_window(open_session(config.recording, config.session))
    table = forecast_csv(adapted.forecast(window), adapted.preprocessing)
    if config.out is None:
        print(table, end="")
        return 0
    folder, name = file_at(config.out)
    folder.write(name, table.encode())
    print(f"{adapted.horizon} frames of {adapted.num_units} units forecast: {folder.uri_of(name)}")
    return 0
