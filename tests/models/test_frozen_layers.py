"""Fixed layers compute what the layers that they are folded from compute, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from forebrain.models import frozen_layers, perceiver
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_linear_layer_and_what_follows_it(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(24, 16), torch.randn(24), torch.randn(5, 16)
    other = torch.randn(5, 24)
    layer = frozen_layers.Linear(weight.to(dtype), bias.to(dtype), 5)
    expected = F.linear(x, weight, bias)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    with torch.inference_mode():
        for ours, value in [
            (layer(x.to(dtype)), expected),
            (layer.relu(x.to(dtype)), expected.relu()),
            (layer.times(x.to(dtype), other.to(dtype)), expected * other),
            (layer.plus(x.to(dtype), other.to(dtype)), expected + other),
            (layer.backward(other.to(dtype)), other @ weight),
        ]:
            assert ours.dtype == dtype
            assert (ours.float() - value).norm() < tolerance * value.norm()
