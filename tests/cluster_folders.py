"""Where tests may start clusters."""

# Each cluster wants both cores and all memory, so these run one after another (see conftest.py).
CLUSTERS = ("tests/cluster/", "tests/jobs/", "tests/studies/")
