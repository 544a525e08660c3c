"""The progress of a run: what its checkpoints remember besides weights and moments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """The memory of a run.

    Attributes:
        best_loss: lowest validation loss so far: what `select_by` names, 1 - score or the squared error.
        best_step: the step it was measured at.
        validations_without_improvement: since then.
        seconds: wall time of the steps so far, validations and checkpoints included, over all attempts.
        units_x_frames: activity values read so far (units x frames of each window).
        windows_skipped: training windows that could not be read.
        bad_shards: names of the shards they, or others, would have been in.
    """

    best_loss: float | None = None
    best_step: int = 0
    validations_without_improvement: int = 0
    seconds: float = 0.0
    units_x_frames: int = 0
    windows_skipped: int = 0
    bad_shards: list[str] = field(default_factory=list)

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Progress:
        """The progress that a checkpoint holds; what another version of the program added is passed over."""
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def note_validation(self, loss: float | None, step: int) -> None:
        """Takes in the loss of a validation, None where no window could be scored."""
        if loss is None:
            return
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.validations_without_improvement = loss, step, 0
        else:
            self.validations_without_improvement += 1

    def is_out_of(self, patience: int | None) -> bool:
        """Whether as many validations as `patience` brought no improvement; None never runs out."""
        return patience is not None and self.validations_without_improvement >= patience
