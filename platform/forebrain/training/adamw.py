"""AdamW by PyTorch's fused kernel, without an optimiser of torch.optim.

Building one of these imports PyTorch's compiler, 1.2 s of processor time whenever a lost worker starts again
or a lab adapts a backbone. What such an optimiser calls in its step does without.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPS = 1e-8


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
            [each.grad for each in moved if each.grad is not None],
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

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if parameter not in self.state:
            names = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self._amsgrad else []))
            self.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                **{name: torch.zeros_like(parameter, requires_grad=False) for name in names},
            }
        return self.state[parameter]
