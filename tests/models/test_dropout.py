"""Dropout drops the asked share, and keeps the mean."""

from __future__ import annotations

import pytest
import torch

from forebrain.models.dropout import drop, random_drops


@pytest.mark.parametrize("dropout", [1e-3, 0.2, 0.9])
def test_the_asked_share_is_dropped(dropout: float) -> None:
    torch.manual_seed(0)
    drops = random_drops((1000, 512), dropout, torch.device("cpu"))
    assert drops.shape == (1000, 512) and drops.dtype == torch.int16
    assert drops.max() == 0
    share = (drops < 0).double().mean()
    assert abs(share - dropout) < 4 * (dropout * (1 - dropout) / drops.numel()) ** 0.5 + 2**-16


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
