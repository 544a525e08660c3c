"""A linear layer, forwards and back to what it is given, that lies in memory as products read it best.

A weight that trains lies as it is. One that no longer changes lies as took the least time on a CPU: packed
by oneDNN where what follows passes with the product, where rows are few (MKL's products wait for weights that
have left the cache) and in wide layers in fp32, which take a tenth less than MKL's; else as its transpose.
For many rows in fp32 what follows is always a pass of its own: with it the product would lose more.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

# In fp32: from so many rows on, layers are packed whose sides are both so wide.
MANY_ROWS, WIDE = 64, 128
# What can be packed here: bf16 not by processors without AVX-512 or its like.
_PACKED: set[torch.dtype] = set()
if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _linear = torch.ops.mkldnn._linear_pointwise.default
    _linear_with = torch.ops.mkldnn._linear_pointwise.binary
    _PACKED.add(torch.float32)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        _PACKED.add(torch.bfloat16)


class PackedLinear:
    """x W^T + b, and what follows it.

    Args:
        weight, bias: [out, in] and [out].
        num_rows: of what it is mostly given; None for a weight that still trains.
        fuses: what follows passes with the product where that is faster; its result is then in no memory that
            was given.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, num_rows: int | None, fuses: bool = True) -> None:
        self.weight, self.bias, self._num_rows, self._may_fuse = weight, bias, num_rows, fuses
        self._turned, self._packed, self._fuses = weight.T, None, False
        if num_rows is None or weight.device.type != "cpu":
            return
        is_exact, is_wide = weight.dtype == torch.float32, min(weight.shape) >= WIDE
        fuses &= weight.dtype == torch.bfloat16 or (is_exact and num_rows < MANY_ROWS)
        if weight.dtype in _PACKED and (fuses or (is_exact and is_wide)):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), num_rows)
            self._fuses = fuses
        else:
            self._turned = self._turned.contiguous()

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The result for rows [r, in]; `out` is memory that it may be in."""
        if self._packed is not None:
            return _linear(x, self._packed, self.bias, "none", [], "")
        if self.bias is None:
            return torch.mm(x, self._turned, out=out)
        return torch.addmm(self.bias, x, self._turned, out=out)

    def relu(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """max(x W^T + b, 0)."""
        if self._fuses:
            return _linear(x, self._packed, self.bias, "relu", [], "")
        return self(x, out).relu_()

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """(x W^T + b) * factor."""
        if self._fuses:
            return _linear_with(x, factor, self._packed, self.bias, "mul")
        return self(x).mul_(factor)

    def plus(self, x: Tensor, addend: Tensor) -> Tensor:
        """x W^T + b + addend."""
        if self._fuses:
            return _linear_with(x, addend, self._packed, self.bias, "add")
        return self(x).add_(addend)

    def backward(self, grad: Tensor, out: Tensor | None = None) -> Tensor:
        """The gradient of what it was given, from that of its result."""
        return self._back(grad, out)

    @cached_property
    def _back(self) -> PackedLinear:
        return PackedLinear(self.weight.T, None, self._num_rows, self._may_fuse)
