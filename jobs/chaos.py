"""Kills parts of a pretraining at random: `forebrain chaos`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["chaos", *sys.argv[1:]]))
