"""Linear layers and what follows them in one pass, where oneDNN does that; elsewhere one after the other.

In bf16 on a CPU a pass over a wide result costs a tenth of the product that it follows. In fp32 it costs
little, and results in the same memory again and again are worth more.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """relu(x W^T + b), [r, M]; `out` may hold the result."""
    if _fuses(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
    return torch.addmm(bias, x, weight.T, out=out).relu_()


def linear_times(x: Tensor, weight: Tensor, bias: Tensor, factor: Tensor, out: Tensor) -> Tensor:
    """(x W^T + b) * factor, [r, M]; `out` may hold the result."""
    if _fuses(x):
        return torch.ops.mkldnn._linear_pointwise.binary(x, factor, weight, bias, "mul")
    return torch.addmm(bias, x, weight.T, out=out).mul_(factor)


def _fuses(x: Tensor) -> bool:
    return _ONEDNN and x.device.type == "cpu" and x.dtype == torch.bfloat16
