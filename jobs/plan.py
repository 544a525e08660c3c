"""Calculates a pretraining that is too large to try: `forebrain plan`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["plan", *sys.argv[1:]]))
