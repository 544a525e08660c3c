"""What workers say to one another. A single process is a group of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Imported before there is a process group: the default arguments in it would otherwise hold the group that
# exists when an optimiser first imports it, whose threads then outlive destroy_process_group and, now and
# then, abort the process as it ends.
import torch.distributed.nn.functional
from torch import Tensor

from forebrain.errors import StoppedByPeerError

T = TypeVar("T")


class WorkerGroup:
    """The workers of a run: torch.distributed's process group where there is one, else this process.

    Attributes:
        bytes_given: bytes that this worker has given to collective calls so far.
    """

    def __init__(self) -> None:
        self._distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if self._distributed else 0
        self.size = dist.get_world_size() if self._distributed else 1
        self.bytes_given = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replaces every tensor by its sum over the workers, in one message."""
        if not self._distributed or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self.bytes_given += flat.nbytes
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value, in the order of their ranks, on every worker."""
        if not self._distributed:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_from(self, work: Callable[[], T]) -> list[T]:
        """Does work on every worker and gathers what it gives; if it fails on one, all stop.

        Raises:
            StoppedByPeerError: it failed on another worker.
            Exception: what the work raised here.
        """
        try:
            value, error = work(), None
        except Exception as caught:
            value, error = None, caught
        results = self.gather((value, error is not None))
        if error is not None:
            raise error
        if any(failed for _, failed in results):
            raise StoppedByPeerError("another worker of this run could not go on; see its error.")
        return [given for given, _ in results]
