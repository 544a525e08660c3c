"""DeepSpeed's JSON: what the platform sets, and what a user's own file may add."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from forebrain.errors import ConfigError
from forebrain.training.config import ResolvedTraining, StrategyName
from forebrain_registry.storage import path_here

STAGES: dict[StrategyName, int] = {"zero1": 1, "zero2": 2, "zero3": 3}

# The platform's own settings of these, by what a user would write; see `deepspeed_config`.
_SET_ELSEWHERE = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.batch_size and training.accumulation",
    "gradient_accumulation_steps": "training.accumulation",
    "managed_gradient_accumulation": "training.accumulation",
    "gradient_clipping": "training.clip_norm",
    "gradient_allreduce_op": "nothing; errors are summed over all windows of a batch",
    "optimizer": "training.learning_rate, training.weight_decay and training.amsgrad",
    "scheduler": "training.schedule and training.warmup_steps",
    "fp16": "training.precision",
    "bf16": "training.precision",
    "amp": "training.precision",
    "torch_autocast": "training.precision",
    "data_types": "training.precision",
    "checkpoint": "training.checkpoint_every and training.keep_checkpoints",
    "zero_optimization.stage": "training.strategy",
    "zero_optimization.offload_optimizer": "training.strategy zero3 and more workers",
    "zero_optimization.offload_param": "training.strategy zero3 and more workers",
}
_ALLOWED = frozenset(
    {
        "zero_optimization", "communication_data_type", "prescale_gradients", "gradient_predivide_factor",
        "steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "flops_profiler",
        "comms_logger", "log_level", "disable_python_gc",
    }
)  # fmt: skip
_ALLOWED_OF_ZERO = frozenset(
    {
        "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
        "allgather_partitions", "allgather_bucket_size", "overlap_comm", "round_robin_gradients",
        "sub_group_size", "stage3_prefetch_bucket_size", "stage3_max_live_parameters",
        "stage3_max_reuse_distance",
    }
)  # fmt: skip


def deepspeed_config(training: ResolvedTraining) -> dict[str, Any]:
    """The JSON that DeepSpeed is given: the platform's settings, and the options of `training.deepspeed`.

    Raises:
        ConfigError: an option is unknown, or the platform's to set.
    """
    zero = {
        "stage": STAGES[training.strategy],
        # DeepSpeed's default reserves 2 GB; a backbone of more parameters passes in several messages.
        "reduce_bucket_size": 20_000_000,
        "allgather_bucket_size": 20_000_000,
        # All weights are fetched together, so none need stay behind.
        "stage3_param_persistence_threshold": 0,
    }
    own = read_options(training.deepspeed)
    return {
        # Batches are the data order's affair; DeepSpeed only wants to see numbers that fit one another.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": training.accumulation,
        "gradient_clipping": training.clip_norm,
        "steps_per_print": None,
        **own,
        "zero_optimization": zero | own.get("zero_optimization", {}),
    }


def read_options(given: str | None) -> dict[str, Any]:
    """A user's own DeepSpeed options.

    Args:
        given: `training.deepspeed`: a JSON file's path, or JSON itself.

    Raises:
        ConfigError: it cannot be read, or an option is unknown or the platform's to set.
    """
    if given is None:
        return {}
    where, text = "training.deepspeed", given.encode()
    if not given.lstrip().startswith("{"):
        where = f"{where} ({given})"
        try:
            text = path_here(given).read_bytes()
        except OSError as error:
            raise ConfigError(f"{where}: cannot be read ({error.strerror}); expected a JSON file.") from error
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not valid JSON ({error}).") from error
    if not isinstance(options, dict) or not isinstance(options.get("zero_optimization", {}), dict):
        raise ConfigError(f"{where}: expected an object of options, and an object in zero_optimization.")
    _check_names(options, _ALLOWED, "", where)
    _check_names(options.get("zero_optimization", {}), _ALLOWED_OF_ZERO, "zero_optimization.", where)
    return options


def _check_names(options: Mapping[str, Any], allowed: frozenset[str], prefix: str, where: str) -> None:
    for name in options:
        if instead := _SET_ELSEWHERE.get(prefix + name):
            raise ConfigError(f"{where}: {prefix}{name} is set by the platform; use {instead}.")
        if name not in allowed:
            raise ConfigError(
                f"{where}: {prefix}{name} is not an option that may be given here; "
                f"expected one of {', '.join(prefix + each for each in sorted(allowed))}."
            )
