"""Options of a run that follow its protocol where nobody sets them: one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ProtocolDefaults:
    """Values of options that are None in a run's config.

    Attributes:
        schedule, loss, select_by, amsgrad, joint_clip, move_unread_interfaces: see `TrainingConfig`.
        warmup_percent: `training.warmup_steps`, of all steps.
        relative: see `ModelConfig`; models that do not go with it leave it out.
        exponent, largest_share: see `MixtureConfig`.
    """

    schedule: Literal["constant", "cosine"]
    warmup_percent: int
    loss: Literal["squared", "relative"]
    select_by: Literal["score", "loss"]
    amsgrad: bool
    joint_clip: bool
    move_unread_interfaces: bool
    relative: bool
    exponent: float
    largest_share: float


_OURS = ProtocolDefaults(
    schedule="cosine",
    warmup_percent=5,
    loss="relative",
    select_by="score",
    amsgrad=False,
    joint_clip=False,
    move_unread_interfaces=False,
    relative=True,
    exponent=0.5,
    largest_share=0.5,
)
# As POCO was trained and chosen for its publication (Duan et al. 2025).
_PUBLISHED = ProtocolDefaults(
    schedule="constant",
    warmup_percent=0,
    loss="squared",
    select_by="loss",
    amsgrad=True,
    joint_clip=True,
    move_unread_interfaces=True,
    relative=False,
    exponent=1.0,
    largest_share=1.0,
)
DEFAULTS: dict[str, ProtocolDefaults] = {
    "chronological": _OURS,
    "poco": _PUBLISHED,
    "zapbench": _OURS,
}
