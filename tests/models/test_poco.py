"""POCO: agrees with the plain formulation, takes any number of sessions and units, sees no order of units."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from forebrain.accelerate import row_passes
from forebrain.errors import ConfigError
from forebrain.models.base import Interface, SessionInput
from forebrain.models.plain import plain_forecast
from forebrain.models.poco import Poco, PocoConfig
from weighted_errors import error_of, targets_of

SMALL = PocoConfig(
    context=24, horizon=5, token_length=8, width=16, num_latents=3, num_heads=2, head_width=8,
    film_width=24, feed_forward_dropout=0.0, branch_dropout=0.0,
)  # fmt: skip


def build(config: PocoConfig, num_datasets: int = 2) -> Poco:
    """A model whose every parameter is drawn at random, FiLM's too."""
    torch.manual_seed(0)
    model = Poco(config, num_datasets)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def batch(config: PocoConfig, shapes: list[tuple[int, int]], seed: int = 1) -> list[SessionInput]:
    torch.manual_seed(seed)
    return [
        SessionInput(torch.randn(size, config.context, units), Interface(units, config.width), index % 2)
        for index, (size, units) in enumerate(shapes)
    ]


def gradients(model: Poco, inputs: list[SessionInput], error: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    for entry in inputs:
        entry.interface.zero_grad()
    error.backward()
    named = dict(model.named_parameters())
    for index, entry in enumerate(inputs):
        named |= {f"{index}.{name}": parameter for name, parameter in entry.interface.named_parameters()}
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in named.items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"session_embedding": False},
        {"latent_session_embedding": True, "num_layers": 2},
        {"film_layers": 3},
        {"encoder_context": 8},
        {"num_layers": 0, "token_length": 24, "num_latents": 5},
    ],
    ids=lambda changes: ",".join(changes) or "default",
)
def test_output_and_gradients_equal_the_plain_formulation(
    changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sessions cut by samples, cut by units, and several in a block.
    monkeypatch.setattr(row_passes, "CPU_BLOCK_ROWS", 7)
    config = PocoConfig(**{**SMALL.__dict__, **changes})
    model = build(config).double()
    inputs = batch(config, [(3, 5), (0, 4), (2, 11), (1, 2), (3, 1), (1, 2)])
    for entry in inputs:
        entry.interface.double()
    inputs = [SessionInput(e.context.double(), e.interface, e.dataset) for e in inputs]

    fast, plain = model(inputs), plain_forecast(model, inputs)
    for ours, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    targets = targets_of(inputs, SMALL.horizon)
    expected = error_of(plain, targets)
    expected_gradients = gradients(model, inputs, expected)
    # Of forecasts, whose blocks are formed again, and of the error, whose gradients are formed on the way.
    for error in (error_of(model(inputs), targets), model(inputs, targets)):
        torch.testing.assert_close(error, expected, rtol=1e-9, atol=1e-9)
        for name, gradient in gradients(model, inputs, error).items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-8, atol=1e-8, msg=name)


def test_sessions_do_not_influence_one_another() -> None:
    model = build(SMALL).eval()
    inputs = batch(SMALL, [(2, 5), (3, 9)])
    together = model(inputs)
    for entry, forecast in zip(inputs, together, strict=True):
        torch.testing.assert_close(model([entry])[0], forecast, rtol=1e-5, atol=1e-5)


def test_the_order_of_units_does_not_matter() -> None:
    model = build(SMALL).eval()
    (entry,) = batch(SMALL, [(2, 6)])
    order = torch.randperm(6)
    shuffled = Interface(6, SMALL.width)
    with torch.no_grad():
        shuffled.unit.copy_(entry.interface.unit[order])
        shuffled.session.copy_(entry.interface.session)
    moved = model([SessionInput(entry.context[..., order], shuffled, entry.dataset)])[0]
    torch.testing.assert_close(moved, model([entry])[0][..., order], rtol=1e-5, atol=1e-5)


def test_the_population_is_read() -> None:
    model = build(SMALL).eval()
    (entry,) = batch(SMALL, [(1, 6)])
    changed = entry.context.clone()
    changed[:, :, 5] += 1
    before = model([entry])[0]
    after = model([SessionInput(changed, entry.interface, entry.dataset)])[0]
    assert (after - before)[..., 0].abs().max() > 1e-4


@pytest.mark.parametrize("relative", [False, True])
def test_some_units_are_forecast_as_among_all_and_all_are_learnt_from(relative: bool) -> None:
    model = build(PocoConfig(**{**SMALL.__dict__, "relative": relative})).double()
    (entry,) = batch(SMALL, [(2, 9)])
    entry = SessionInput(entry.context.double(), entry.interface.double(), 0)
    some = torch.tensor([1, 4, 8])
    chosen = model([replace(entry, forecast_units=some)])
    torch.testing.assert_close(chosen[0], model([entry])[0][..., some], rtol=1e-10, atol=1e-10)
    of_some = replace(entry, forecast_units=some)
    targets = targets_of([of_some], SMALL.horizon)
    expected = gradients(model, [entry], error_of([model([entry])[0][..., some]], targets))
    for error in (error_of(chosen, targets), model([of_some], targets)):
        found = gradients(model, [entry], error)
        assert (found["0.unit"].abs().amax(dim=1) > 0).all()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-8, msg=name)
    nothing = replace(entry, forecast_units=some[:0])
    error = model([nothing], targets_of([nothing], SMALL.horizon))
    assert error == 0
    assert all((gradient == 0).all() for gradient in gradients(model, [nothing], error).values())
    absent = replace(nothing, context=entry.context[:0])
    assert [each.shape for each in model([nothing, absent])] == [(2, 5, 0), (0, 5, 0)]


def test_an_empty_batch_and_an_absent_session_give_empty_forecasts() -> None:
    model = build(SMALL)
    assert model([]) == []
    absent, present = model(batch(SMALL, [(0, 4), (2, 3)]))
    assert absent.shape == (0, SMALL.horizon, 4)
    assert present.shape == (2, SMALL.horizon, 3)


def test_frozen_parameters_get_no_gradient_and_interfaces_do() -> None:
    model = build(SMALL).requires_grad_(False)
    inputs = batch(SMALL, [(2, 5)])
    targets = targets_of(inputs, SMALL.horizon)
    expected = gradients(build(SMALL), inputs, build(SMALL)(inputs, targets))["0.unit"]
    for error in (error_of(model(inputs), targets), model(inputs, targets)):
        found = gradients(model, inputs, error)
        torch.testing.assert_close(found["0.unit"], expected, rtol=1e-4, atol=1e-4)
        assert all(parameter.grad is None for parameter in model.parameters())


def test_an_error_without_gradients_is_the_same_and_has_none() -> None:
    model, inputs = build(SMALL), batch(SMALL, [(2, 5)])
    targets = targets_of(inputs, SMALL.horizon)
    with torch.no_grad():
        error = model(inputs, targets)
    torch.testing.assert_close(error, model(inputs, targets))
    assert not error.requires_grad


def test_gradients_of_an_error_are_had_once() -> None:
    model, inputs = build(SMALL), batch(SMALL, [(2, 5)])
    error = model(inputs, targets_of(inputs, SMALL.horizon))
    error.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        error.backward()


def test_dropout_is_active_in_training_only_and_follows_the_seed() -> None:
    config = PocoConfig(**{**SMALL.__dict__, "feed_forward_dropout": 0.5, "branch_dropout": 0.4})
    model = build(config)
    inputs = batch(config, [(4, 20)])

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(inputs)[0]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))


def test_the_error_drops_what_the_forecasts_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_passes, "CPU_BLOCK_ROWS", 16)
    config = PocoConfig(**{**SMALL.__dict__, "feed_forward_dropout": 0.4, "branch_dropout": 0.3})
    model, inputs = build(config), batch(config, [(4, 20), (3, 5)])
    targets = targets_of(inputs, SMALL.horizon)
    torch.manual_seed(3)
    expected = error_of(model(inputs), targets)
    torch.manual_seed(3)
    error = model(inputs, targets)
    torch.testing.assert_close(error, expected)
    wanted = gradients(model, inputs, expected)
    for name, gradient in gradients(model, inputs, error).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-3, msg=name)


def test_dropout_gradient_matches_finite_differences() -> None:
    config = PocoConfig(**{**SMALL.__dict__, "feed_forward_dropout": 0.3})
    model = build(config).double()
    entry = batch(config, [(1, 4)])[0]
    context, interface = entry.context.double(), entry.interface.double()
    targets = targets_of([replace(entry, context=context)], SMALL.horizon)

    def loss(unit: Tensor) -> Tensor:
        torch.manual_seed(3)
        with torch.no_grad():
            interface.unit.copy_(unit)
        return model([SessionInput(context, interface, 0)], targets)

    base = interface.unit.detach().clone()
    loss(base).backward()
    direction = torch.randn_like(base)
    step = 1e-6
    with torch.no_grad():
        slope = (loss(base + step * direction) - loss(base - step * direction)) / (2 * step)
    torch.testing.assert_close((interface.unit.grad * direction).sum(), slope, rtol=1e-5, atol=1e-7)


def test_bf16_stays_near_fp32_and_gives_fp32_gradients() -> None:
    model = build(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    inputs = batch(SMALL, [(2, 30)])
    exact = model(inputs)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(inputs)[0]
    assert (rough.float() - exact).abs().max() < 0.02 * exact.abs().max()
    targets = targets_of(inputs, SMALL.horizon)
    expected = gradients(model, inputs, model(inputs, targets))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        error = model(inputs, targets)
    assert error.dtype == torch.float32
    for each in (error_of([rough], targets), error):
        found = gradients(model, inputs, each)
        assert {gradient.dtype for gradient in found.values()} == {torch.float32}
        for name in ("forecaster.scale.weight", "decoder_feed_forward.expand.weight", "0.unit"):
            difference = (found[name] - expected[name]).norm() / expected[name].norm()
            assert difference < 0.05, name


def test_a_fresh_model_forecasts_the_bias_of_its_output_layer() -> None:
    torch.manual_seed(0)
    model = Poco(SMALL).eval()
    forecast = model(batch(SMALL, [(2, 3)])[:1])[0]
    expected = model.forecaster.out.bias[None, :, None].expand_as(forecast)
    torch.testing.assert_close(forecast, expected)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"width": 0}, "width"),
        ({"token_length": 7}, "token_length"),
        ({"encoder_context": 64}, "context"),
        ({"branch_dropout": 1.0}, "branch_dropout"),
        ({"head_width": 6}, "head_width"),
    ],
)
def test_impossible_sizes_are_named(changes: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        PocoConfig(**{**SMALL.__dict__, **changes})


def test_a_context_of_another_length_is_an_error() -> None:
    model = build(SMALL)
    entry = batch(SMALL, [(1, 3)])[0]
    with pytest.raises(ConfigError, match="24"):
        model([SessionInput(entry.context[:, 1:], entry.interface, 0)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_agrees_with_the_cpu() -> None:
    model = build(SMALL).eval()
    inputs = batch(SMALL, [(2, 50), (1, 9)])
    expected = model(inputs)
    model.cuda()
    moved = [SessionInput(e.context.cuda(), e.interface.cuda(), e.dataset) for e in inputs]
    for ours, forecast in zip(model(moved), expected, strict=True):
        torch.testing.assert_close(ours.cpu(), forecast, rtol=1e-4, atol=1e-4)
