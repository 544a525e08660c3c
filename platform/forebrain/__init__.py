"""forebrain: foundation models that forecast brain activity, trained over many animals."""

from forebrain_registry import __version__ as __version__
