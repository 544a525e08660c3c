"""Lines of metrics.jsonl are read by people and their scripts: their keys stay."""

from __future__ import annotations

import json
from collections.abc import Callable

from forebrain.training.config import PretrainConfig
from forebrain.training.events import Event, metrics_row

KEYS = {
    "step": "kind step loss gradient_norm learning_rate step_s wait_s communication_s bytes_given "
    "memory_bytes units_x_frames_per_s",
    "validation": "kind step score mse mae correlation interval unit_quantiles num_windows num_sessions "
    "by_horizon by_session seconds",
    "checkpoint": "kind step seconds stall_s goodput",
}


def test_every_line_has_the_keys_that_it_always_had(
    make_config: Callable[..., PretrainConfig], train: Callable[[PretrainConfig], list[Event]]
) -> None:
    events = train(make_config())
    rows = [row for row in map(metrics_row, events) if row is not None]
    assert {row["kind"] for row in rows} == set(KEYS)
    for row in rows:
        assert list(json.loads(json.dumps(row, allow_nan=False))) == KEYS[row["kind"]].split()
