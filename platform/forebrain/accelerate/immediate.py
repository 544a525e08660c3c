"""A loss whose gradients are formed at once, while what they are formed from lies in the cache.

A sum of squared errors is the end of a chain: its gradients are known as soon as it is, but for the factor
that it is multiplied with. So autograd's own backward pass finds them there and only scales them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Given tensors and which of them want a gradient, the loss and their gradients.
LossAndGradients = Callable[[Sequence[Tensor], Sequence[bool]], tuple[Tensor, Sequence[Tensor | None]]]


def immediate_loss(form: LossAndGradients, *tensors: Tensor) -> Tensor:
    """A scalar loss that autograd knows the gradients of, once.

    Args:
        form: called at once and not recorded; what it returns must be its own, since gradients are scaled
            in place.
        tensors: that may want gradients.

    Raises:
        RuntimeError: the gradients are asked for a second time.
    """
    return _Immediate.apply(form, *tensors)


class _Immediate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, form: LossAndGradients, *tensors: Tensor) -> Tensor:
        loss, ctx.gradients = form(tensors, ctx.needs_input_grad[1:])
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of a loss cannot be had a second time; compute it again.")
        gradients, ctx.gradients = ctx.gradients, None
        return None, *(None if each is None else each.mul_(grad_loss) for each in gradients)
