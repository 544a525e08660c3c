"""Pictures and unit embeddings in the run's TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from forebrain.runs.trained import TrainedModel
from forebrain.shards.reader import ShardSet
from forebrain.shards.subset import SubsetShards
from forebrain.training.run_folder import RunFolder
from forebrain.training.telemetry import tensorboard_writer
from forebrain_registry.lines import one_line

# The projector in a browser takes no more points.
_MAX_UNITS = 10_000


def log_to_tensorboard(
    run: RunFolder,
    trained: TrainedModel,
    shards: ShardSet | SubsetShards,
    pictures: dict[str, bytes],
    uncertainty: Mapping[str, Any] | None = None,
) -> None:
    """Adds figures as images, unit embeddings with their labels for the projector, and what intervals cover.

    Where TensorBoard is not installed nothing is written; the same figures are in the run folder.
    """
    writer = tensorboard_writer(run)
    if writer is None:
        return
    import matplotlib.image

    step = trained.checkpoint.step
    if uncertainty is not None:
        for label, block in (("model", uncertainty), *uncertainty["baselines"].items()):
            values = {f"coverage_{level}": value for level, value in block["coverage"].items()}
            for name, value in {**values, "mwql": block["mwql"], "crps": block["crps"]}.items():
                if value is not None:
                    writer.add_scalar(f"uncertainty/{name}/{label}", value, step)
    for name, data in pictures.items():
        image = matplotlib.image.imread(io.BytesIO(data), format="png")
        writer.add_image(name.removesuffix(".png"), image[..., :3], step, dataformats="HWC")
    vectors, labels = _labelled_units(trained, shards)
    if vectors.shape[1]:  # else the model keeps nothing of a unit
        writer.add_embedding(
            vectors,
            metadata=labels,
            metadata_header=["unit", "region", "session", "species"],
            global_step=step,
        )
    writer.close()


def _labelled_units(
    trained: TrainedModel, shards: ShardSet | SubsetShards
) -> tuple[torch.Tensor, list[list[str]]]:
    """Units' rows [U, d], in most models embeddings, with unit, region, session and species of each; evenly
    thinned where many."""
    vectors: list[torch.Tensor] = []
    labels: list[list[str]] = []
    for index, entry in enumerate(shards.sessions):
        if entry.id not in trained.interfaces:
            continue
        unit = trained.interfaces[entry.id].unit.detach().cpu()
        known = not shards.forecasts_components
        names = (shards.unit_names(index) if known else None) or tuple(map(str, range(len(unit))))
        regions = (shards.brain_regions(index) if known else None) or ("unknown",) * len(unit)
        vectors.append(unit)
        labels += [
            [one_line(str(label)) for label in (name, region, entry.id, entry.species)]
            for name, region in zip(names, regions, strict=True)
        ]
    joined = torch.cat(vectors)
    kept = np.unique(np.linspace(0, len(joined) - 1, min(len(joined), _MAX_UNITS)).astype(int))
    return joined[kept], [labels[position] for position in kept]
