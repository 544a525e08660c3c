"""A backbone that no longer changes: what follows from its weights alone is done once.

Adapting calls a `FrozenPoco` in place of the model, and gradients reach interfaces alone; those of a session
that is fitted by itself, a `FrozenError` forms. With the interface fixed as well, a `FrozenSession` does what
is left for each window. Whatever forecasts windows of one session one at a time, live or offline, gets it by
`session_forecaster`, so that both say the same to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from forebrain.accelerate.frozen_error import FrozenError
from forebrain.accelerate.frozen_session import FrameWeights, FrozenSession, Helpers
from forebrain.accelerate.row_head import RowHead
from forebrain.accelerate.row_passes import CPU_BLOCK_ROWS
from forebrain.accelerate.row_weights import RowLayers
from forebrain.models.base import Interface, Model, SessionInput, SessionTarget
from forebrain.models.poco import Poco, PocoConfig


def freeze(model: Model, compute_dtype: torch.dtype) -> Model:
    """What forecasts as the model does and is faster while its weights stay; the model where there is none.

    Args:
        model: no parameter of it may be in training.
        compute_dtype: of the products of rows, as autocast would choose it.
    """
    return FrozenPoco(model, compute_dtype) if type(model) is Poco else model


class SessionForecaster(Protocol):
    """Forecasts windows of one session."""

    def forecast(self, window: Tensor) -> Tensor:
        """A normalised window [C, N] to the next [H, N], both float32."""


def session_forecaster(
    model: Model, compute_dtype: torch.dtype = torch.float32, threads: int = 1
) -> Callable[[Interface, int | None], SessionForecaster]:
    """What makes forecasters of sessions, each from an interface and its data set, as these are then.

    Args:
        model: in evaluation mode; its weights no longer change.
        compute_dtype: of the products of rows.
        threads: that share the rows of a large session, where the model's forecaster can do that.
    """
    if type(model) is Poco:
        return partial(FrozenPoco(model, compute_dtype).session, helpers=Helpers(threads - 1))
    return partial(_AnySession, model, compute_dtype)


@dataclass(frozen=True)
class _AnySession:
    """By a call of the model."""

    model: Model
    compute_dtype: torch.dtype
    interface: Interface
    dataset: int | None

    @torch.inference_mode()
    def forecast(self, window: Tensor) -> Tensor:
        is_lower = self.compute_dtype != torch.float32
        with torch.autocast(
            window.device.type, dtype=self.compute_dtype if is_lower else None, enabled=is_lower
        ):
            (forecast,) = self.model([SessionInput(window[None], self.interface, self.dataset)])
        return forecast[0].float()


class FrozenPoco(Model):
    """Called like the model it is a copy of.

    Weights are folded, and cast to the dtype of the products of rows, once instead of in each call. The
    layers over the latents stay in the weights' own dtype, and autocast changes nothing.

    Args:
        model: the backbone, as it is now.
        compute_dtype: of the products of rows; None for that of the weights.
    """

    config: PocoConfig
    splits_units = True

    def __init__(self, model: Poco, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = model.config
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.train(model.training)
        folded = self.model.fold(compute_dtype or model.dataset.dtype)
        row_head = folded.row_head.to(folded.compute_dtype)
        self.folded = replace(folded, row_head=row_head, layers=RowLayers.of(row_head, CPU_BLOCK_ROWS))

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return self.model.new_interface(num_units, generator)

    def forecast_windows(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        return self._row_head(inputs).forecast()

    def error_of_windows(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        return self._row_head(inputs).error(targets)

    def learn(self, entry: SessionInput, target: SessionTarget) -> Tensor:
        if not self._forms_error(entry):
            return super().learn(entry, target)
        device = entry.context.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                error, gradients = self._error(entry, target)
        else:
            error, gradients = self._error(entry, target)
        for parameter, gradient in gradients.items():
            if not parameter.requires_grad:
                continue
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return error

    def _forms_error(self, entry: SessionInput) -> bool:
        """If `FrozenError` knows the case: what fitting one interface is."""
        drops = self.training and max(self.config.feed_forward_dropout, self.config.branch_dropout) > 0
        whole = entry.forecast_units is None and entry.peers is None
        return whole and not drops and not self.config.latent_session_embedding

    def _row_head(self, inputs: Sequence[SessionInput]) -> RowHead:
        with torch.autocast(inputs[0].context.device.type, enabled=False):
            terms = self.model.session_terms(inputs, self.folded.probes)
            return self.model.row_head_of_known(list(zip(inputs, terms, strict=True)), self.folded)

    @torch.no_grad()
    def session(
        self, interface: Interface, dataset: int | None = None, helpers: Helpers | None = None
    ) -> FrozenSession:
        """A forecaster of one session, with the embeddings as they are now. It never drops anything."""
        frameless = interface.unit.new_zeros(0, self.config.context, len(interface.unit))
        entry = SessionInput(frameless, interface, dataset)
        (terms,) = self.model.session_terms([entry], self.folded.probes)
        is_relative = bool(self.config.relative) and interface.is_smooth
        return FrozenSession(self._frame_weights, terms, is_relative, helpers or Helpers(0))

    @cached_property
    def _error(self) -> FrozenError:
        with torch.no_grad():
            return FrozenError(self.model, self.folded)

    @cached_property
    def _frame_weights(self) -> FrameWeights:
        return FrameWeights(self.model, self.folded)
