"""Compares variants of a run: `forebrain study ablate`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["study", "ablate", *sys.argv[1:]]))
