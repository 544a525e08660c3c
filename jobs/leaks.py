"""Measures what looking into the future is worth: python jobs/leaks.py --recordings PATH... [--csv FILE]"""

import sys
from dataclasses import dataclass
from pathlib import Path

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ConfigError, ForebrainError
from forebrain.evaluation.leaks import leak_table, measure_leaks
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import clean
from forebrain.shards.recordings import find_all, open_any


@dataclass(frozen=True)
class LeaksConfig:
    """What to measure on.

    Attributes:
        recordings: files and folders of recordings, or sim://default.
        context: frames a forecast is made from.
        horizon: frames forecast.
        csv: file for the table.
    """

    recordings: list[str]
    context: int = 48
    horizon: int = 16
    csv: str | None = None

    def __post_init__(self) -> None:
        for name in ("context", "horizon"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more.")


def main() -> int:
    console = make_console()
    try:
        config = parse(LeaksConfig, description=__doc__)
        options = PrepareConfig()
        sessions = [
            clean(session, options)[0]
            for address in find_all(config.recordings)
            for session in open_any(address)
        ]
        table = leak_table(measure_leaks(sessions, config.context, config.horizon, progress=console.print))
        if config.csv is not None:
            Path(config.csv).write_text(table.to_csv())
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    console.print(table.to_rich())
    return 0


if __name__ == "__main__":
    sys.exit(main())
