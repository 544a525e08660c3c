"""Fitting moves what it should, towards less error, the same each time."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forebrain.adaptation import fit
from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.adapting import train
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.fit import FitConfig, WindowForecaster, fit_interface, training_batches
from forebrain.adaptation.origin import weights_of
from forebrain.adaptation.recording import Prepared, prepare_session
from forebrain.errors import AdaptationError, ConfigError, DivergenceError
from forebrain.models.base import Interface, SessionInput, SessionTarget
from forebrain.models.baselines.linear import NLinearConfig
from forebrain.models.normalisation import InstanceNorm
from forebrain.sessions.session import Session
from forebrain_registry import Registry

QUICK = FitConfig(steps=12, batch_size=4, learning_rate=1e-2)


@pytest.fixture
def backbone(registry: Registry, publish_backbone: Callable[..., str]) -> Backbone:
    return Backbone.from_registry(publish_backbone(), registry.uri)


@pytest.fixture
def prepared(backbone: Backbone, walk: Callable[..., Session]) -> Prepared:
    return prepare_session(walk(7, num_frames=300), backbone.description, backbone.rates_hz)


def changed(before: Backbone, after: torch.nn.Module) -> set[str]:
    named = dict(after.named_parameters())
    return {
        name.split(".")[0]
        for name, parameter in before.model.named_parameters()
        if not torch.equal(named[name], parameter)
    }


@pytest.mark.parametrize(
    ("mode", "moved"),
    [
        ("embeddings", set()),
        ("none", set()),
        ("forecaster", {"forecaster"}),
        ("full", {"token", "latent", "encoder_attention", "processor", "decoder_attention", "forecaster"}),
    ],
)
def test_a_mode_trains_what_it_says_and_leaves_the_backbone(
    mode: str, moved: set[str], backbone: Backbone, prepared: Prepared
) -> None:
    before = weights_of(backbone.model)
    config = replace(QUICK, backbone_learning_rate=1e-2)
    model = train(backbone, prepared, mode, config).model
    # The best step may be step 0, so look at how the modes end as well.
    assert weights_of(backbone.model) == before
    assert changed(backbone, model) <= moved | {"encoder_feed_forward", "decoder_feed_forward"}
    trained = copy.deepcopy(backbone.model).train()
    if moved:
        (trained if mode == "full" else trained.forecaster).requires_grad_(True)
        interface = Interface(5, 16)
        start = interface.unit.clone()
        fit_interface(trained, interface, training_batches(prepared.windows, 4, 0), config)
        assert moved <= changed(backbone, trained)
        assert (interface.unit != start).any(dim=1).all()


def test_more_steps_bring_the_training_error_down(backbone: Backbone, prepared: Prepared) -> None:
    interface = Interface(5, 16, torch.Generator().manual_seed(0))
    errors = []
    context, target = next(training_batches(prepared.windows, 64, 0))

    def note(step: int) -> None:
        with torch.no_grad():
            (forecast,) = backbone.model([SessionInput(context, interface)])
        errors.append(((forecast - target) / InstanceNorm.of(context).spread).square().mean().item())

    config = replace(QUICK, steps=40, learning_rate=3e-2)
    fit_interface(backbone.model, interface, itertools.repeat((context, target)), config, after_step=note)
    assert errors[-1] < 0.98 * errors[0]


def test_batches_that_end_are_no_silent_success(backbone: Backbone, prepared: Prepared) -> None:
    few = itertools.islice(training_batches(prepared.windows, 4, 0), QUICK.steps - 1)
    with pytest.raises(ValueError, match="shorter"):
        fit_interface(backbone.model, Interface(5, 16), few, QUICK)


def test_the_same_seed_gives_the_same_bytes(backbone: Backbone, prepared: Prepared) -> None:
    first, again, other = (
        train(backbone, prepared, "scratch", replace(QUICK, seed=seed)) for seed in (0, 0, 1)
    )
    assert weights_of(first.model) == weights_of(again.model) != weights_of(other.model)
    assert weights_of(first.interface) == weights_of(again.interface)
    assert first.score_by_step == again.score_by_step


def test_the_best_step_by_validation_is_kept(backbone: Backbone, prepared: Prepared) -> None:
    trained = train(backbone, prepared, "embeddings", replace(QUICK, steps=60))
    assert [step for step, _ in trained.score_by_step] == [0, 1, 5, 20, 50, 60]
    scores = dict(trained.score_by_step)
    assert scores[trained.best_step] == max(scores.values())
    again = train(backbone, prepared, "none", QUICK, start=trained.interface)
    assert again.score_by_step == ((0, scores[trained.best_step]),)


def test_every_window_is_used_once_before_any_is_used_again(prepared: Prepared) -> None:
    count = prepared.windows.num_windows(0, "train")
    contexts = [context for context, _ in itertools.islice(training_batches(prepared.windows, 1, 3), count)]
    assert len({context.numpy().tobytes() for context in contexts}) == count


@pytest.mark.parametrize("mode", ["embeddings", "full"])
def test_bf16_comes_near_to_fp32(mode: str, backbone: Backbone, prepared: Prepared) -> None:
    exact, rough = (
        train(backbone, prepared, mode, replace(QUICK, precision=precision)).score_by_step[-1][1]
        for precision in ("fp32", "bf16")
    )
    assert rough != exact and rough == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("loss", ["relative", "squared"])
def test_each_step_follows_the_mean_error_of_its_own_batch(
    loss: str, backbone: Backbone, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [
        (3 * context, 3 * target)  # so that some windows deviate by more than is trusted
        for context, target in itertools.islice(training_batches(prepared.windows, 4, 0), 4)
    ]
    assert any((InstanceNorm.of(context).spread > 3).any() for context, _ in batches)
    monkeypatch.setattr(fit, "CLIP_NORM", math.inf)
    interface = Interface(5, 16, torch.Generator().manual_seed(0))
    start = copy.deepcopy(interface)

    def check(step: int) -> None:
        context, target = batches[step - 1]
        entry = SessionInput(context, copy.deepcopy(start).requires_grad_(True))
        error = backbone.model([entry], [SessionTarget.of(entry, target, loss)]) / target.numel()
        error.backward()
        for ours, expected in zip(interface.parameters(), entry.interface.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-7)

    config = FitConfig(steps=4, batch_size=4, learning_rate=1e-12)
    fit_interface(backbone.model, interface, iter(batches), config, loss, check)


@pytest.mark.parametrize("is_smooth", [True, False])
def test_the_artifact_forecasts_what_was_scored(
    is_smooth: bool, backbone: Backbone, walk: Callable[..., Session], tmp_path: Path
) -> None:
    session = walk(7, num_frames=300)
    if not is_smooth:
        noise = np.random.default_rng(0).normal(size=session.traces.shape)
        session = replace(session, traces=noise.astype(np.float32))
    adapted = backbone.adapt(session, "embeddings", QUICK)
    assert adapted.comparison is not None and adapted.interface.is_smooth is is_smooth
    windows, trained = adapted.comparison.prepared.windows, adapted.comparison.trained
    context, _, starts = windows.read(0, "test", np.array([3]))
    raw = session.frames(int(starts[0]), int(starts[0]) + 12)
    model = WindowForecaster(trained.model, trained.interface, QUICK)
    assert adapted.stack is not None
    scored = adapted.stack.forecast(context, model(0, context))[0]
    np.testing.assert_allclose(
        adapted.preprocessing.normalise(adapted.forecast(raw)), scored, rtol=1e-3, atol=1e-4
    )
    loaded = Adapted.load(adapted.save(tmp_path / "saved"), backbone.origin.registry)
    np.testing.assert_array_equal(loaded.forecast(raw), adapted.forecast(raw))


def test_impossible_settings_and_diverging_losses_are_errors(backbone: Backbone, prepared: Prepared) -> None:
    for values, word in (
        ({"steps": -1}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0}, "rate"),
    ):
        with pytest.raises(ConfigError, match=word):
            FitConfig(**values)
    broken = copy.deepcopy(backbone.model)
    with torch.no_grad():
        broken.forecaster.out.bias.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="step 0"):
        fit_interface(broken, Interface(5, 16), training_batches(prepared.windows, 1, 0), QUICK)


def test_a_model_without_embeddings_or_forecaster_says_what_it_cannot(
    backbone: Backbone, prepared: Prepared
) -> None:
    config = NLinearConfig(context=12, horizon=4, relative=True)
    rows = replace(backbone, model=config.build().eval(), start=None)
    rows = replace(rows, description=replace(backbone.description, model=config))
    for mode, words in (("embeddings", "knows nothing of single units"), ("forecaster", "no forecaster")):
        with pytest.raises(AdaptationError, match=words):
            train(rows, prepared, mode, QUICK)
    assert train(rows, prepared, "full", QUICK).score_by_step


def test_small_steps_take_one_thread_and_give_the_others_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(ZeroDivisionError), FitConfig().few_threads(100):
            assert torch.get_num_threads() == 1
            _ = 1 / 0
        assert torch.get_num_threads() == 3
        with FitConfig(batch_size=64).few_threads(1000):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
