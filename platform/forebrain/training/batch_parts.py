"""A batch in parts, which are computed one after another to save memory."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from forebrain.shards.stream import Batch, SessionBatch


def parts_of(batch: Batch, num_parts: int) -> list[Batch | None]:
    """The batch in `num_parts` parts of about as many windows; None for a part without any.

    Windows of split sessions are in the same part on every worker, since workers read them together.
    """
    if num_parts == 1:
        return [batch if batch.groups else None]
    windows = [
        replace(
            group,
            context=group.context[i : i + 1],
            target=group.target[i : i + 1],
            present=None if group.present is None else group.present[i : i + 1],
            inputs=None if group.inputs is None else group.inputs[i : i + 1],
        )
        for group in batch.groups
        for i in range(len(group.context))
    ]
    parts: list[list[SessionBatch]] = [[] for _ in range(num_parts)]
    for is_split in (True, False):
        alike = [window for window in windows if window.is_split == is_split]
        cuts = np.linspace(0, len(alike), num_parts + 1).astype(int)
        for part, (start, stop) in zip(parts, itertools.pairwise(cuts), strict=True):
            part += alike[start:stop]
    return [replace(batch, groups=part) if part else None for part in parts]
