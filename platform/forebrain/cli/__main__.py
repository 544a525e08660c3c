"""`python -m forebrain.cli`, where the command is not on the path."""

import sys

from forebrain.cli import main

sys.exit(main())
