"""Which tests may start clusters."""

# Each cluster wants both cores and all memory, so these run one after another (see conftest.py).
CLUSTERS = (
    "tests/cluster/test_slurm.py",
    "tests/jobs/test_chaos.py",
    "tests/jobs/test_cluster_runtime.py",
    "tests/jobs/test_many_adaptations.py::TestWithRay",
    "tests/jobs/test_prepare_cluster.py",
    "tests/jobs/test_prepare_interrupted.py",
    "tests/jobs/test_pretrain.py",
    "tests/jobs/test_submit.py",
    "tests/jobs/test_survival.py",
    "tests/studies/test_lost_trials.py",
    "tests/studies/test_study.py",
)
