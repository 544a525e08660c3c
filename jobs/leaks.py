"""Measures what looking into the future would seem to gain: `forebrain leaks`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["leaks", *sys.argv[1:]]))
