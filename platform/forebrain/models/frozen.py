"""A backbone that no longer changes: what follows from its weights alone is done once.

Adapting calls a `FrozenPoco` in place of the model, and gradients reach interfaces alone. A live forecaster
goes one step further: with the interface fixed as well, a `FrozenSession` does the frames' share of the work.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from forebrain.models.contract import Interface, Model, SessionInput, SessionTarget
from forebrain.models.poco import Poco, SessionTerms
from forebrain.models.row_head import RowHead


def freeze(model: Model, compute_dtype: torch.dtype) -> Model:
    """What forecasts as the model does and is faster while its weights stay; the model where there is none.

    Args:
        model: no parameter of it may be in training.
        compute_dtype: of the products of rows, as autocast would choose it.
    """
    return FrozenPoco(model, compute_dtype) if type(model) is Poco else model


class FrozenPoco(Model):
    """Called like the model it is a copy of.

    Weights are folded, and cast to the dtype of the products of rows, once instead of in each call. The
    layers over the latents stay in the weights' own dtype, and autocast changes nothing.

    Args:
        model: the backbone, as it is now.
        compute_dtype: of the products of rows; None for that of the weights.
    """

    splits_units = True

    def __init__(self, model: Poco, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = model.config
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.train(model.training)
        folded = self.model.fold(compute_dtype or model.dataset.dtype)
        self.folded = replace(folded, row_head=folded.row_head.to(folded.compute_dtype))

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return self.model.new_interface(num_units, generator)

    def forecast_windows(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        return self._row_head(inputs).forecast()

    def error_of_windows(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        return self._row_head(inputs).error(targets)

    def _row_head(self, inputs: Sequence[SessionInput]) -> RowHead:
        with torch.autocast(inputs[0].context.device.type, enabled=False):
            terms = [self.model.session_terms(entry, self.folded.probes) for entry in inputs]
            return self.model.row_head_of_known(list(zip(inputs, terms, strict=True)), self.folded)

    @torch.no_grad()
    def session(self, interface: Interface, dataset: int | None = None) -> FrozenSession:
        """A forecaster of one session, with the embeddings as they are now.

        It holds 5 kB a unit in fp32, 3 kB in bf16, at the default sizes.
        """
        frameless = interface.unit.new_zeros(0, self.config.context, len(interface.unit))
        entry = SessionInput(frameless, interface, dataset)
        terms = self.model.session_terms(entry, self.folded.probes)
        weight = self.folded.row_head.expand_weight
        projected = terms.units.to(weight.dtype) @ weight.T
        return FrozenSession(self, entry, replace(terms, projected=projected))


class FrozenSession(Model):
    """Forecasts one session with backbone and interface both fixed; made by `FrozenPoco.session`.

    Called like a model it forecasts windows of that session, whatever interface they come with.
    """

    def __init__(self, frozen: FrozenPoco, entry: SessionInput, terms: SessionTerms) -> None:
        super().__init__()
        self.config = frozen.config
        self.frozen, self._entry, self._terms = frozen, entry, terms

    @torch.inference_mode()
    def forecast(self, context: Tensor) -> Tensor:
        """Contexts [B, C, N] to forecasts [B, H, N]."""
        (forecast,) = self([replace(self._entry, context=context)])
        return forecast

    def forecast_windows(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        (entry,) = inputs
        with torch.autocast(entry.context.device.type, enabled=False):
            return self.frozen.model.forecast_known([(entry, self._terms)], self.frozen.folded)
