"""Studies how well adaptation does: `forebrain study leave-one-out`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["study", "leave-one-out", *sys.argv[1:]]))
