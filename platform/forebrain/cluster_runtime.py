"""Starts Ray, or joins the cluster that is there."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile

# Ray reads these when it is imported or started, in every process.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A local start would turn token authentication on, and other commands would then be refused.
    "RAY_AUTH_MODE": "disabled",
}


def quiet_ray() -> None:
    """Sets what Ray reads from the environment; before Ray is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def start_ray(num_cpus: int | None = None) -> None:
    """Makes Ray ready, once a process.

    Joins the cluster of RAY_ADDRESS (which is set inside a submitted job), else starts one on this machine
    that ends with the process. Ray's own processes then listen on all interfaces of the machine.

    Args:
        num_cpus: CPUs of a cluster on this machine; None takes all. Ignored when a cluster is joined.
    """
    quiet_ray()
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    # Short, because Ray puts sockets there and their paths may have 107 characters at most.
    temp_dir = tempfile.mkdtemp(prefix="forebrain-ray-", dir="/tmp")
    atexit.register(shutil.rmtree, temp_dir, ignore_errors=True)
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=True,  # without it placement groups of stopped runs are never freed
        log_to_driver=False,
        logging_level=logging.WARNING,
        _temp_dir=temp_dir,
    )
    atexit.register(ray.shutdown)  # runs before the folder is removed
