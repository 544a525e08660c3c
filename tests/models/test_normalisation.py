"""Instance normalisation: equivariant to level and amplitude, causal, and bounded far outside."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from forebrain.models.base import Interface, SessionInput, SessionTarget
from forebrain.models.normalisation import MAX_SPREAD, MIN_SPREAD, InstanceNorm
from forebrain.models.poco import Poco, PocoConfig

CONFIG = PocoConfig(context=24, horizon=5, token_length=8, width=16, num_latents=3, num_heads=2, head_width=8,
                    film_width=24, relative=True)  # fmt: skip


@pytest.fixture
def model() -> Poco:
    torch.manual_seed(0)
    model = Poco(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def forecast(model: Poco, context: torch.Tensor) -> torch.Tensor:
    interface = Interface(context.shape[2], CONFIG.width, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model([SessionInput(context, interface, 0)])[0]


def test_normalising_and_denormalising_is_the_identity_within_the_bound() -> None:
    context = torch.randn(2, 24, 5)
    norm = InstanceNorm.of(context)
    torch.testing.assert_close(norm.denormalise(norm.normalise(context)), context)


def test_a_level_moves_the_forecast_along(model: Poco) -> None:
    context = torch.randn(2, 24, 5)
    torch.testing.assert_close(
        forecast(model, context + 7), forecast(model, context) + 7, rtol=1e-4, atol=1e-4
    )


def test_far_outside_of_training_the_forecast_deviates_from_copy_by_a_bounded_amount(model: Poco) -> None:
    context = torch.randn(2, 24, 5)
    near = (forecast(model, context) - context[:, -1:]).abs().max()
    far = (forecast(model, 1000 * context) - 1000 * context[:, -1:]).abs().max()
    assert far < 20 * MAX_SPREAD * near


def test_a_session_that_is_not_smooth_is_seen_as_it_is_beside_one_that_is(model: Poco) -> None:
    windows = torch.randn(2, 2, 24, 5)
    walk, events = (Interface(5, CONFIG.width, torch.Generator().manual_seed(seed)) for seed in range(2))
    events.is_smooth = False
    plain = Poco(replace(CONFIG, relative=False)).eval()
    plain.load_state_dict(model.state_dict())
    entries = [SessionInput(each, own, 0) for each, own in zip(windows, (walk, events), strict=True)]
    target = torch.randn(2, 5, 5)
    with torch.no_grad():
        together = model(entries)
        errors = [
            each([entries[1]], [SessionTarget.of(entries[1], target, "relative")]) for each in (model, plain)
        ]
        torch.testing.assert_close(together[0], model([entries[0]])[0])
        torch.testing.assert_close(together[1], plain([entries[1]])[0])
        assert not torch.allclose(together[0], plain([entries[0]])[0])
    torch.testing.assert_close(*errors)


def test_a_silent_row_is_not_blown_up() -> None:
    norm = InstanceNorm.of(torch.zeros(1, 24, 3))
    assert norm.spread.min() == pytest.approx(MIN_SPREAD)


def test_relative_error_is_the_same_for_loud_and_quiet_windows() -> None:
    context, target = torch.randn(1, 24, 3) * 10, torch.randn(1, 5, 3) * 10
    interface = Interface(3, 0)
    quiet, loud = (
        SessionTarget.of(SessionInput(scale * context, interface), scale * target, "relative")
        for scale in (1, 5)
    )
    of_quiet, of_loud = ((each.weight * each.frames.square()).mean() for each in (quiet, loud))
    assert of_loud / of_quiet == pytest.approx(1, rel=0.01)
