"""Errors of a fixed backbone and their gradients, formed by hand, are those that autograd forms."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from forebrain.accelerate import frozen_error
from forebrain.accelerate.frozen import FrozenPoco
from forebrain.accelerate.frozen_error import FrozenError
from forebrain.models.base import Interface, SessionInput, SessionTarget
from forebrain.models.poco import Poco, PocoConfig
from weighted_errors import targets_of

SMALL = PocoConfig(
    context=24, horizon=5, token_length=8, width=16, num_latents=3, num_heads=2, head_width=8, film_width=24
)
OTHERS = [
    {}, {"relative": True}, {"session_embedding": False}, {"num_layers": 0},
    {"num_layers": 2, "film_layers": 2, "encoder_context": 16},
    {"width": 24, "num_heads": 3, "head_width": 12, "num_latents": 5, "feed_forward_multiple": 2},
]  # fmt: skip


class Alone:
    """The only worker that holds units of a session."""

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        return tensor

    all_reduce_sum = all_reduce_max


@pytest.fixture
def formed(monkeypatch: pytest.MonkeyPatch) -> list[SessionInput]:
    """The sessions whose errors are formed by hand."""
    seen: list[SessionInput] = []
    form = FrozenError.__call__

    def spy(self: FrozenError, entry: SessionInput, target: SessionTarget) -> tuple:
        seen.append(entry)
        return form(self, entry, target)

    monkeypatch.setattr(FrozenError, "__call__", spy)
    return seen


def build(config: PocoConfig, std: float = 0.3) -> Poco:
    """In evaluation mode, with dropout that must not happen and embeddings far from centred."""
    torch.manual_seed(0)
    model = Poco(config, num_datasets=2).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.1, std=std)
    return model


def session(
    config: PocoConfig, batch: int = 1, units: int = 11, dtype: torch.dtype = torch.float32, seed: int = 1
) -> SessionInput:
    torch.manual_seed(seed)
    context = torch.randn(batch, config.context, units).to(dtype)
    return SessionInput(context, Interface(units, config.width).to(dtype), dataset=1)


def learn(model: Poco | FrozenPoco, entry: SessionInput, target: SessionTarget) -> list[Tensor | None]:
    """The error, and its gradients of the interface."""
    entry.interface.zero_grad()
    error = model.learn(*model.seen(entry, target))
    assert not error.requires_grad
    return [error, *(parameter.grad for parameter in entry.interface.parameters())]


def learn_together(
    model: Poco | FrozenPoco, inputs: list[SessionInput], targets: list[SessionTarget]
) -> list[Tensor | None]:
    """The same of several sessions, by autograd."""
    for entry in inputs:
        entry.interface.zero_grad()
    error = model(inputs, targets)
    error.backward()
    parameters = [parameter for entry in inputs for parameter in entry.interface.parameters()]
    return [error.detach(), *(parameter.grad for parameter in parameters)]


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_they_are_the_models(changes: dict, batch: int, formed: list[SessionInput]) -> None:
    config = replace(SMALL, **changes)
    model, entry = build(config).double(), session(config, batch, dtype=torch.float64)
    (target,) = targets_of([entry], config.horizon)
    expected = learn_together(model, [entry], [target])
    ours = learn(FrozenPoco(model), entry, target)
    assert len(formed) == 1
    assert (ours[2] is None) == (not config.session_embedding)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("batch", "units"), [(1, 40), (2, 7), (9, 4)])
def test_in_fp32_they_are_within_rounding_and_in_bf16_near(
    batch: int, units: int, formed: list[SessionInput]
) -> None:
    config = replace(SMALL, relative=True)
    model, entry = build(config, std=0.1), session(config, batch, units)
    (target,) = targets_of([entry], config.horizon)
    expected = learn(model, entry, target)
    exact = learn(FrozenPoco(model), entry, target)
    for ours, value in zip(exact, expected, strict=True):
        assert (ours - value).norm() < 1e-5 * value.norm()
    rough = learn(FrozenPoco(model, torch.bfloat16), entry, target)
    for ours, value in zip(rough, expected, strict=True):
        assert ours.dtype == torch.float32 and not torch.equal(ours, value)
        assert (ours - value).norm() < 0.03 * value.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(learn(FrozenPoco(model), entry, target), exact, rtol=0, atol=0)
    assert len(formed) == 3


@pytest.mark.parametrize(
    ("changes", "among"),
    [
        ({}, lambda entry: [entry, session(SMALL, 2)]),
        ({}, lambda entry: [replace(entry, forecast_units=torch.tensor([3, 0]))]),
        ({}, lambda entry: [replace(entry, peers=Alone())]),
        ({"latent_session_embedding": True}, lambda entry: [entry]),
    ],
    ids=["several sessions", "some units", "workers share a session", "latents of a session's own"],
)
def test_what_is_not_formed_by_hand_is_right_too(
    changes: dict, among: Callable[[SessionInput], list[SessionInput]], formed: list[SessionInput]
) -> None:
    config = replace(SMALL, **changes)
    model = build(config).double()
    inputs = [
        replace(each, context=each.context.double(), interface=each.interface.double())
        for each in among(session(config))
    ]
    targets = targets_of(inputs, config.horizon)
    expected = learn_together(model, inputs, targets)
    frozen = FrozenPoco(model)
    torch.testing.assert_close(learn_together(frozen, inputs, targets), expected, rtol=1e-9, atol=1e-9)
    if len(inputs) == 1:
        torch.testing.assert_close(learn(frozen, inputs[0], targets[0]), expected, rtol=1e-9, atol=1e-9)
    assert not formed


def test_tokens_may_be_asked_for_with_any_emphasis() -> None:
    model, entry = build(SMALL).double(), session(SMALL, batch=2, dtype=torch.float64)
    with torch.no_grad():
        model.encoder_attention.to_key.weight.mul_(1e4)  # exp of such scores is infinite
    (target,) = targets_of([entry], SMALL.horizon)
    ours = learn(FrozenPoco(model), entry, target)
    assert all(torch.isfinite(each).all() for each in ours if each is not None)
    torch.testing.assert_close(ours, learn_together(model, [entry], [target]), rtol=1e-9, atol=1e-9)


def test_only_what_requires_a_gradient_gets_one() -> None:
    model, entry = FrozenPoco(build(SMALL)), session(SMALL)
    (target,) = targets_of([entry], SMALL.horizon)
    entry.interface.session.requires_grad_(False)
    _, of_units, of_session = learn(model, entry, target)
    assert of_units is not None and of_session is None


def test_a_batch_that_found_no_memory_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model, entries = FrozenPoco(build(SMALL)), [session(SMALL, batch) for batch in (1, 2)]
    targets = targets_of(entries, SMALL.horizon)
    expected = [learn(model, entry, target) for entry, target in zip(entries, targets, strict=True)]
    learn(model, entries[0], targets[0])
    with monkeypatch.context() as short, pytest.raises(MemoryError):
        short.setattr(frozen_error._Tell, "__init__", Mock(side_effect=MemoryError))
        learn(model, entries[1], targets[1])
    found = [learn(model, entry, target) for entry, target in zip(entries, targets, strict=True)]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_gradients_add_to_those_that_are_there() -> None:
    model, entries = FrozenPoco(build(SMALL).double()), [session(SMALL, dtype=torch.float64)]
    entries.append(replace(entries[0], context=-entries[0].context))
    targets = targets_of(entries, SMALL.horizon)
    each = [learn(model, entry, target) for entry, target in zip(entries, targets, strict=True)]
    entries[0].interface.zero_grad()
    for entry, target in zip(entries, targets, strict=True):
        model.learn(entry, target)
    together = [parameter.grad for parameter in entries[0].interface.parameters()]
    torch.testing.assert_close(together, [a + b for a, b in zip(*each, strict=True)][1:])


def test_what_draws_at_random_is_not_formed_by_hand(formed: list[SessionInput]) -> None:
    model, entry = build(SMALL), session(SMALL)
    (target,) = targets_of([entry], SMALL.horizon)
    dropping = FrozenPoco(model.train())
    first, second = (learn(dropping, entry, target) for _ in range(2))
    assert not torch.equal(first[1], second[1]) and not formed
    seeded = []
    for each in (model, dropping):
        torch.manual_seed(3)
        seeded.append(learn(each, entry, target))
    torch.testing.assert_close(*seeded, rtol=1e-4, atol=1e-5)


def test_errors_of_other_batches_and_in_other_threads_change_nothing() -> None:
    frozen = FrozenPoco(build(SMALL))
    entries = [session(SMALL, batch) for batch in (1, 2, 5)]
    entries += [session(SMALL, batch=2, seed=seed) for seed in range(40)]

    def of(entry: SessionInput) -> list[Tensor | None]:
        return learn(frozen, entry, SessionTarget.of(entry, entry.context[:, : SMALL.horizon], "squared"))

    expected = [of(entry) for entry in entries]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(of, entries))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
