"""The interface of the ways to train a backbone. The loop does not know which one it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from forebrain.models.base import Model, SessionInput, SessionTarget
from forebrain.training.state import PortableTensors


class Strategy(ABC):
    """Holds the backbone, its gradients and its optimiser, on this worker or spread over all.

    A step is `forward` and `backward` for each part of the batch, then `reduce`, then `step`. All workers
    make the same calls in the same order.

    Attributes:
        lockstep: forward and backward are collective too, so that a worker with nothing to read passes an
            empty session through.
    """

    lockstep: bool = False

    @abstractmethod
    def forward(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        """The error to train on, a scalar; see `contract.Model.forward`."""

    @abstractmethod
    def backward(self, error: Tensor, is_last: bool) -> None:
        """Adds the gradients of one part of the batch; errors are summed over workers, not averaged."""

    @abstractmethod
    def reduce(self, totals: Tensor) -> None:
        """Sums over the workers the backbone's gradients and `totals`, which is replaced."""

    @abstractmethod
    def step(self, learning_rate: float, clip_norm: float, besides: Tensor | None = None) -> Tensor:
        """Clips the gradients, moves the backbone and clears the gradients.

        Args:
            learning_rate: of this step.
            clip_norm: largest norm.
            besides: sum of squares of gradients that are clipped jointly with these.

        Returns:
            The norm before clipping, that of `besides` included. Not finite: nothing that follows is sound.
        """

    @abstractmethod
    def replica(self) -> Model:
        """The whole backbone on this worker, for forecasts that are not in step with other workers'.

        It has the weights of now; the next step may or may not change them.
        """

    @abstractmethod
    def export(self) -> PortableTensors:
        """This worker's part of the portable form, a copy. All workers' parts together are the whole, of
        which each has every tensor or range that no other has."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what any strategy exported.

        Raises:
            CheckpointError: it belongs to another model.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to let go
        """Lets go of what would outlive the process group. Nothing else is called after it."""
