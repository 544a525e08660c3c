"""The share of this machine that this process may use, and how long this machine has run."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
SOCKET_PATH_BYTES = 107  # the longest that a system takes
# Of a socket that Python makes in the folder of temporary files.
SOCKET_NAME_BYTES = len("/pymp-12345678/listener-12345678")


def num_cores() -> int:
    """The cores that this process may use: those it is bound to (Slurm, taskset), or as many as its container
    may keep busy where that is fewer; not those that there are."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *map(math.ceil, _cpu_quotas())]))


def num_threads() -> int:
    """Threads to compute with where none are asked for: OMP_NUM_THREADS, else one for each core."""
    return asked_threads() or num_cores()


def asked_threads() -> int | None:
    """OMP_NUM_THREADS; None where it is not set, or no number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() and int(first) else None


@functools.cache
def boot_id() -> str:
    """What tells this start of this machine from its others, and from those of other machines.

    Raises:
        OSError: no Linux.
    """
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def since_boot() -> tuple[str, float] | None:
    """Which start of this machine this is, and the seconds since, sleep among them, which nobody sets; None
    where that is not known."""
    try:
        return boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):  # no Linux
        return None


def running_s() -> float:
    """Seconds on a clock that only runs forward, while the machine sleeps too where the system has such."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def takes_sockets(folder: str) -> bool:
    """Whether the path of a folder of temporary files is short enough for sockets in it."""
    return len(os.fsencode(folder)) + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES


def open_more_files(wanted: int) -> int:
    """Lets this process, and those that it starts, open `wanted` files, or as many as it may be let.

    Returns:
        Files that it may open now.
    """
    import resource  # not there on Windows, where only the doctor runs

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    asked = wanted if hard == unlimited else min(wanted, hard)
    if soft == unlimited or soft >= asked:
        return wanted if soft == unlimited else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (asked, hard))
    return asked


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Gives torch so many threads while the block lasts."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpu_quotas() -> Iterator[float]:
    """Cores that each control group of this process may keep busy, of versions 2 and 1."""
    for folder in (CGROUPS, *_own_groups()):
        quota = _numbers(folder / "cpu.max")
        if len(quota) == 2:
            yield quota[0] / quota[1]
    version_1 = CGROUPS / "cpu"
    quota = [*_numbers(version_1 / "cpu.cfs_quota_us"), *_numbers(version_1 / "cpu.cfs_period_us")]
    if len(quota) == 2 and quota[0] > 0:
        yield quota[0] / quota[1]


def _own_groups() -> Iterator[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::/"):
            group = CGROUPS / line[4:]
            yield from (each for each in (group, *group.parents) if each.is_relative_to(CGROUPS))


def _numbers(path: Path) -> list[float]:
    """The numbers in a file of a control group; none where it is not there, or says `max`."""
    try:
        return [float(word) for word in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []
