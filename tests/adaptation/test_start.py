"""Better starts than chance: the mean of trained interfaces, and where a unit's own past points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.description import Description
from forebrain.adaptation.origin import weights_of
from forebrain.adaptation.start import NUM_STATISTICS, START, Start, unit_statistics
from forebrain.errors import AdaptationError
from forebrain.models.base import Interface, ModelConfig
from forebrain.models.registry import MODELS
from forebrain.scoring.window_source import ArrayWindows
from forebrain.sessions.session import Session
from forebrain_registry import Metadata, Registry, SeenSession, publish

WIDTH = 6
# A context of 12 holds no token of the default length.
SMALLER = {name: {"token_length": 4} for name in ("poco", "poyo", "taco")}


def trained(sources: ArrayWindows, weights: torch.Tensor) -> dict[str, Interface]:
    """Interfaces whose units' embeddings follow from their statistics, with a little noise."""
    interfaces = {}
    for number, info in enumerate(sources.sessions):
        interfaces[info.id] = made = Interface(info.num_units, WIDTH)
        with torch.no_grad():
            made.unit.copy_(3 + unit_statistics(sources, number) @ weights)
            made.session.fill_(float(number))
    return interfaces


def begun(start: Start, name: str, source: ArrayWindows) -> Interface:
    interface = Interface(source.sessions[0].num_units, WIDTH)
    if name != "random":
        start.fill(interface, name, source)
    return interface


@pytest.fixture
def sessions(walk: Callable[..., Session]) -> list[Session]:
    """Units of different speeds and sizes of noise."""
    made = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        traces = walk(seed, num_frames=300, num_units=60).frames(0, 300)
        traces += rng.normal(size=traces.shape) * rng.uniform(0, 0.5, 60) * traces.std()
        made.append(replace(walk(seed), traces=traces.astype(np.float32)))
    return made


def test_a_start_is_learned_from_the_animals_trained_on_and_given_to_another(sessions: list[Session]) -> None:
    torch.manual_seed(0)
    weights = torch.randn(NUM_STATISTICS, WIDTH)
    sources = ArrayWindows(sessions[:3], "chronological", 20, 4)
    interfaces = trained(sources, weights)
    start = Start.fit(interfaces, {"lab": torch.full((WIDTH,), 10.0)}, sources)
    torch.testing.assert_close(start.session, torch.full((WIDTH,), 11.0))  # mean of 0, 1, 2; and 10

    another = ArrayWindows(sessions[3:], "chronological", 20, 4)
    truth = trained(another, weights)[another.sessions[0].id].unit
    error = {
        name: (begun(start, name, another).unit - truth).square().mean().item()
        for name in ("random", "mean", "regression")
    }
    assert error["regression"] < 0.2 * error["mean"] and error["mean"] < error["random"]
    mean = begun(start, "mean", another)
    assert torch.equal(mean.unit[0], mean.unit[-1]) and torch.equal(mean.session, start.session)


def test_it_comes_back_from_its_file_and_no_other_file_does(sessions: list[Session]) -> None:
    sources = ArrayWindows(sessions[:1], "chronological", 20, 4)
    start = Start.fit(trained(sources, torch.zeros(NUM_STATISTICS, WIDTH)), {}, sources)
    again = Start.load(start.save(), Interface(0, WIDTH), "worms@1")
    assert all(
        torch.equal(getattr(again, name), getattr(start, name)) for name in ("unit", "weights", "scale")
    )
    with pytest.raises(AdaptationError, match=r"worms@1: start.safetensors holds"):
        Start.load(start.save(), Interface(0, WIDTH + 1), "worms@1")


def test_statistics_are_of_training_windows_alone_and_see_no_order_of_units(sessions: list[Session]) -> None:
    session = sessions[0]
    traces = session.frames(0, 300)
    before = unit_statistics(ArrayWindows([session], "chronological", 20, 4), 0)
    later = traces.copy()
    later[180:] = 7
    order = np.random.default_rng(0).permutation(60)
    for changed, expected in ((later, before), (traces[:, order], before[order])):
        found = unit_statistics(ArrayWindows([replace(session, traces=changed)], "chronological", 20, 4), 0)
        torch.testing.assert_close(found, expected)
    assert before.shape == (60, NUM_STATISTICS) and torch.isfinite(before).all()


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_a_start_is_published_with_any_model(
    registry: Registry, description: Description, config: type[ModelConfig]
) -> None:
    """Of some, what an interface begins with depends on the number of units, which no version has."""
    described = replace(
        description, model=replace(config(), context=12, horizon=4, **SMALLER.get(config().name, {}))
    )
    model = described.model.build(1)
    like = model.new_interface(3)
    width = like.unit.shape[1]
    start = Start(
        unit=torch.ones(width),
        session=torch.zeros_like(like.session),
        weights=torch.zeros(NUM_STATISTICS, width),
        centre=torch.zeros(NUM_STATISTICS),
        scale=torch.ones(NUM_STATISTICS),
    )
    version = publish(
        registry, "worms", {"model.safetensors": weights_of(model), START: start.save()},
        Metadata(
            licence="MIT", config=described.config(), preprocessing=described.preprocessing(),
            sessions=(SeenSession("lab", "animal1", "one", "celegans", 2.5),),
        ),
    )  # fmt: skip
    pulled = Backbone.from_registry(str(version), registry.uri).start
    assert pulled is not None and torch.equal(pulled.unit, start.unit)
