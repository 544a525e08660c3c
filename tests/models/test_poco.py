"""POCO in plain tensor code: any number of sessions and units, in any order, and what it refuses.

That it is the published model the parity fixtures show (tests/commands/test_parity.py); that executors
compute the same, tests/accelerate/test_executors.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from forebrain.errors import ConfigError
from forebrain.models.base import Interface, SessionInput
from forebrain.models.poco import PocoConfig
from small_models import SMALL, batch, build


def test_sessions_do_not_influence_one_another() -> None:
    model = build(SMALL).eval()
    inputs = batch(model, [(2, 5), (3, 9)])
    together = model(inputs)
    for entry, forecast in zip(inputs, together, strict=True):
        torch.testing.assert_close(model([entry])[0], forecast, rtol=1e-5, atol=1e-5)


def test_the_order_of_units_does_not_matter() -> None:
    model = build(SMALL).eval()
    (entry,) = batch(model, [(2, 6)])
    order = torch.randperm(6)
    shuffled = Interface(6, SMALL.width)
    with torch.no_grad():
        shuffled.unit.copy_(entry.interface.unit[order])
        shuffled.session.copy_(entry.interface.session)
    moved = model([SessionInput(entry.context[..., order], shuffled, entry.dataset)])[0]
    torch.testing.assert_close(moved, model([entry])[0][..., order], rtol=1e-5, atol=1e-5)


def test_the_population_is_read() -> None:
    model = build(SMALL).eval()
    (entry,) = batch(model, [(1, 6)])
    changed = entry.context.clone()
    changed[:, :, 5] += 1
    before = model([entry])[0]
    after = model([SessionInput(changed, entry.interface, entry.dataset)])[0]
    assert (after - before)[..., 0].abs().max() > 1e-4


def test_an_empty_batch_and_an_absent_session_give_empty_forecasts() -> None:
    model = build(SMALL)
    assert model([]) == []
    absent, present = model(batch(model, [(0, 4), (2, 3)]))
    assert absent.shape == (0, SMALL.horizon, 4)
    assert present.shape == (2, SMALL.horizon, 3)


def test_dropout_is_active_in_training_only_and_follows_the_seed() -> None:
    config = PocoConfig(**{**SMALL.__dict__, "feed_forward_dropout": 0.5, "branch_dropout": 0.4})
    model = build(config)
    inputs = batch(model, [(4, 20)])

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(inputs)[0]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))


def test_a_fresh_model_forecasts_the_bias_of_its_output_layer() -> None:
    torch.manual_seed(0)
    model = PocoConfig(**SMALL.__dict__).build().eval()
    forecast = model(batch(model, [(2, 3)])[:1])[0]
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
