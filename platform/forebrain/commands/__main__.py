"""`python -m forebrain.commands`, where the command is not on the path."""

import sys

from forebrain.commands import main

sys.exit(main())
