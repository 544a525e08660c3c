"""Scores runs again, and compares them: `forebrain evaluate`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
