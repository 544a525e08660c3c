"""Our AdamW is PyTorch's to the bit, and spares a process the import of its compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from forebrain.training.adamw import AdamW

WITHOUT_COMPILER = """
import sys
import torch
from forebrain.training.adamw import AdamW
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
