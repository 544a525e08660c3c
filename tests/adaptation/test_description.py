"""What a version says of itself is read back as it was written, or refused in one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.description import Description
from forebrain.errors import AdaptationError
from forebrain_registry import Registry


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


def test_a_version_that_is_no_backbone_is_refused(
    registry: Registry, publish_backbone: Callable[..., str]
) -> None:
    reference = publish_backbone("others", config={"architecture": "unknown"})
    with pytest.raises(AdaptationError, match="others@1: its config has format None"):
        Backbone.from_registry(reference, registry.uri)
