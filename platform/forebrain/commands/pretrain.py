"""Pretrains a model, scores its best checkpoint beside copy, mean and linear, and keeps all in a run folder.

The same command goes on with the run that is there, from its newest checkpoint. With `--workers 0` it is one
plain process, without Ray.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rich.console import Console

from forebrain.adaptation.publish import PublishConfig, publish_run, require_publishable, say_published
from forebrain.runs.pretrain import pretrain
from forebrain.training.config import PretrainConfig
from forebrain_registry.lines import quoted

FIRST = (
    "data",
    "out",
    "workers",
    "training.steps",
    "training.batch_size",
    "training.learning_rate",
    "training.precision",
    "model.name",
    "protocol",
    "seed",
    "evaluation.full",
    "publish",
    "registry",
)
ALIASES = {"--full": "--evaluation.full"}  # much used, and the name it has in evaluate


@dataclass(frozen=True)
class Config(PretrainConfig):
    """A pretraining run, and where its best model goes.

    Attributes:
        publish: publish the best checkpoint under this name, as `forebrain publish` does.
        registry: to publish in, a folder or s3://bucket/prefix. None: FOREBRAIN_REGISTRY.
        licence: of the published weights, as SPDX writes it.
    """

    publish: str | None = None
    registry: str | None = None
    licence: str = PublishConfig.licence

    def of_run(self) -> PretrainConfig:
        """The config of the run itself."""
        return PretrainConfig(
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(PretrainConfig)}
        )


def run(config: Config, console: Console) -> int:
    """Trains, scores, and publishes where that is asked."""
    if config.publish is None:
        folder = pretrain(config.of_run(), console)
    else:
        registry = require_publishable(config.publish, config.registry)  # now, not after hours of training
        with registry.staying():
            folder = pretrain(config.of_run(), console)
            asked = PublishConfig(folder, config.publish, config.registry, config.licence)
            say_published(*publish_run(asked), console)
    logs = quoted(f"{folder}/tensorboard")
    console.print()
    console.print(f"Next: tensorboard --logdir {logs}, or another --data; the run is in {folder}")
    return 0
