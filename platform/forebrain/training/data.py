"""The data of a run: shards, or the part of them that its config keeps, under its protocol."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from forebrain.errors import CheckpointError, ForebrainError, ShardError
from forebrain.scoring.protocols import PARTS, Part
from forebrain.shards.holdout import held_out_sessions
from forebrain.shards.index import Index
from forebrain.shards.order import DataOrder
from forebrain.shards.reader import ShardSet, fingerprint_of, sources_of
from forebrain.shards.recordings import find_all, sha256_of
from forebrain.shards.subset import SubsetShards
from forebrain.shards.windows import ShardWindows
from forebrain.training.checkpoints import Checkpoint
from forebrain.training.config import PretrainConfig


@dataclass(frozen=True)
class DatasetShare:
    """The contribution of one data set to the training batches.

    Attributes:
        dataset: its name.
        sessions, units, windows: how many it has; windows of the training part.
        share: of the windows drawn, in [0, 1].
    """

    dataset: str
    sessions: int
    units: int
    windows: int
    share: float


def open_windows(config: PretrainConfig, shards: str, kept_index: bytes | None = None) -> ShardWindows:
    """Opens what a run trains and is scored on.

    Args:
        config: the run's.
        shards: address of the set.
        kept_index: of the set when the run began, `RunFolder.kept_index`; None for the set as it is now.

    Raises:
        CheckpointError: a session that the run began with is not there any more, or is another.
        ConfigError: the set has not as much as `subset` is to keep, or as `holdout` is to hold out.
        ShardError: the shards cannot be read, or windows are longer than they were prepared for.
    """
    try:
        whole = ShardSet.open(shards, config.mixture.on_bad_shard, kept_index)
    except ShardError as error:
        if kept_index is None or fingerprint_of(shards) == Index.from_bytes(kept_index, shards).fingerprint:
            raise
        raise CheckpointError(
            f"{config.out} was trained on other data than {shards} holds now ({error}) "
            "Give the data it was started with, or another --out."
        ) from error
    kept: ShardSet | SubsetShards = whole
    if not config.subset.is_whole or config.holdout.conditions:
        conditions = config.holdout.conditions or ()
        kept = SubsetShards(whole, config.subset, config.protocol, config.seed, conditions)
    return ShardWindows(
        kept,
        config.protocol,
        config.model.context,
        config.model.horizon,
        config.evaluation.longest_context,
        held_out_sessions(kept, config.holdout),
    )


def dataset_names(windows: ShardWindows) -> list[str]:
    """Names of the data sets, in the order of the backbone's embedding of them."""
    return sorted({info.dataset for info in windows.sessions})


def mixture_of(windows: ShardWindows, order: DataOrder) -> tuple[DatasetShare, ...]:
    """The contribution of each data set to the training batches."""
    names = dataset_names(windows)
    shares = dict.fromkeys(names, 0.0)
    for session, draws in zip(order.sessions, order.draws_each_epoch, strict=True):
        shares[session.dataset] += float(draws / order.epoch_length)
    return tuple(
        DatasetShare(
            name,
            sessions=sum(info.dataset == name for info in windows.sessions),
            units=sum(info.num_units for info in windows.sessions if info.dataset == name),
            windows=sum(
                windows.num_windows(number, "train")
                for number, info in enumerate(windows.sessions)
                if info.dataset == name
            ),
            share=shares[name],
        )
        for name in names
    )


def sessions_without_windows(windows: ShardWindows) -> dict[Part, list[str]]:
    """Ids of the sessions that are too short for a window, by part; those that are held out are not."""
    numbered = [each for each in enumerate(windows.sessions) if each[1].id not in windows.held_out]
    return {
        part: [info.id for number, info in numbered if not windows.num_windows(number, part)]
        for part in PARTS
    }


def is_same_data(now: str, before: str, trained_on: Collection[str], own_shards: str) -> bool:
    """Whether data hold what a run or study began with from another address: they were moved, or linked.

    Of prepared sets the index's fingerprint is compared. Of recordings, all must be there whose sessions were
    prepared; what else lies there is not looked at.

    Args:
        now, before: addresses.
        trained_on: fingerprints of the sets that checkpoints were trained on.
        own_shards: the set that was prepared from the recordings at `before`, if they were recordings.
    """
    if now == before:
        return True
    try:
        fingerprint = None if now.startswith("sim://") else fingerprint_of(now)
        if fingerprint is not None:
            return fingerprint in trained_on if trained_on else fingerprint == fingerprint_of(before)
        sources = sources_of(own_shards)
        return bool(sources) and sources <= {sha256_of(address) for address in find_all([now])}
    except (ForebrainError, OSError):  # said by whoever opens them next
        return False


def check_same_data(checkpoint: Checkpoint, config: PretrainConfig, data_fingerprint: str) -> None:
    """Raises CheckpointError if a checkpoint was trained on other data."""
    stored = checkpoint.record["data_fingerprint"]
    if stored != data_fingerprint:
        raise CheckpointError(
            f"{config.out} was trained on other data than {config.data} holds now "
            f"(fingerprint {stored[:12]}, now {data_fingerprint[:12]}). "
            "Give the data it was started with, or another --out."
        )
