"""A packed layer computes x W^T + b and its gradient, however its weight lies in memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.accelerate import packed_linear
from forebrain.accelerate.packed_linear import PackedLinear

WIDE, MANY = packed_linear.WIDE, packed_linear.MANY_ROWS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("num_rows", [None, 5, MANY])
@pytest.mark.parametrize("sizes", [(16, 24), (WIDE, WIDE + 8)])
@pytest.mark.parametrize(("has_bias", "fuses"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("packs", ["what this processor does", "no bf16"])
def test_its_result_and_what_follows_it(
    sizes: tuple[int, int],
    num_rows: int | None,
    has_bias: bool,
    fuses: bool,
    packs: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if packs == "no bf16":
        monkeypatch.setattr(packed_linear, "_PACKED", packed_linear._PACKED - {torch.bfloat16})
    torch.manual_seed(0)
    inner, outer = sizes
    weight, bias, x = torch.randn(outer, inner), torch.randn(outer), torch.randn(7, inner)
    other = torch.randn(7, outer)
    fixed = PackedLinear(weight.to(dtype), bias.to(dtype) if has_bias else None, num_rows, fuses)
    expected = F.linear(x, weight, bias if has_bias else None)
    tolerance = 0.01 if dtype == torch.bfloat16 else 1e-5
    x, factor = x.to(dtype), other.to(dtype)

    def memory(width: int) -> Tensor:
        return torch.empty(7, width, dtype=dtype)

    with torch.inference_mode():
        for ours, value in [
            (fixed(x), expected),
            (fixed(x, memory(outer)), expected),
            (fixed.relu(x, memory(outer)), expected.relu()),
            (fixed.times(x, factor), expected * other),
            (fixed.plus(x, factor), expected + other),
            (fixed.backward(factor), other @ weight),
            (fixed.backward(factor, memory(inner)), other @ weight),
        ]:
            assert ours.dtype == dtype
            assert (ours.float() - value).norm() < tolerance * value.norm()


def test_a_weight_in_training_is_not_copied() -> None:
    weight = torch.randn(WIDE, WIDE)
    learning, fixed = PackedLinear(weight, None, None), PackedLinear(weight, None, MANY)
    x = torch.randn(3, WIDE)
    before = fixed(x)
    weight.mul_(2)
    torch.testing.assert_close(learning(x), 2 * before)
    torch.testing.assert_close(fixed(x), before, rtol=0, atol=0)
