"""Times what the platform does: `forebrain benchmark`, for `ray job submit`."""

import sys

if __name__ == "__main__":  # not in the processes that it starts
    from forebrain.commands import main

    sys.exit(main(["benchmark", *sys.argv[1:]]))
