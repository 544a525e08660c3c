"""The weights of the part of POCO that every unit-window passes, folded as `accelerate.unit_decoder` says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forebrain.accelerate.packed_linear import PackedLinear


class DecoderWeights(NamedTuple):
    """Weights as (out, in), biases (out), folded as `accelerate.unit_decoder` says.

    `expand_weight` has rows that sum to zero, which is LayerNorm's subtraction of the mean. `hidden`
    alternates weight and bias of the context's hidden layers, [M, C], [M], then [M, M], [M], ...
    """

    expand_weight: Tensor
    expand_bias: Tensor
    contract_weight: Tensor
    scale_weight: Tensor
    scale_bias: Tensor
    shift_weight: Tensor
    shift_bias: Tensor
    out_weight: Tensor
    hidden: tuple[Tensor, ...]

    @classmethod
    def named(cls, flat: Sequence[Any]) -> DecoderWeights:
        """The tensors that `flat` lists, or another value for each of them, by name again."""
        num_plain = len(cls._fields) - 1
        return cls._make([*flat[:num_plain], tuple(flat[num_plain:])])

    def to(self, dtype: torch.dtype) -> DecoderWeights:
        """The same in another dtype."""
        if self.out_weight.dtype == dtype:
            return self
        return DecoderWeights.named([tensor.to(dtype) for tensor in self.flat])

    @property
    def flat(self) -> tuple[Tensor, ...]:
        """The weights in the order in which autograd passes them."""
        *plain, hidden = self
        return (*plain, *hidden)


class DecoderLayers(NamedTuple):
    """The layers that unit-windows pass; `out` is given the modulated hidden layer and e1 side by side."""

    expand: PackedLinear
    contract: PackedLinear
    scale: PackedLinear
    hidden: tuple[PackedLinear, ...]
    out: PackedLinear

    @classmethod
    def of(cls, weights: DecoderWeights, num_rows: int | None) -> DecoderLayers:
        """Layers of weights in the dtype of the products.

        Args:
            weights: theirs.
            num_rows: as `PackedLinear` has it.
        """

        def layer(weight: Tensor, bias: Tensor | None, fuses: bool = False) -> PackedLinear:
            return PackedLinear(weight, bias, num_rows, fuses)

        return cls(
            layer(weights.expand_weight, weights.expand_bias),
            layer(weights.contract_weight, None),
            layer(weights.scale_weight, weights.scale_bias),
            tuple(
                layer(*each, fuses=True)
                for each in zip(weights.hidden[::2], weights.hidden[1::2], strict=True)
            ),
            layer(torch.cat([weights.out_weight, weights.shift_weight], dim=1), weights.shift_bias),
        )
