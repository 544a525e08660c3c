"""A session with everything fixed but its frames forecasts as the model does, whoever shares the work."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from forebrain.accelerate import frozen_session
from forebrain.accelerate.frozen import FrozenPoco, session_forecaster
from forebrain.models.base import Interface, SessionInput
from forebrain.models.baselines.linear import LinearConfig
from forebrain.models.poco import Poco, PocoConfig

SMALL = PocoConfig(
    context=24, horizon=5, token_length=8, width=16, num_latents=3, num_heads=2, head_width=8, film_width=24
)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_session, "BLOCK_ROWS", 4)


def build(config: PocoConfig, num_units: int, std: float = 0.3) -> tuple[Poco, Interface, Tensor]:
    """A model of random parameters with dropout that must not happen, an interface, and windows [2, C, N]."""
    torch.manual_seed(0)
    model = Poco(config, num_datasets=2).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model, Interface(num_units, config.width), torch.randn(2, config.context, num_units)


def forecasts(
    model: Poco, interface: Interface, windows: Tensor, dtype: torch.dtype, threads: int = 1
) -> Tensor:
    session = session_forecaster(model, dtype, threads)(interface, 1)
    return torch.stack([session.forecast(window) for window in windows])


@pytest.mark.parametrize("num_units", [1, 4, 11])
@pytest.mark.parametrize(
    "changes",
    [
        {}, {"relative": True}, {"latent_session_embedding": True}, {"session_embedding": False},
        {"film_layers": 2, "num_layers": 2, "encoder_context": 16}, {"num_layers": 0},
    ],
    ids=str,
)  # fmt: skip
def test_it_forecasts_what_the_model_does(changes: dict, num_units: int, small_blocks: None) -> None:
    model, interface, windows = build(replace(SMALL, **changes), num_units)
    model, interface, windows = model.double(), interface.double(), windows.double()
    (expected,) = model([SessionInput(windows, interface, 1)])
    ours = forecasts(model, interface, windows, torch.float64)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    assert not ours.requires_grad


def test_frames_that_do_not_persist_are_seen_as_they_are(small_blocks: None) -> None:
    model, interface, windows = build(replace(SMALL, relative=True), 11)
    interface.is_smooth = False
    with torch.no_grad():
        (expected,) = model([SessionInput(windows, interface, 1)])
    torch.testing.assert_close(forecasts(model, interface, windows, torch.float32), expected)


def test_in_fp32_it_is_within_rounding_and_in_bf16_near(small_blocks: None) -> None:
    model, interface, windows = build(replace(SMALL, relative=True), 11, std=0.1)
    (expected,) = model([SessionInput(windows, interface, 1)])
    torch.testing.assert_close(
        forecasts(model, interface, windows, torch.float32), expected, rtol=1e-5, atol=1e-6
    )
    rough = forecasts(model, interface, windows, torch.bfloat16)
    assert rough.dtype == torch.float32 and not torch.equal(rough, expected)
    assert (rough - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_however_many_threads_share_the_units_the_forecast_is_the_same_to_the_bit(
    dtype: torch.dtype, small_blocks: None
) -> None:
    model, interface, windows = build(SMALL, 30)  # eight blocks
    alone = forecasts(model, interface, windows, dtype)
    for threads in (2, 3, 20):
        assert torch.equal(forecasts(model, interface, windows, dtype, threads), alone)


def test_a_forecast_depends_on_no_window_before_it_and_stays_as_it_was(small_blocks: None) -> None:
    model, interface, windows = build(SMALL, 11)
    session = FrozenPoco(model).session(interface, 1)
    first = session.forecast(windows[0])
    kept = first.clone()
    session.forecast(windows[1])
    assert torch.equal(first, kept) and torch.equal(session.forecast(windows[0]), kept)


def test_sessions_of_one_backbone_do_not_disturb_one_another(small_blocks: None) -> None:
    model, interface, windows = build(SMALL, 11)
    open_session = session_forecaster(model)
    session = open_session(interface, 1)
    before = session.forecast(windows[0])
    other = open_session(Interface(7, SMALL.width), None)
    other.forecast(windows[0, :, :7])
    assert torch.equal(session.forecast(windows[0]), before)


def test_a_failure_in_a_thread_that_helps_is_raised(
    small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, interface, windows = build(SMALL, 11)
    session = session_forecaster(model, threads=2)(interface, 1)

    def fail(block: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(frozen_session._Block, "see", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        session.forecast(windows[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_models_forecast_by_a_call(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = LinearConfig(context=24, horizon=5).build().eval()
    interface, window = model.new_interface(3), torch.randn(24, 3)
    forecast = session_forecaster(model, dtype)(interface, None).forecast(window)
    (expected,) = model([SessionInput(window[None], interface)])
    torch.testing.assert_close(forecast, expected[0], atol=1e-6 if dtype == torch.float32 else 0.05, rtol=0)
    assert forecast.dtype == torch.float32


def test_helpers_have_cores_of_their_own_and_who_is_helped_keeps_off(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 7}, raising=False)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, cores: bound.append(tuple(sorted(cores))), raising=False
    )
    for number, expected in ((2, [(6,), (7,), (4, 5), (4, 5, 6, 7)]), (0, []), (4, [])):
        helpers = frozen_session.Helpers(number)  # four would leave none
        for thread in helpers.threads:
            thread.submit(int).result()
        with helpers.at_work():
            pass
        assert len(helpers.threads) == number and bound == expected
        bound.clear()
