"""Fixed layers compute what the layers that they are folded from compute, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forebrain.accelerate import frozen_layers
from forebrain.models import perceiver
from forebrain.models.rotary import inverse_frequencies, rotation_at

LATENTS, WIDTH, HEADS, HEAD_WIDTH = 5, 16, 3, 8


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kind", ["feed-forward", "attention"])
def test_a_pass_and_its_gradient_are_the_layers(kind: str, batch: int) -> None:
    torch.manual_seed(0)
    rotation = rotation_at(torch.arange(LATENTS) * 7, inverse_frequencies(HEAD_WIDTH, 0.1, 100.0))
    rotation = rotation[0].double(), rotation[1].double()
    attention, feed_forward = (
        perceiver.SelfAttention(WIDTH, HEADS, HEAD_WIDTH),
        perceiver.FeedForward(WIDTH, 2, 0.0),
    )
    for parameter in (*attention.double().parameters(), *feed_forward.double().parameters()):
        nn.init.normal_(parameter, std=0.5)
    if kind == "attention":
        one_pass = frozen_layers.SelfAttention(attention, rotation).pass_of(batch)
    else:
        one_pass = frozen_layers.FeedForward(feed_forward, LATENTS).pass_of(batch)
    for _ in range(2):  # its memory is used again
        latents = torch.randn(batch, LATENTS, WIDTH, dtype=torch.float64, requires_grad=True)
        update = attention(latents, rotation) if kind == "attention" else feed_forward(latents)
        expected, grad = latents + update, torch.randn(batch, LATENTS, WIDTH, dtype=torch.float64)
        with torch.no_grad():
            ours = one_pass(latents.flatten(0, 1)).view_as(latents)
            ours_grad = one_pass.backward(grad.flatten(0, 1)).view_as(latents)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
        (of_latents,) = torch.autograd.grad(expected, latents, grad)
        torch.testing.assert_close(ours_grad, of_latents, rtol=1e-9, atol=1e-9)
