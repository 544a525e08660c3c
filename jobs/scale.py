"""Studies how the score grows: `forebrain study scale`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["study", "scale", *sys.argv[1:]]))
