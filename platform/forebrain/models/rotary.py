"""Rotary time embedding of POYO (Azabou et al. 2023): half of each head's dimensions rotate with time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]  # cosine, sine; each [..., head_width], both of a pair alike


def inverse_frequencies(head_width: int, t_min: float, t_max: float) -> Tensor:
    """Angular frequencies [head_width / 2]; the last half is zero, so those dimensions stand still."""
    num_rotating = head_width // 4
    exponents = torch.arange(num_rotating, dtype=torch.float32) / num_rotating
    frequencies = torch.zeros(head_width // 2)
    frequencies[:num_rotating] = 2 * math.pi / (t_min * (t_max / t_min) ** exponents)
    return frequencies


def rotation_at(times: Tensor, frequencies: Tensor) -> Rotation:
    """Cosine and sine [len(times), head_width] at times in frames.

    Phases reach 3,016 rad, where float32 resolves 2e-4: the product of the two float32 numbers is part of
    the published model, and a more exact phase gives other outputs (by up to 9e-5).
    """
    phases = (times.to(torch.float32)[:, None] * frequencies[None, :]).repeat_interleave(2, dim=-1)
    return phases.cos(), phases.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns each pair (2k, 2k+1) of x [..., head_width]: (a, b) -> (a cos - b sin, b cos + a sin).

    That is a product of complex numbers, and as such one pass instead of five.
    """
    cosine, sine = rotation
    if torch.compiler.is_compiling():  # whose code generators know no complex numbers
        even, odd = x.to(cosine.dtype).unflatten(-1, (-1, 2)).unbind(-1)
        cosine, sine = cosine[..., ::2], sine[..., ::2]
        turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
        return turned.flatten(-2).to(x.dtype)
    turn = torch.complex(cosine[..., ::2], sine[..., ::2])
    pairs = torch.view_as_complex(x.to(cosine.dtype).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def inverse(rotation: Rotation) -> Rotation:
    """The rotation back."""
    return rotation[0], -rotation[1]


def repeat(rotation: Rotation, times: int) -> Rotation:
    """The tables [S, h] one below the other, [times S, h]: of `times` units with the same S tokens."""
    cosine, sine = rotation
    return cosine.repeat(times, 1), sine.repeat(times, 1)
