"""The optimiser of training, adaptation and live updates: AdamW, clipping by norm, learning rate schedule.

AdamW is PyTorch's fused kernel without an optimiser of torch.optim: building one of those imports PyTorch's
compiler, 1.2 s of processor time whenever a lost worker starts again or a lab adapts a backbone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPS = 1e-8
# Largest norm of the gradients of a group that are clipped together, where nobody asks for another.
CLIP_NORM = 5.0
# What is left of the peak learning rate at the end of a cosine schedule.
FINAL_SHARE = 0.1
Schedule = Literal["constant", "cosine"]


class AdamW:
    """Moves parameters that have a gradient; the others, and their moments, stay as they are.

    Args:
        parameters: what is moved; all may lie on any one device.
        weight_decay: decoupled weight decay.
        amsgrad: divide by the largest second moment so far.

    Attributes:
        state: moments by parameter, under torch.optim's names, of those that were moved.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], weight_decay: float, amsgrad: bool = False
    ) -> None:
        self._parameters = list(parameters)
        self._weight_decay, self._amsgrad = weight_decay, amsgrad
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @property
    def gradients(self) -> list[Tensor]:
        """Gradients of the parameters that have one."""
        return [each.grad for each in self._parameters if each.grad is not None]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        moved = [each for each in self._parameters if each.grad is not None]
        if not moved:
            return
        states = [self._state_of(each) for each in moved]
        moments = {name: [state[name] for state in states] for name in states[0]}
        torch._foreach_add_(moments["step"], 1)
        torch._fused_adamw_(
            [*moved],
            self.gradients,
            moments["exp_avg"],
            moments["exp_avg_sq"],
            moments.get("max_exp_avg_sq", []),
            moments["step"],
            amsgrad=self._amsgrad,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=EPS,
            maximize=False,
        )

    def clear_gradients(self) -> None:
        for each in self._parameters:
            each.grad = None

    def fill_gradients(self) -> None:
        """Gives parameters without a gradient one of zero, so that they decay and move too."""
        for each in self._parameters:
            if each.grad is None:
                each.grad = torch.zeros_like(each)

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if parameter not in self.state:
            names = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self._amsgrad else []))
            self.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                **{name: torch.zeros_like(parameter, requires_grad=False) for name in names},
            }
        return self.state[parameter]


class ClippedAdamW:
    """AdamW over groups of parameters on the CPU, each with its own peak learning rate and norm.

    Args:
        groups: parameters and peak learning rate of each group; a group without parameters is left out.
        weight_decay: decoupled weight decay of all.
        clip_norm: largest norm of the gradients of a group.
    """

    def __init__(
        self, groups: Iterable[tuple[Iterable[nn.Parameter], float]], weight_decay: float, clip_norm: float
    ) -> None:
        listed = [(list(parameters), peak) for parameters, peak in groups]
        self._groups = [(AdamW(parameters, weight_decay), peak) for parameters, peak in listed if parameters]
        self._clip_norm = clip_norm

    def clear_gradients(self) -> None:
        for optimiser, _ in self._groups:
            optimiser.clear_gradients()

    def step(self, share: float = 1.0) -> None:
        """Clips each group's gradients and moves it at this share of its peak learning rate."""
        for optimiser, peak in self._groups:
            gradients = optimiser.gradients
            norm = math.hypot(*(torch.linalg.vector_norm(each).item() for each in gradients))
            clip(gradients, norm, self._clip_norm)
            optimiser.step(peak * share)


def sum_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Sum over all values of all tensors, a scalar."""
    if not tensors:  # of a model that belongs to sessions altogether
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(list(tensors))).square().sum()


def clip(gradients: Sequence[Tensor], norm: Tensor | float, clip_norm: float) -> None:
    """Scales gradients in place so that their norm is at most `clip_norm`.

    Args:
        gradients: what is scaled.
        norm: of these gradients, or of more that are clipped jointly with them. A tensor stays on its device,
            and nothing waits for its value.
        clip_norm: largest norm.
    """
    if not gradients:
        return
    if isinstance(norm, Tensor):
        torch._foreach_mul_(list(gradients), (clip_norm / (norm + 1e-6)).clamp(max=1.0))
    elif norm > clip_norm:
        torch._foreach_mul_(list(gradients), clip_norm / norm)


def learning_rate_at(
    step: int, peak: float, steps: int, warmup_steps: int = 0, schedule: Schedule = "cosine"
) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up to `peak`, then constant or cosine to a tenth of it."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return peak * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress)))
