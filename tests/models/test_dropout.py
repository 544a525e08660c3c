"""Dropout mask the asked share, and keeps the mean."""

from __future__ import annotations

import pytest
import torch

from forebrain.models.dropout import drop, dropout_mask


@pytest.mark.parametrize("dropout", [1e-3, 0.2, 0.9])
def test_the_asked_share_is_dropped(dropout: float) -> None:
    torch.manual_seed(0)
    mask = dropout_mask((1000, 512), dropout, torch.device("cpu"))
    assert mask.shape == (1000, 512) and mask.dtype == torch.int16
    assert mask.max() == 0
    share = (mask < 0).double().mean()
    assert abs(share - dropout) < 4 * (dropout * (1 - dropout) / mask.numel()) ** 0.5 + 2**-16


def test_what_is_kept_is_scaled_up_and_what_is_dropped_has_no_gradient() -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 500, requires_grad=True)
    dropped = drop(x, 0.25, active=True)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(dropped.mean().item() - 1) < 4 * (0.25 / 0.75 / x.numel()) ** 0.5
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_it_can_be_off() -> None:
    x = torch.ones(3)
    assert drop(x, 0.5, active=False) is x
    assert drop(x, 0.0, active=True) is x
