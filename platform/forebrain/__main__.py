"""`python -m forebrain`, where the command is not on the path."""

import sys

if __name__ == "__main__":  # not in the processes that a command starts
    from forebrain.commands import main

    sys.exit(main())
