"""Publishes a run's checkpoint: `forebrain publish`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["publish", *sys.argv[1:]]))
