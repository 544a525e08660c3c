"""The contract of every model: what `models.registry` lists is held to it, new ones too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from forebrain.config import from_values
from forebrain.errors import ConfigError
from forebrain.models.base import Interface, LossName, Model, ModelConfig, SessionInput, SessionTarget
from forebrain.models.normalisation import InstanceNorm
from forebrain.models.registry import MODELS
from forebrain.training.config import PretrainConfig

CONTEXT, HORIZON = 16, 4
_POCO = {"token_length": 8, "width": 16, "feed_forward_dropout": 0.0}
_HEADS = {"num_heads": 2, "head_width": 8, "branch_dropout": 0.0}
SIZES: dict[str, dict[str, Any]] = {
    "poco": {**_POCO, **_HEADS, "num_latents": 3, "film_width": 24},
    "poyo": {**_POCO, **_HEADS, "num_latents": 3},
    "uico": {"width": 16, "film_width": 24, "feed_forward_dropout": 0.0},
    "taco": {**_POCO, **_HEADS, "film_width": 24},
    "mlp": {"width": 24, "num_layers": 2},
    "tsmixer": {"unit_width": 8, "dropout": 0.0},
    "filternet": {"width": 12, "hidden_width": 16},
    "moderntcn": {"width": 8, "kernel": 3, "small_kernel": 1, "unit_width": 8, "dropout": 0.0},
    "transformer": {"width": 16, "num_heads": 2, "dropout": 0.0},
    "plrnn": {"width": 16, "hidden_width": 24},
    "netformer": {"unit_width": 8, "width": 16},
    "dlinear": {"kernel": 5},
}
CASES: dict[str, dict[str, Any]] = {name: {"name": name, **SIZES.get(name, {})} for name in MODELS}
CASES |= {
    f"{name}, a map for each unit": {**CASES[name], "individual": True}
    for name in ("linear", "nlinear", "dlinear")
}
TRAINED = [case for case in CASES if case not in ("copy", "mean")]


def config_of(case: str, **changes: Any) -> ModelConfig:
    values = {"context": CONTEXT, "horizon": HORIZON, **CASES[case], **changes}
    return from_values(PretrainConfig, {"data": "", "out": "", "model": values}).model


def build(config: ModelConfig) -> Model:
    """A model in evaluation mode, none of whose parameters is zero."""
    torch.manual_seed(0)
    model = config.build(num_datasets=2).eval()
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def interface_for(model: Model, num_units: int) -> Interface:
    interface = model.new_interface(num_units, torch.Generator().manual_seed(num_units))
    for parameter in interface.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return interface


def batch(model: Model, *shapes: tuple[int, int]) -> list[SessionInput]:
    torch.manual_seed(1)
    return [
        SessionInput(torch.randn(size, CONTEXT, units), interface_for(model, units), index % 2)
        for index, (size, units) in enumerate(shapes)
    ]


def squares(forecasts: list[Tensor]) -> Tensor:
    return torch.stack([forecast.float().square().sum() for forecast in forecasts]).sum()


def gradients(model: Model, inputs: list[SessionInput], error: Tensor) -> dict[str, Tensor | None]:
    parameters = dict(model.named_parameters())
    for index, entry in enumerate(inputs):
        parameters |= {f"{index}.{name}": each for name, each in entry.interface.named_parameters()}
    for parameter in parameters.values():
        parameter.grad = None
    if error.requires_grad:
        error.backward()
    return {name: parameter.grad for name, parameter in parameters.items() if parameter.numel()}


@pytest.fixture(params=CASES)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return config_of(request.param)


def test_sessions_of_any_size_are_forecast_each_as_if_alone(config: ModelConfig) -> None:
    model = build(config)
    shapes = [(3, 5), (0, 4), (1, 11), (2, 1)]
    inputs = batch(model, *shapes)
    together = model(inputs)
    assert [forecast.shape for forecast in together] == [(size, HORIZON, units) for size, units in shapes]
    for entry, forecast in zip(inputs, together, strict=True):
        torch.testing.assert_close(model([entry])[0], forecast, rtol=1e-5, atol=1e-5)
    assert model([]) == []
    assert model(inputs[1:2])[0].shape == (0, HORIZON, 4)


def test_the_order_of_units_does_not_matter(config: ModelConfig) -> None:
    model = build(config)
    (entry,) = batch(model, (2, 6))
    order = torch.randperm(6)
    shuffled = model.new_interface(6)
    shuffled.load_state_dict(
        {"unit": entry.interface.unit.detach()[order], "session": entry.interface.session.detach()}
    )
    moved = model([replace(entry, context=entry.context[..., order], interface=shuffled)])[0]
    torch.testing.assert_close(moved, model([entry])[0][..., order], rtol=1e-4, atol=1e-5)


def test_some_units_are_forecast_as_among_all(config: ModelConfig) -> None:
    model = build(config)
    (entry,) = batch(model, (2, 9))
    some = torch.tensor([1, 4, 8])
    chosen = model([replace(entry, forecast_units=some)])[0]
    torch.testing.assert_close(chosen, model([entry])[0][..., some], rtol=1e-5, atol=1e-5)
    assert model([replace(entry, forecast_units=some[:0])])[0].shape == (2, HORIZON, 0)


def test_a_spike_to_come_changes_no_forecast_before_it(config: ModelConfig) -> None:
    """Windows of one recording in one batch: those that end before the spike stand beside others."""
    model = build(config)
    recording = torch.randn(60, 5)
    spiked = recording.clone()
    spiked[40:] += 100.0
    interface = interface_for(model, 5)

    def forecast(frames: Tensor) -> Tensor:
        windows = frames.unfold(0, CONTEXT, 1).transpose(1, 2)
        return model([SessionInput(windows, interface, 0)])[0]

    before = 40 - CONTEXT + 1
    assert torch.equal(forecast(spiked)[:before], forecast(recording)[:before])
    if config.name != "mean":
        assert not torch.allclose(forecast(spiked)[before:], forecast(recording)[before:])


def test_what_is_saved_forecasts_the_same_when_it_is_loaded(config: ModelConfig) -> None:
    model = build(config)
    inputs = batch(model, (2, 5), (1, 3))
    loaded = build(replace(config))
    loaded.load_state_dict(load(save(model.state_dict())))
    again = []
    for entry in inputs:
        interface = loaded.new_interface(entry.context.shape[2])
        interface.load_state_dict(load(save(entry.interface.state_dict())))
        again.append(replace(entry, interface=interface))
    for ours, expected in zip(loaded(again), model(inputs), strict=True):
        assert torch.equal(ours, expected)


def test_bf16_stays_near_fp32_and_gives_fp32_gradients(config: ModelConfig) -> None:
    model = build(config)
    inputs = batch(model, (2, 7))
    exact = model(inputs)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(inputs)[0]
    assert (rough.float() - exact).norm() < 0.03 * exact.norm()
    for gradient in gradients(model, inputs, squares([rough])).values():
        assert gradient is None or gradient.dtype == torch.float32


@pytest.mark.parametrize("relative", [True, False])
def test_gradients_reach_every_parameter(config: ModelConfig, relative: bool) -> None:
    model = build(config.with_default(relative)).train()
    inputs = batch(model, (3, 5), (2, 8))
    for name, gradient in gradients(model, inputs, squares(model(inputs))).items():
        assert gradient is not None and gradient.abs().max() > 0, name


def test_a_frozen_backbone_still_teaches_its_interfaces(config: ModelConfig) -> None:
    model = build(config).requires_grad_(False)
    inputs = batch(model, (2, 5))
    for name, gradient in gradients(model, inputs, squares(model(inputs))).items():
        assert (gradient is not None) == name.startswith("0."), name


@pytest.mark.parametrize("loss", ["squared", "relative"])
@pytest.mark.parametrize("case", CASES)
def test_the_error_and_its_gradients_are_those_of_the_forecasts(case: str, loss: LossName) -> None:
    """Weighted as the loss says, and without windows that are not present, whatever the model's own frame."""
    model = build(config_of(case).with_default(relative=True))
    inputs = batch(model, (3, 5), (0, 4), (2, 11), (1, 1))
    inputs[2] = replace(inputs[2], forecast_units=torch.tensor([0, 7]))
    targets, expected = [], []
    for entry, forecast in zip(inputs, model(inputs), strict=True):
        frames, present = torch.randn_like(forecast), torch.rand(len(forecast)) < 0.7
        targets.append(SessionTarget.of(entry, frames, loss, present))
        spread = InstanceNorm.of(entry.of_forecast(entry.context, 2)).spread if loss == "relative" else 1.0
        expected.append(((forecast - frames) / spread)[present].square().sum())
    of_forecasts = torch.stack(expected).sum()
    error = model(inputs, targets)
    torch.testing.assert_close(error, of_forecasts, rtol=1e-4, atol=1e-4)
    wanted = gradients(model, inputs, of_forecasts)
    for name, gradient in gradients(model, inputs, error).items():
        if gradient is not None or wanted[name] is not None:
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-4, msg=name)
    assert model(inputs[1:2], targets[1:2]) == 0


@pytest.mark.parametrize("case", TRAINED)
def test_training_falls_below_the_mean_forecast(case: str) -> None:
    """Phases of one rhythm with noise, which a glance at the past tells."""
    torch.manual_seed(0)
    time = torch.arange(300.0)[:, None]
    recording = torch.sin(0.35 * time + 6 * torch.rand(5)) + 0.1 * torch.randn(300, 5)
    windows = recording.unfold(0, CONTEXT + HORIZON, 3).transpose(1, 2)
    context, target = windows[:, :CONTEXT], windows[:, CONTEXT:]
    model = config_of(case).build().train()
    interface = model.new_interface(5, torch.Generator().manual_seed(0))
    parameters = [each for each in (*model.parameters(), *interface.parameters()) if each.numel()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    of_mean = (target - recording.mean(0)).square().mean()
    for _ in range(40):
        loss = (model([SessionInput(context, interface, 0)])[0] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
    assert loss < 0.8 * of_mean


def test_copy_repeats_the_last_frame_and_mean_its_levels() -> None:
    model = build(config_of("copy"))
    (entry,) = batch(model, (2, 3))
    assert torch.equal(model([entry])[0], entry.context[:, -1:].expand(-1, HORIZON, -1))
    model = build(config_of("mean"))
    (entry,) = batch(model, (2, 3))
    assert torch.equal(model([entry])[0], entry.interface.unit.T.expand(2, HORIZON, -1))


def test_a_context_of_another_length_is_an_error(config: ModelConfig) -> None:
    model = build(config)
    (entry,) = batch(model, (1, 3))
    with pytest.raises(ConfigError, match=str(CONTEXT)):
        model([replace(entry, context=entry.context[:, 1:])])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "mpl"}, ["model.name is 'mpl'", "mlp", "poco"]),
        ({"name": "mlp", "width": 0}, ["model.width is 0"]),
        ({"name": "mlp", "token_length": 4}, ["token_length"]),
        ({"name": "dlinear", "kernel": 4}, ["model.kernel is 4", "odd"]),
        ({"name": "mean", "relative": True}, ["model.relative"]),
        ({"name": "transformer", "width": 10, "num_heads": 4}, ["model.num_heads", "multiple"]),
        ({"name": "plrnn", "forcing": 0.0}, ["model.forcing is 0"]),
        ({"name": "moderntcn", "patch": 99}, ["model.patch is 99", "48"]),
        ({"name": "moderntcn", "kernel": 2}, ["model.kernel is 2", "odd"]),
        ({"name": "filternet", "dropout": 1.0}, ["model.dropout is 1"]),
        ({"name": "poyo", "film_width": 8}, ["model.film_width is 8", "poyo"]),
        ({"name": "uico", "num_latents": 2}, ["model.num_latents is 2", "uico"]),
    ],
)
def test_impossible_configs_are_named(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_values(PretrainConfig, {"data": "", "out": "", "model": values})
    for word in words:
        assert word in str(caught.value)
