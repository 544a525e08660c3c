"""AdamW is PyTorch's to the bit, without the import of its compiler; clipping and the schedule."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from forebrain.training.optimise import AdamW, ClippedAdamW, clip, learning_rate_at

WITHOUT_COMPILER = """
import sys
import torch
from forebrain.training.optimise import AdamW
parameter = torch.nn.Parameter(torch.ones(3))
parameter.grad = torch.ones(3)
AdamW([parameter], weight_decay=0.0).step(learning_rate=0.1)
assert parameter[0] < 1 and "torch._dynamo" not in sys.modules
"""


@pytest.mark.parametrize("amsgrad", [False, True])
def test_it_moves_parameters_as_torch_does_to_the_bit(amsgrad: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(5, 7), (3,), (4, 1)]]
    theirs = [nn.Parameter(each.detach().clone()) for each in ours]
    own = AdamW(ours, weight_decay=0.1, amsgrad=amsgrad)
    reference = torch.optim.AdamW(theirs, weight_decay=0.1, amsgrad=amsgrad, fused=True)
    for step in range(6):
        own.clear_gradients()
        reference.zero_grad()
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if (step + number) % 3:  # not every parameter is read in every step
                mine.grad = torch.randn(mine.shape, generator=generator)
                other.grad = mine.grad.clone()
        learning_rate = 0.01 * (step + 1)
        reference.param_groups[0]["lr"] = learning_rate
        reference.step()
        own.step(learning_rate)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        assert own.state[mine].keys() == reference.state[other].keys()
        assert all(
            torch.equal(own.state[mine][name], reference.state[other][name]) for name in own.state[mine]
        )


def test_a_process_that_trains_does_not_import_the_compiler() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], check=True, timeout=120)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_gradients_are_clipped_together_to_the_largest_norm(as_tensor: bool) -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])]
    norm = torch.tensor(5.0) if as_tensor else 5.0
    clip(gradients, norm, 6.0)
    assert [each.tolist() for each in gradients] == [[3, 0], [0, 4]]
    clip(gradients, norm, 1.0)
    torch.testing.assert_close(torch.stack(gradients), torch.tensor([[0.6, 0.0], [0.0, 0.8]]))
    clip([], norm, 1.0)


def test_each_group_is_clipped_by_its_own_norm_and_moved_at_its_own_rate() -> None:
    ours = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    theirs = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimiser = ClippedAdamW([(ours[:2], 0.1), (ours[2:], 0.01), ([], 1.0)], 0.1, clip_norm=5.0)
    reference = torch.optim.AdamW(
        [{"params": theirs[:2], "lr": 0.05}, {"params": theirs[2:], "lr": 0.005}], weight_decay=0.1
    )
    for step in range(2):
        optimiser.clear_gradients()
        assert not any(each.grad is not None for each in ours)
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            mine.grad = torch.full((2,), 10.0**number * (step + 1))
            other.grad = mine.grad.clone()
        nn.utils.clip_grad_norm_(theirs[:2], 5.0)
        nn.utils.clip_grad_norm_(theirs[2:], 5.0)
        reference.step()
        optimiser.step(0.5)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.grad, other.grad)
            torch.testing.assert_close(mine, other)


def test_the_rate_warms_up_then_falls_by_a_cosine_to_a_tenth_or_stays() -> None:
    rates = [learning_rate_at(step, 2.0, steps=110, warmup_steps=10) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0 and rates[60] == pytest.approx(1.1) and rates[110] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate_at(500, 2.0, steps=110) == pytest.approx(0.2)
    assert {learning_rate_at(step, 2.0, 110, 10, "constant") for step in range(10, 111)} == {2.0}
    assert math.isclose(learning_rate_at(0, 2.0, steps=0), 2.0)
