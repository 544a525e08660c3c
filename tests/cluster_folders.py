"""Where tests may start clusters."""

# Each cluster wants both cores and all memory, so these run one after another (see conftest.py).
CLUSTERS = (
    "tests/jobs/",
    "tests/cluster/test_slurm.py",
    "tests/studies/test_lost_trials.py",
    "tests/studies/test_study.py",
)
