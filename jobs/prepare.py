"""Prepares recordings for training: `forebrain prepare`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["prepare", *sys.argv[1:]]))
