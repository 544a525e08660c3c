"""forebrain: foundation models that forecast brain activity, trained over many animals."""

__version__ = "0.1.0"
