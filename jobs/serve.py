"""Serves an adapted model to a rig: `forebrain live serve`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["live", "serve", *sys.argv[1:]]))
