"""Ceilings of this machine: how fast it multiplies matrices, and how fast it copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from forebrain.benchmarking.timing import seconds_of

REPETITIONS = 12
CPU_SIDE, GPU_SIDE = 1024, 8192
CPU_BYTES, GPU_BYTES = 2**27, 2**30


@dataclass(frozen=True)
class Ceilings:
    """The best of several tries.

    Attributes:
        flops_per_s: of a product of square matrices, by the name of the dtype; a multiply-add is two.
        bytes_per_s: of a copy that no cache holds, read and written.
    """

    flops_per_s: dict[str, float]
    bytes_per_s: float

    @classmethod
    def measure(cls, device: torch.device, dtypes: dict[str, torch.dtype]) -> Ceilings:
        """Measures the ceilings with the threads that are set, which takes a second or two."""
        side = GPU_SIDE if device.type == "cuda" else CPU_SIDE
        flops = {}
        for name, dtype in dtypes.items():
            left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            flops[name] = 2 * side**3 / _best_s(partial(torch.mm, left, right), device)
        source = torch.ones(
            GPU_BYTES if device.type == "cuda" else CPU_BYTES, dtype=torch.uint8, device=device
        )
        target = torch.empty_like(source)
        return cls(flops, 2 * source.nbytes / _best_s(lambda: target.copy_(source), device))


def _best_s(function: Callable[[], object], device: torch.device) -> float:
    """The first call only warms up."""
    return min([seconds_of(function, device) for _ in range(1 + REPETITIONS)][1:])
