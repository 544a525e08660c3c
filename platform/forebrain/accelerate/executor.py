"""The base of every executor: a drop-in for one model that computes the same by other means."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from forebrain.models.base import Interface, Model


class Executor(Model):
    """Called like the model that it holds, whose parameters it reads and whose gradients it forms.

    It replaces `forecast_normalised` and `loss_normalised`, and nothing else. What it computes in does not
    hang on an autocast around it.

    Args:
        model: its parameters are the executor's.
        dtype: of most of the matrix products; bf16 by way of autocast.
    """

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        self.config = model.config
        self.train(model.training)

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return self.model.new_interface(num_units, generator)

    def in_dtype(self, device: torch.device) -> AbstractContextManager[object]:
        """A context in which products are in the executor's dtype."""
        lower = self.dtype == torch.bfloat16
        return torch.autocast(device.type, dtype=torch.bfloat16 if lower else None, enabled=lower)

    @staticmethod
    def exactly(device: torch.device) -> AbstractContextManager[object]:
        """A context in which products stay in the dtype of what is multiplied."""
        return torch.autocast(device.type, enabled=False)
