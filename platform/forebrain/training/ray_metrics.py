"""A run's events as metrics of the Ray cluster, which Prometheus collects; cluster/grafana shows them."""

from __future__ import annotations

import string
import urllib.parse

from ray.util.metrics import Gauge

from forebrain.training.events import CheckpointSaved, Event, StepDone, Validated

# Metric, the event that it comes from, the event's field, and its description.
METRICS = (
    ("forebrain_step", StepDone, "step", "optimiser steps done"),
    ("forebrain_loss", StepDone, "loss", "training loss of the last step"),
    ("forebrain_gradient_norm", StepDone, "gradient_norm", "norm of the gradient before clipping"),
    (
        "forebrain_units_x_frames_per_second",
        StepDone,
        "units_x_frames_per_s",
        "activity values read a second",
    ),
    ("forebrain_step_seconds", StepDone, "step_s", "forward, backward and optimiser of a step"),
    ("forebrain_data_wait_seconds", StepDone, "wait_s", "waiting for the data of a step"),
    ("forebrain_communication_seconds", StepDone, "communication_s", "exchange of a step's gradients"),
    ("forebrain_memory_bytes", StepDone, "memory_bytes", "largest memory of the first worker so far"),
    ("forebrain_checkpoint_stall_seconds", CheckpointSaved, "stall_s", "training held up by a checkpoint"),
    (
        "forebrain_goodput",
        CheckpointSaved,
        "goodput",
        "useful time over wall time, since the run was launched",
    ),
    ("forebrain_validation_score", Validated, "score", "score on the validation part"),
)


class RayMetrics:
    """Called with each event on the first worker.

    Args:
        run: the run folder's address, the tag by which runs on a cluster are told apart.
    """

    def __init__(self, run: str) -> None:
        self._gauges = [
            (kind, name, Gauge(metric, description, tag_keys=("run",)))
            for metric, kind, name, description in METRICS
        ]
        for _, _, gauge in self._gauges:  # Ray takes ASCII alone; other letters are written as in a URL
            gauge.set_default_tags({"run": urllib.parse.quote(run, safe=string.printable)})

    def __call__(self, event: Event) -> None:
        for kind, name, gauge in self._gauges:
            if isinstance(event, kind) and (value := getattr(event, name)) is not None:
                gauge.set(value)
