"""Analyses a run's unit embeddings: `forebrain study embeddings`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["study", "embeddings", *sys.argv[1:]]))
