"""Adapts a model to many recordings: `forebrain adapt --each`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["adapt", "--each", *sys.argv[1:]]))
