"""How well adaptation does: pretrain on all animals but one, adapt to the one left out, each in turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from forebrain.pretraining import pretrain
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.storage import Folder
from forebrain.training.config import EvaluationConfig, PretrainConfig, TrainingConfig


@dataclass(frozen=True)
class StudyConfig:
    """A study; the same command goes on where it was stopped.

    Attributes:
        recordings: one recording an animal, of one data set.
        out: folder for runs and results.
        seeds: times that everything is done, with other seeds.
        pretraining: the optimisation of the backbones.
    """

    recordings: list[str]
    out: str
    seeds: int = 2
    pretraining: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=250, validate_every=50))


def pretrained(config: StudyConfig, left_out: str, seed: int, console: Console) -> str:
    """The run on all recordings but one: trained, or gone on with, or found finished. Returns its address."""
    place = Folder(config.out).child(f"without-{Path(left_out).stem}")
    others = [recording for recording in config.recordings if recording != left_out]
    prepare(others, place.uri_of("shards"), PrepareConfig(), run_each=map_here)
    run = PretrainConfig(
        data=place.uri_of("shards"),
        out=place.uri_of(f"run-{seed}"),
        workers=0,
        seed=seed,
        training=config.pretraining,
        evaluation=EvaluationConfig(windows_per_session=128),
    )
    return pretrain(run, console)
