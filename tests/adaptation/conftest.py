"""A small backbone with random weights in a registry, and a recording to adapt it to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.artifact import Identity
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.description import Description
from forebrain.adaptation.origin import weights_of
from forebrain.models.base import Interface
from forebrain.models.poco import Poco, PocoConfig
from forebrain.sessions.preprocessing import Preprocessing
from forebrain_registry import Metadata, Registry, SeenSession, publish

CONFIG = PocoConfig(
    context=12, horizon=4, token_length=4, width=16, num_latents=2, num_heads=2, head_width=8, film_width=32,
    relative=True,
)  # fmt: skip


@pytest.fixture(scope="session")
def description() -> Description:
    return Description(
        model=CONFIG,
        num_datasets=1,
        loss="relative",
        protocol="chronological",
        event_rate_hz=2.0,
        resample_hz=None,
        fitted_on={"lab/animal1/one": ((0, 240),)},
    )


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry in a folder, and a cache of its own."""
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    return Registry(tmp_path / "registry")


@pytest.fixture
def publish_backbone(registry: Registry, description: Description) -> Callable[..., str]:
    """Publishes a backbone with weights from a seed, here or elsewhere; returns its reference."""
    here = registry

    def make(name: str = "worms", seed: int = 0, registry: str | None = None, **metadata: object) -> str:
        torch.manual_seed(seed)
        model = Poco(CONFIG)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        values = {
            "licence": "MIT",
            "config": description.config(),
            "preprocessing": description.preprocessing(),
            "sessions": (SeenSession("lab", "animal1", "one", "celegans", 2.5),),
            **metadata,
        }
        place = here if registry is None else Registry(registry)
        return str(publish(place, name, {"model.safetensors": weights_of(model)}, Metadata(**values)))

    return make


@pytest.fixture
def make_adapted() -> Callable[..., Adapted]:
    """An adaptation that nobody trained: random embeddings for five of six recorded units."""

    def make(backbone: Backbone, mode: str = "embeddings") -> Adapted:
        generator = torch.Generator().manual_seed(1)
        rng = np.random.default_rng(0)
        return Adapted(
            model=backbone.model,
            interface=Interface(5, CONFIG.width, generator),
            preprocessing=Preprocessing(
                mean=rng.normal(size=5).astype(np.float32),
                scale=rng.uniform(1, 2, 5).astype(np.float32),
                columns=np.array([0, 1, 2, 4, 5]),
                num_recorded=6,
                unit_names=("AVA", "AVB", "RIM", "SMD", "RIV"),
                rate_hz=2.5,
                recorded_rate_hz=2.5,
                fitted_on=((0, 240),),
            ),
            identity=Identity("celegans", "worm9", "day1", "lab"),
            mode=mode,
            origin=backbone.origin,
            description=backbone.description,
        )

    return make
