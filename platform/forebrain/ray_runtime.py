"""Starts Ray, or joins the cluster that is there."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

from forebrain.errors import ClusterError
from forebrain.machine import num_cores

# Ray reads these when it is imported or started, in every process.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A local start would turn token authentication on, and other commands would then be refused.
    "RAY_AUTH_MODE": "disabled",
    # What still runs when this process ends would start another Ray, and hang in it.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Ray's processes start in the locale C, in which Python takes names of files for ASCII.
    "PYTHONUTF8": "1",
}
CONNECT_TIMEOUT_S = 5.0
_LOGGING: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


def quiet_ray() -> None:
    """Sets what Ray reads from the environment; before Ray is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def start_ray(num_cpus: int | None = None) -> None:
    """Makes Ray ready, once a process.

    Joins the cluster of RAY_ADDRESS (which is set inside a submitted job), else starts one on this machine
    that ends with the process. Ray's own processes then listen on all interfaces of the machine.

    Args:
        num_cpus: CPUs of a cluster on this machine; None takes all that this process may use. Ignored when a
            cluster is joined.

    Raises:
        ClusterError: Ray does not start, or the cluster does not answer, or the user has no home.
    """
    if not has_home():
        raise ClusterError(
            "this user has no home folder, which Ray asks for. Set HOME to a folder; with --workers 0 "
            "pretrain, prepare and adapt do without Ray."
        )
    quiet_ray()
    import ray

    if ray.is_initialized():
        return
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            # Ray itself would try for many minutes.
            if address not in ("auto", "local") and (reason := unreachable(address)):
                raise ConnectionError(reason)
            ray.init(**_LOGGING)
        except Exception as error:
            raise ClusterError(
                f"the Ray cluster of RAY_ADDRESS={address} cannot be joined ({_first_line(error)}). Check "
                "the address, and the cluster with `forebrain doctor --cluster`."
            ) from error
        return
    # Short, because Ray puts sockets there and their paths may have 107 characters at most.
    temp_dir = tempfile.mkdtemp(prefix="forebrain-ray-", dir="/tmp")
    atexit.register(shutil.rmtree, temp_dir, ignore_errors=True)
    atexit.register(ray.shutdown)  # runs before the folder is removed
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus or num_cores(),
            include_dashboard=True,  # without it placement groups of stopped runs are never freed
            _temp_dir=temp_dir,
            **_LOGGING,
        )
    except Exception as error:  # Ray raises Exception itself where a process of its own is too slow
        raise ClusterError(
            f"Ray did not start on this machine ({_first_line(error)}). Try again when it is less busy. "
            "With --workers 0 pretrain, prepare and adapt do without Ray."
        ) from error


def has_home() -> bool:
    """Whether the user has a home folder, by HOME or by name; Ray Train cannot be imported without."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def unreachable(address: str) -> str:
    """Why nobody listens at the address of a cluster, host:port or a URL; empty if somebody does."""
    try:
        parts = urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return "no address of a cluster; expected host:port or http://host:port"
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_S):
            return ""
    except OSError as error:
        return f"nobody answers ({error.strerror or error})"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
