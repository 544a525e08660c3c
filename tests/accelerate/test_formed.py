"""What autograd is told of gradients that were formed on the way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forebrain.accelerate.formed import formed_error


def test_gradients_are_scaled_by_what_the_error_is_multiplied_with_once() -> None:
    seen = nn.Parameter(torch.tensor([1.0, 2.0])), torch.ones(2)

    def form(tensors, wanted):
        assert wanted == (True, False)
        with torch.no_grad():
            return tensors[0].square().sum(), (2 * tensors[0], None)

    error = formed_error(form, *seen)
    (3 * error).backward()
    assert error.item() == 5 and seen[0].grad is not None
    torch.testing.assert_close(seen[0].grad, torch.tensor([6.0, 12.0]))
    with pytest.raises(RuntimeError, match="second time"):
        (3 * error).backward()
