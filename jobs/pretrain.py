"""Pretrains a backbone: python jobs/pretrain.py --data URI --out URI [--training.steps N ...]

`--data` is a set of shards (the --out of jobs/prepare.py), a folder of recordings, or sim://default.
`--out` is the run folder; the same command resumes the run that is there.
"""

import dataclasses
import sys
from dataclasses import dataclass

from forebrain.adaptation.publish import PublishConfig, publish_run, require_publishable, say_published
from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.runs.pretrain import pretrain
from forebrain.training.config import PretrainConfig


@dataclass(frozen=True)
class PretrainJobConfig(PretrainConfig):
    """A pretraining run, and where its best model goes.

    Attributes:
        publish: publish the best checkpoint under this name, see jobs/publish.py.
        registry: to publish in, a folder or s3://bucket/prefix. None: FOREBRAIN_REGISTRY.
        licence: of the published weights, as SPDX writes it.
    """

    publish: str | None = None
    registry: str | None = None
    licence: str = PublishConfig.licence

    def of_run(self) -> PretrainConfig:
        """What makes the run."""
        return PretrainConfig(
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(PretrainConfig)}
        )


def main() -> int:
    console = make_console()
    try:
        config = parse(PretrainJobConfig, description=__doc__, short={"--full": "--evaluation.full"})
        if config.publish is not None:
            require_publishable(config.publish, config.registry)  # now, not after hours of training
        run = pretrain(config.of_run(), console)
        if config.publish is not None:
            asked = PublishConfig(run, config.publish, config.registry, config.licence)
            say_published(*publish_run(asked), console)
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    console.print(f"\nNext: tensorboard --logdir {run}/tensorboard, or another --data; the run is in {run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
