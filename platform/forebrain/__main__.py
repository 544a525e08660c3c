"""The program `forebrain`, and `python -m forebrain` where the command is not on the path."""

import sys

from forebrain.leaving import end_at_once


def main() -> int:
    """Runs one command; see `forebrain.commands.main`."""
    end_at_once()
    from forebrain import commands

    return commands.main()


if __name__ == "__main__":  # not in the processes that a command starts
    sys.exit(main())
