"""Measures training on a large session: `forebrain benchmark --what large-session` for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["benchmark", "--what", "large-session", *sys.argv[1:]]))
