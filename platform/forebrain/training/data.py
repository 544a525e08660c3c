"""The data of a run: shards, or the part of them that its config keeps, under its protocol."""

from __future__ import annotations

from forebrain.shards.holdout import held_out_sessions
from forebrain.shards.reader import ShardSet
from forebrain.shards.subset import SubsetShards
from forebrain.shards.windows import ShardWindows
from forebrain.training.config import PretrainConfig


def open_windows(config: PretrainConfig, shards: str) -> ShardWindows:
    """Opens what a run trains and is scored on.

    Args:
        config: the run's.
        shards: address of the set.

    Raises:
        ConfigError: the set has not as much as `subset` is to keep, or as `holdout` is to hold out.
        ShardError: the shards cannot be read, or windows are longer than they were prepared for.
    """
    whole = ShardSet.open(shards, config.mixture.on_bad_shard)
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
