"""Fused layers compute what the layers one after the other do."""

from __future__ import annotations

import pytest
import torch

from forebrain.models import fused


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("onednn", [True, False])
def test_fused_layers_are_the_layers_one_after_the_other(
    dtype: torch.dtype, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_ONEDNN", fused._ONEDNN and onednn)
    torch.manual_seed(0)
    x, weight, bias, factor = (torch.randn(size).to(dtype) for size in ((5, 7), (11, 7), (11,), (5, 11)))
    exact = x.double() @ weight.double().T + bias.double()
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    relu = fused.linear_relu(x, weight, bias, torch.empty(5, 11, dtype=dtype))
    times = fused.linear_times(x, weight, bias, factor, torch.empty(5, 11, dtype=dtype))
    assert relu.dtype == times.dtype == dtype
    torch.testing.assert_close(relu.double(), exact.relu(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(times.double(), exact * factor.double(), rtol=tolerance, atol=tolerance)
