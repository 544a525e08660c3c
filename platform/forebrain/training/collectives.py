"""Messages between the workers of a run. A single process is a group of one."""

from __future__ import annotations

import functools
import inspect
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

# Collectives of torch.distributed, and the argument that holds what a worker gives to one.
_GIVEN = {
    "all_reduce": "tensor",
    "reduce": "tensor",
    "broadcast": "tensor",
    "gather": "tensor",
    "all_gather": "tensor",
    "all_gather_into_tensor": "input_tensor",
    "all_gather_single": "input_tensor",
    "reduce_scatter_tensor": "input",
    "reduce_scatter_single": "input",
}
_given_bytes = 0


class WorkerGroup:
    """The workers of a run: torch.distributed's process group where there is one, else this process.

    Once there is one, every call of a collective in this process is counted, also those that DeepSpeed and
    FSDP make.
    """

    def __init__(self) -> None:
        self._distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if self._distributed else 0
        self.size = dist.get_world_size() if self._distributed else 1
        if self._distributed:
            _count_collectives()

    @property
    def bytes_given(self) -> int:
        """Bytes of the tensors that this worker has given to collective calls so far, which is not what a
        backend makes of them on the wire."""
        return _given_bytes

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replaces every tensor by its sum over the workers, in one message."""
        if not self._distributed or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over the workers; no gradient passes."""
        return self._all_reduced(tensor.detach(), dist.ReduceOp.MAX)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over the workers; its gradient is the sum of the workers' gradients."""
        return _Total.apply(tensor, self)

    def _all_reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        if self._distributed:
            dist.all_reduce(tensor, operation)
        return tensor

    def gather_rows(self, rows: Tensor, sizes: Sequence[int], to: int) -> Tensor | None:
        """Joins rows [sizes[rank], ...] of all workers, in the order of their ranks, on worker `to`."""
        if not self._distributed:
            return rows
        # Of equal sizes, which is all that the collective takes.
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        pieces = [torch.empty_like(padded) for _ in sizes] if self.rank == to else None
        dist.gather(padded, pieces, dst=to)
        if pieces is None:
            return None
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

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


@functools.cache
def _count_collectives() -> None:
    """Puts counting functions in the place of torch.distributed's, once a process.

    Whoever calls them looks them up there at the call, or, as DeepSpeed, when it makes its engine.
    """
    for name, argument in _GIVEN.items():
        setattr(dist, name, _counted(getattr(dist, name), argument))


def _counted(collective: Callable[..., T], argument: str) -> Callable[..., T]:
    place = list(inspect.signature(collective).parameters).index(argument)

    @functools.wraps(collective)
    def counted(*given: Any, **named: Any) -> T:
        global _given_bytes
        _given_bytes += (given[place] if place < len(given) else named[argument]).nbytes
        return collective(*given, **named)

    return counted


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: WorkerGroup) -> Tensor:
        ctx.group = group
        return group._all_reduced(tensor, dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.group._all_reduced(grad, dist.ReduceOp.SUM), None
