"""What a version says of itself is read back as it was written, or refused in one sentence."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.description import Description, tensors_of
from forebrain.adaptation.start import START
from forebrain.errors import AdaptationError
from forebrain.models.base import ModelConfig
from forebrain.models.registry import MODELS
from forebrain_registry import Registry, pull


def stored(description: Description) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads(json.dumps(description.config())), json.loads(json.dumps(description.preprocessing()))


def test_it_comes_back_from_json(description: Description) -> None:
    assert Description.from_metadata(*stored(description), "worms@1") == description


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        (0, "format", "forebrain-model-9", "its config has format 'forebrain-model-9'.*Update forebrain"),
        (1, "format", None, "its preprocessing has format None"),
        (0, "model", {"name": "poco", "width": -3}, "damaged"),
        (0, "model", {"name": "oracle"}, "damaged"),
        (0, "loss", "hinge", "loss 'hinge'"),
        (1, "protocol", "shuffled", "expects protocol 'shuffled'"),
        (1, "horizon", 5, "expects other windows than its model takes"),
        (1, "zscore", "yes", "damaged"),
        (0, "num_datasets", -1, "damaged"),
        (1, "resample_hz", "fast", "damaged"),
        (1, "event_rate_hz", -2.0, "damaged"),
    ],
)
def test_another_preprocessing_or_model_is_refused(
    part: int, key: str, value: object, words: str, description: Description
) -> None:
    parts = copy.deepcopy(stored(description))
    parts[part][key] = value
    with pytest.raises(AdaptationError, match=f"worms@1: .*{words}"):
        Description.from_metadata(*parts, "worms@1")


def test_weights_of_another_model_are_refused(description: Description) -> None:
    weights = dict(description.model.build().named_parameters())
    assert description.build(weights, "worms@1")
    with pytest.raises(AdaptationError, match=r"worms@1: holds shape \(3,\) for latent"):
        description.build({**weights, "latent": torch.zeros(3)}, "worms@1")
    with pytest.raises(AdaptationError, match="holds nothing for latent"):
        description.build({name: weights[name] for name in weights if name != "latent"}, "worms@1")
    with pytest.raises(AdaptationError, match="which this model does not have"):
        description.build({**weights, "more": torch.zeros(3)}, "worms@1")
    with pytest.raises(AdaptationError, match=r"holds torch.int8 for latent; expected torch.float32"):
        description.build({**weights, "latent": weights["latent"].to(torch.int8)}, "worms@1")
    with pytest.raises(AdaptationError, match="latent holds numbers that are not finite"):
        description.build({**weights, "latent": weights["latent"] / 0}, "worms@1")
    of_four_bits = b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    with pytest.raises(AdaptationError, match="tensors cannot be read"):
        tensors_of(len(of_four_bits).to_bytes(8, "little") + of_four_bits + b"x", "worms@1")


def test_a_version_that_is_no_backbone_is_refused(
    registry: Registry, publish_backbone: Callable[..., str]
) -> None:
    reference = publish_backbone("others", config={"architecture": "unknown"})
    with pytest.raises(AdaptationError, match="others@1: its config has format None"):
        Backbone.from_registry(reference, registry.uri)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"num_latents": 10**9}, "the size 1000000000"),
        ({"num_datasets": 10**30}, "the size 1000"),
        ({"width": 9_000}, "many times as large"),
        ({"num_layers": 9_000}, "many times as large"),
    ],
    ids=str,
)
def test_a_config_larger_than_its_weights_is_refused_before_it_takes_memory(
    size: dict[str, int], words: str, description: Description
) -> None:
    weights = dict(description.model.build().named_parameters())
    hostile = dataclasses.replace(
        description,
        num_datasets=size.pop("num_datasets", 1),
        model=dataclasses.replace(description.model, **size),
    )
    made = [0]

    class Noting(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.device.type == "cpu":
                made.append(result.numel())
            return result

    with Noting(), pytest.raises(AdaptationError, match=f"worms@1: .*{words}"):
        hostile.build(weights, "worms@1")
    assert max(made) < 10**7


@pytest.mark.parametrize("config", [config() for config in MODELS.values()], ids=lambda config: config.name)
def test_every_model_is_built_from_its_own_weights(config: ModelConfig, description: Description) -> None:
    weights = dict(config.build(2).named_parameters())
    built = dataclasses.replace(description, model=config, num_datasets=2).build(weights, "worms@1")
    assert all(torch.equal(weights[name], value) for name, value in built.named_parameters())
    assert all(value.device.type == "cpu" for value in (*built.parameters(), *built.buffers()))


def test_a_start_that_only_lies_in_the_cache_is_not_used(
    registry: Registry, publish_backbone: Callable[..., str]
) -> None:
    reference = publish_backbone()
    (pull(registry, reference).folder / START).write_bytes(b"nobody checked this")
    assert Backbone.from_registry(reference, registry.uri).start is None
