"""Times of things that are done again and again, and the memory they take."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch

# Below so many repetitions a 99th percentile is no more than the largest.
P99_FROM = 100
RESAMPLES = 500


@dataclass(frozen=True)
class Patience:
    """Limits after which a measurement has been repeated often enough.

    Attributes:
        repetitions: of what is timed, after one to warm up.
        plain_repetitions: of the plain formulation beside it.
        seconds: after which no other round is begun.
        plain_seconds: after which rounds go on without the plain formulation, which takes longest.
        p99_within_s: where so many seconds are enough for a hundred repetitions, they are made.
    """

    repetitions: int = 20
    plain_repetitions: int = 5
    seconds: float = 12.0
    plain_seconds: float = 3.0
    p99_within_s: float = 6.0


@dataclass
class Times:
    """Seconds of each repetition, and the most memory that one took."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def median_ms(self) -> float:
        return 1e3 * median(self.seconds)

    @property
    def best_ms(self) -> float:
        """The fastest repetition, milliseconds: what the machine does when nothing disturbs it."""
        return 1e3 * min(self.seconds)

    @property
    def p99_ms(self) -> float | None:
        """The 99th percentile, milliseconds; None where there are too few repetitions for one."""
        return 1e3 * float(np.quantile(self.seconds, 0.99)) if len(self.seconds) >= P99_FROM else None


def time_together(
    functions: Mapping[str, Callable[[], object]], device: torch.device, patience: Patience
) -> dict[str, Times]:
    """Times functions in turn, so that their ratios hold on a machine that is busy now and idle then.

    Args:
        functions: by name; the one named `plain` is repeated less often.
        device: where they compute; they are waited for.
        patience: how often.
    """
    times = {name: Times() for name in functions}
    for name, function in functions.items():
        times[name].peak_bytes = peak_bytes(function, device)
    wanted = dict.fromkeys(functions, patience.repetitions)
    if "plain" in wanted:
        wanted["plain"] = patience.plain_repetitions
    began = time.perf_counter()
    while waiting := [name for name in functions if len(times[name].seconds) < wanted[name]]:
        for name in waiting:
            times[name].seconds.append(seconds_of(functions[name], device))
        if time.perf_counter() - began > patience.seconds:
            break
        if "plain" in wanted and sum(times["plain"].seconds) > patience.plain_seconds:
            wanted["plain"] = 0
        each_round_s = sum(min(times[name].seconds) for name in functions if name != "plain")
        if P99_FROM * each_round_s < patience.p99_within_s:
            wanted |= {name: P99_FROM for name in functions if name != "plain"}
    return times


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """The most memory that a call takes above what is held before it: of the GPU on a GPU, else resident."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        seconds_of(function, device)
        return torch.cuda.max_memory_allocated(device) - before
    # Linux forgets the high-water mark when told so; memory that is free in the heap must leave it first.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _resident("VmRSS")
    function()
    return max(0, _resident("VmHWM") - before)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call, a GPU's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def waited_s() -> float:
    """Seconds that this thread was ready to run and got no core; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="utf-8").split()[1]) / 1e9
    except OSError:
        return 0.0


def p99_ratio(without: np.ndarray, with_it: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % of the ratio of 99th percentiles, by bootstrap over pairs of blocks [pairs, repetitions]."""
    pairs = len(without)
    ratios = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = rng.integers(pairs, size=pairs)
        ratios[number] = np.quantile(with_it[drawn], 0.99) / np.quantile(without[drawn], 0.99)
    low, high = np.quantile(ratios, [0.025, 0.975]).tolist()
    return low, high


def _resident(name: str) -> int:
    """Resident memory of this process, bytes: VmRSS now, VmHWM at most."""
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(kilobytes) * 1024
