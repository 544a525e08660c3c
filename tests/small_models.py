"""Small models, batches, targets and gradients for the tests of models and executors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from forebrain.models.base import Interface, Model, ModelConfig, SessionInput, SessionTarget
from forebrain.models.poco import PocoConfig

SMALL = PocoConfig(
    context=24,
    horizon=5,
    token_length=8,
    width=16,
    num_latents=3,
    num_heads=2,
    head_width=8,
    film_width=24,
    feed_forward_dropout=0.0,
    branch_dropout=0.0,
)


def build(config: ModelConfig, num_datasets: int = 2, std: float = 0.3) -> Model:
    """A model whose every parameter is drawn at random, FiLM's too."""
    torch.manual_seed(0)
    model = config.build(num_datasets)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def new_interface(model: Model, num_units: int, seed: int = 0) -> Interface:
    """An interface none of whose numbers is zero."""
    generator = torch.Generator().manual_seed(seed)
    interface = model.new_interface(num_units, generator)
    with torch.no_grad():
        for parameter in interface.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return interface


def batch(model: Model, shapes: Sequence[tuple[int, int]], seed: int = 1) -> list[SessionInput]:
    """Sessions of (windows, units), of the two data sets in turn."""
    torch.manual_seed(seed)
    return [
        SessionInput(
            torch.randn(size, model.config.context, units), new_interface(model, units, index), index % 2
        )
        for index, (size, units) in enumerate(shapes)
    ]


def double(inputs: Sequence[SessionInput]) -> list[SessionInput]:
    return [replace(e, context=e.context.double(), interface=e.interface.double()) for e in inputs]


def targets_of(inputs: Sequence[SessionInput], horizon: int) -> list[SessionTarget]:
    """Random targets and weights."""
    shapes = [(len(entry.context), horizon, entry.num_forecast) for entry in inputs]
    return [
        SessionTarget(torch.randn(shape).to(entry.context), torch.rand(shape)[:, :1].to(entry.context))
        for entry, shape in zip(inputs, shapes, strict=True)
    ]


def gradients(model: Model, inputs: Sequence[SessionInput], loss: Tensor) -> dict[str, Tensor]:
    """Of the model's parameters and the interfaces', zero where there is none."""
    named = dict(model.named_parameters())
    for index, entry in enumerate(inputs):
        named |= {f"{index}.{name}": parameter for name, parameter in entry.interface.named_parameters()}
    for parameter in named.values():
        parameter.grad = None
    if loss.requires_grad:
        loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in named.items()
    }
