"""A backbone that no longer changes: what follows from its weights alone is done once.

Adapting calls a `FrozenPoco` in place of the model, and gradients reach interfaces alone. A live forecaster
goes one step further: with the interface fixed as well, a `FrozenSession` does the frames' share of the work.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from forebrain.models.contract import Interface, SessionInput
from forebrain.models.poco import FoldedWeights, Poco, PocoConfig, SessionTerms


class FrozenPoco(nn.Module):
    """Called like the model it is a copy of.

    Weights are folded, and cast to the dtype of the products of rows, once instead of in each call. The
    layers over the latents stay in the weights' own dtype, and autocast changes nothing.

    Args:
        model: the backbone, as it is now.
        compute_dtype: of the products of rows; None for that of the weights.
    """

    def __init__(self, model: Poco, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.train(model.training)
        folded = self.model.fold(compute_dtype or model.latent.dtype)
        self._folded = replace(folded, row_head=folded.row_head.to(folded.compute_dtype))

    @property
    def config(self) -> PocoConfig:
        return self.model.config

    def forward(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        """As `Poco.forward`; gradients reach the interfaces."""
        with torch.autocast(self.model.latent.device.type, enabled=False):
            terms = [self.model.session_terms(entry, self._folded) for entry in inputs]
            return self.model.forecast(list(zip(inputs, terms, strict=True)), self._folded)

    @torch.no_grad()
    def session(self, interface: Interface, dataset: int | None = None) -> FrozenSession:
        """A forecaster of one session, with the embeddings as they are now.

        It holds 5 kB a unit in fp32, 3 kB in bf16, at the default sizes.
        """
        folded = self._folded
        frameless = interface.unit.new_zeros(0, self.config.context, len(interface.unit))
        entry = SessionInput(frameless, interface, dataset)
        terms = self.model.session_terms(entry, folded)
        expand_weight = folded.row_head.expand_weight
        projected = terms.units.to(expand_weight.dtype) @ expand_weight.T
        return FrozenSession(self.model, folded, entry, replace(terms, projected=projected))


class FrozenSession:
    """Forecasts one session with backbone and interface both fixed; made by `FrozenPoco.session`."""

    def __init__(self, model: Poco, folded: FoldedWeights, entry: SessionInput, terms: SessionTerms) -> None:
        self._model, self._folded, self._entry, self._terms = model, folded, entry, terms

    @torch.inference_mode()
    def __call__(self, context: Tensor) -> Tensor:
        """Contexts [B, C, N] to forecasts [B, H, N], without gradients."""
        (forecast,) = self._model.forecast(
            [(replace(self._entry, context=context), self._terms)], self._folded
        )
        return forecast
