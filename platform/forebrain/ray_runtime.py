"""Starts Ray, or joins the cluster that is there."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import urllib.parse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forebrain.errors import ClusterError
from forebrain.leaving import hangups_ignored
from forebrain.machine import num_cores, open_more_files, takes_sockets

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
OPEN_FILES = 8192  # as many as Ray recommends
LEAST_OPEN_FILES = 256  # with fewer its processes end without a word
_WITHOUT_RAY = "With --workers 0 pretrain, prepare and adapt do without Ray."
_LOGGING: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


def quiet_ray() -> None:
    """Sets what Ray reads from the environment; before Ray is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if any(action == "error" for action, *_ in warnings.filters):  # as for its own processes, below
        warnings.filterwarnings("default", module=r"ray\.")


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
            f"this user has no home folder, which Ray asks for. Set HOME to a folder. {_WITHOUT_RAY}"
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
    if (files := open_more_files(OPEN_FILES)) < LEAST_OPEN_FILES:
        raise ClusterError(
            f"Ray cannot start on this machine: a process may open {files} files; expected "
            f"{LEAST_OPEN_FILES} at least. Have `ulimit -n` raised. {_WITHOUT_RAY}"
        )
    temp_dir = _short_folder()
    atexit.register(shutil.rmtree, temp_dir, ignore_errors=True)
    atexit.register(ray.shutdown)  # runs before the folder is removed
    try:
        with _as_ray_needs_it(temp_dir):
            ray.init(
                address="local",
                num_cpus=num_cpus or num_cores(),
                include_dashboard=True,  # without it placement groups of stopped runs are never freed
                _temp_dir=temp_dir,
                **_LOGGING,
            )
    except Exception as error:  # Ray raises Exception itself where a process of its own is too slow
        raise ClusterError(
            f"Ray did not start on this machine ({_first_line(error)}). {_what_helps()} {_WITHOUT_RAY}"
        ) from error


def has_home() -> bool:
    """Whether the user has a home folder, by HOME or by name; Ray Train cannot be imported without."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def _short_folder() -> str:
    """A new folder for Ray; short, because Ray puts sockets there and their paths may have 107 characters at
    most."""
    tried = []
    for above in dict.fromkeys(("/tmp", os.environ.get("TMPDIR") or "/tmp")):
        if not takes_sockets(above):
            continue
        try:
            return tempfile.mkdtemp(prefix="forebrain-ray-", dir=above)
        except OSError as error:
            tried.append(f"{above}: {error.strerror or error}")
    raise ClusterError(
        f"Ray cannot start on this machine: no folder for its files can be made ({'; '.join(tried)}). Point "
        f"TMPDIR at a folder with a short path that can be written to. {_WITHOUT_RAY}"
    )


@contextlib.contextmanager
def _as_ray_needs_it(folder: str) -> Iterator[None]:
    """The environment and the folder that Ray's processes begin in; `folder` is Ray's own."""
    given, changed = os.environ, {}
    if not takes_sockets(given.get("TMPDIR", "")):
        changed["TMPDIR"] = folder
    if "error" in given.get("PYTHONWARNINGS", ""):  # Ray warns, and would end
        changed["PYTHONWARNINGS"] = "default"
    if given.get("PYTHONPATH"):
        changed["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, given["PYTHONPATH"].split(os.pathsep)))
    # Where they begin they look for modules first: the user's `signal.py` would end them without a word. They
    # need it only where this process takes modules from there, too.
    here = str(Path.cwd())
    needs_it = not {"", here}.isdisjoint(sys.path)
    before = {name: given[name] for name in changed}
    given.update(changed)
    try:
        # Of a terminal that is closed this process takes heed, has them save, and ends them.
        with hangups_ignored(), contextlib.chdir(here if needs_it else folder):
            yield
    finally:
        given.update(before)


def _what_helps() -> str:
    """What to do where Ray did not start."""
    import resource

    bytes_allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if bytes_allowed != resource.RLIM_INFINITY:
        return (
            f"A process may have {bytes_allowed / 2**30:.1f} GiB of addresses, and Ray reserves more than it "
            "uses: `ulimit -v unlimited`."
        )
    return "Try again when it is less busy."


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
