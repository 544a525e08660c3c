"""A frozen backbone computes what the model does, and gives its gradients to interfaces alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from forebrain.accelerate.frozen import FrozenPoco
from forebrain.models.base import Interface, SessionInput
from forebrain.models.plain import plain_forecast
from forebrain.models.poco import Poco, PocoConfig
from weighted_errors import error_of, targets_of

SMALL = PocoConfig(
    context=24, horizon=5, token_length=8, width=16, num_latents=3, num_heads=2, head_width=8,
    film_width=24, feed_forward_dropout=0.0, branch_dropout=0.0,
)  # fmt: skip


def build(config: PocoConfig, std: float = 0.3) -> Poco:
    torch.manual_seed(0)
    model = Poco(config, num_datasets=2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def inputs_of(config: PocoConfig) -> list[SessionInput]:
    torch.manual_seed(1)
    shapes = [(3, 7), (1, 4), (0, 3)]
    datasets = [None, 1, 0]
    return [
        SessionInput(torch.randn(size, config.context, units), Interface(units, config.width), dataset)
        for (size, units), dataset in zip(shapes, datasets, strict=True)
    ]


def interface_gradients(inputs: list[SessionInput], error: Tensor) -> list[Tensor]:
    parameters = [p for entry in inputs for p in entry.interface.parameters() if len(entry.context)]
    return list(torch.autograd.grad(error, parameters))


@pytest.mark.parametrize("changes", [{}, {"latent_session_embedding": True}, {"relative": True}])
def test_forecasts_and_gradients_of_interfaces_are_the_models(changes: dict) -> None:
    config = replace(SMALL, **changes)
    model, inputs = build(config).double(), inputs_of(config)
    inputs = [replace(e, context=e.context.double(), interface=e.interface.double()) for e in inputs]
    frozen = FrozenPoco(model)
    # The plain formulation knows no frame of reference.
    expected = model(inputs) if config.relative else plain_forecast(model, inputs)
    forecasts = frozen(inputs)
    for ours, forecast in zip(forecasts, expected, strict=True):
        torch.testing.assert_close(ours, forecast, rtol=1e-9, atol=1e-9)
    targets = targets_of(inputs, SMALL.horizon)
    gradients = interface_gradients(inputs, error_of(expected, targets))
    for error in (error_of(forecasts, targets), frozen(inputs, targets)):
        for ours, gradient in zip(interface_gradients(inputs, error), gradients, strict=True):
            torch.testing.assert_close(ours, gradient, rtol=1e-8, atol=1e-8)
    assert all(parameter.grad is None for parameter in [*model.parameters(), *frozen.parameters()])


def test_a_frozen_backbone_keeps_the_weights_it_was_made_with() -> None:
    model, inputs = build(SMALL), inputs_of(SMALL)
    frozen = FrozenPoco(model)
    before = frozen(inputs)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(frozen(inputs)[0], before)


def test_dropout_follows_the_mode() -> None:
    config = replace(SMALL, feed_forward_dropout=0.5, branch_dropout=0.4)
    model, inputs = build(config), inputs_of(config)
    assert not torch.equal(*(FrozenPoco(model.train())(inputs)[0] for _ in range(2)))
    assert torch.equal(*(FrozenPoco(model.eval())(inputs)[0] for _ in range(2)))
    assert torch.equal(*(FrozenPoco(model.train()).eval()(inputs)[0] for _ in range(2)))


def test_bf16_is_near_and_autocast_changes_nothing() -> None:
    model, inputs = build(SMALL, std=0.1).eval(), inputs_of(SMALL)
    exact, frozen = FrozenPoco(model), FrozenPoco(model, torch.bfloat16)
    rough, expected = frozen(inputs), exact(inputs)
    assert rough[0].dtype == torch.float32
    assert not torch.equal(rough[0], expected[0])
    for ours, forecast in zip(rough[:2], expected[:2], strict=True):
        assert (ours - forecast).abs().max() < 0.02 * forecast.abs().max()
    targets = targets_of(inputs, SMALL.horizon)
    gradients = interface_gradients(inputs, exact(inputs, targets))
    for error in (error_of(rough, targets), frozen(inputs, targets)):
        for ours, gradient in zip(interface_gradients(inputs, error), gradients, strict=True):
            assert (ours - gradient).norm() < 0.05 * gradient.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(exact(inputs)[0], expected[0])
