"""Serves an adapted model to a rig: python jobs/serve.py --adapted DIR [--address tcp://127.0.0.1:5600]

Frames come in over ZeroMQ or the Lab Streaming Layer and forecasts go back, until SIGINT or SIGTERM.
docs/live.md has the messages, and what happens to frames that are late, missing or damaged.
"""

import sys

from forebrain.commands.live import ServeConfig, run_server
from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError


def main() -> int:
    try:
        run_server(parse(ServeConfig, description=__doc__), make_console())
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
