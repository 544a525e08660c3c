"""Timed cases: forecasts, training steps and steps of adaptation, beside the plain formulation.

Ours, the next simpler form and the plain model run in the same process in turn, on the same windows, dropout
on in training. The latter two compute in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from forebrain.accelerate import accelerate
from forebrain.accelerate.blocks import Blockwise
from forebrain.benchmarking.ceilings import Ceilings
from forebrain.benchmarking.timing import Patience, Times, time_together
from forebrain.machine import torch_threads
from forebrain.models.base import Interface, Model, SessionInput, SessionTarget
from forebrain.models.poco import Poco, PocoConfig
from forebrain.training.optimise import AdamW

# Forms beside ours: the equations in plain tensor code, and what an executor must beat by 1.3 to stay.
PLAIN, SIMPLER = "plain", "simpler"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# On a CPU a training step of more rows takes too long to repeat.
MAX_TRAINING_ROWS = 40_000
LEARNING_RATE = 1e-4

# The published implementation on one core, milliseconds: (what, units, windows).
PUBLISHED_MS = {
    ("forecast", 300, 1): 11.7,
    ("forecast", 1000, 1): 32.9,
    ("forecast", 5000, 1): 173,
    ("forecast", 20_000, 1): 907,
    ("train", 120, 20): 212,
    ("train", 125, 64): 720,
    ("train", 300, 64): 2063,
    ("train", 5000, 8): 4222,
    ("adapt", 512, 1): 33.5,
}
BATCHES: dict[str, dict[int, tuple[int, ...]]] = {
    "forecast": {300: (1, 64), 1000: (1, 16), 5000: (1, 8), 20_000: (1,), 71_721: (1,)},
    "train": {300: (8, 64), 1000: (1, 16), 5000: (1, 8), 20_000: (1, 2), 71_721: (1,)},
    "adapt": {300: (1,), 1000: (1,), 5000: (1,), 20_000: (1,), 71_721: (1,)},
}
# Sizes for which there is a published figure, besides those above.
ALSO: dict[str, tuple[tuple[int, int], ...]] = {
    "forecast": (),
    "train": ((120, 20), (125, 64)),
    "adapt": ((512, 1),),
}

Step = Callable[[], object]


def _product_flops(total: Sequence[int], left: Sequence[int], right: Sequence[int], **_: Any) -> int:
    """FLOPs of total += left @ right in place, which torch's counter leaves out; arguments are shapes."""
    return 2 * math.prod(left) * right[-1]


def _fused_flops(rows: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """FLOPs of a linear layer fused with what follows it, which the counter leaves out too."""
    return 2 * math.prod(rows) * out_shape[-1]


_LEFT_OUT: dict[Any, Callable[..., int]] = {
    torch.ops.aten.addmm_: _product_flops,
    torch.ops.aten.baddbmm_: _product_flops,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _LEFT_OUT[torch.ops.mkldnn._linear_pointwise] = _fused_flops


@dataclass(frozen=True)
class Case:
    """One row of the benchmark but for the dtype.

    Attributes:
        what: forecast, train or adapt.
        units: of one session.
        batch: windows of it.
    """

    what: str
    units: int
    batch: int

    @property
    def rows(self) -> int:
        return self.units * self.batch


def cases(what: str, units: Sequence[int], device: torch.device) -> Iterator[Case]:
    """The cases of one kind for the given sizes, those with a published figure among them."""
    chosen = [(size, batch) for size in units for batch in BATCHES[what].get(size, (1,))]
    chosen += [pair for pair in ALSO[what] if len(units) > 1]
    for size, batch in sorted(chosen):
        case = Case(what, size, batch)
        if what != "train" or device.type == "cuda" or case.rows <= MAX_TRAINING_ROWS:
            yield case


def time_case(
    case: Case, device: torch.device, patience: Patience, ceilings: Ceilings
) -> list[dict[str, Any]]:
    """A row for each dtype; see `forebrain benchmark` for what is in it."""
    torch.manual_seed(0)
    times = time_together(_STEPS[case.what](case, device), device, patience)
    flops = _flops(case, device)
    return [
        _row(case, name, flops[name], times[name], times[PLAIN], times[SIMPLER], device, ceilings)
        for name in DTYPES
    ]


def _flops(case: Case, device: torch.device) -> dict[str, int]:
    """FLOPs of a step in each dtype, counted on one thread; only PyTorch's operations are seen."""
    flops = {}
    with torch_threads(1):
        steps = _STEPS[case.what](case, device)
        for name in DTYPES:
            steps[name]()  # a stream's first window prepares the session
            with FlopCounterMode(display=False, custom_mapping=_LEFT_OUT) as counter:
                steps[name]()
            flops[name] = counter.get_total_flops()
    return flops


def _row(
    case: Case,
    dtype: str,
    flops: int,
    own: Times,
    plain: Times,
    simpler: Times,
    device: torch.device,
    ceilings: Ceilings,
) -> dict[str, Any]:
    seconds = own.median_ms / 1e3
    least_bytes = _least_bytes(case, DTYPES[dtype].itemsize)
    published = None
    if (torch.get_num_threads(), device.type) == (1, "cpu"):
        published = PUBLISHED_MS.get((case.what, case.units, case.batch))
    return {
        "what": case.what,
        "units": case.units,
        "batch": case.batch,
        "rows": case.rows,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "dtype": dtype,
        "repetitions": len(own.seconds),
        "median_ms": own.median_ms,
        "best_ms": own.best_ms,
        "p99_ms": own.p99_ms,
        "plain_median_ms": plain.median_ms,
        "plain_best_ms": plain.best_ms,
        "plain_ratio": plain.median_ms / own.median_ms,
        "simpler_median_ms": simpler.median_ms,
        "simpler_ratio": simpler.median_ms / own.median_ms,
        "published_ms": published,
        "published_ratio": None if published is None else published / own.median_ms,
        "rows_per_s": case.rows / seconds,
        "peak_bytes": own.peak_bytes,
        "plain_peak_bytes": plain.peak_bytes,
        "flops": flops,
        "flops_per_s": flops / seconds,
        "of_flops_ceiling": flops / seconds / ceilings.flops_per_s[dtype],
        "bytes_per_s": least_bytes / seconds,
        "of_bytes_ceiling": least_bytes / seconds / ceilings.bytes_per_s,
    }


def _least_bytes(case: Case, itemsize: int) -> int:
    """Bytes that have to be read and written even if nothing else ever left the processor."""
    config = PocoConfig()
    windows = 4 * case.rows * (config.context + config.horizon)
    embeddings = 4 * case.units * config.width
    if case.what == "forecast":
        projected = itemsize * case.units * 2 * config.feed_forward_multiple * config.width
        return windows + embeddings + projected
    # Parameter, gradient and two moments are read, and all but the gradient written.
    moved = 7 * embeddings
    if case.what == "train":
        moved += 7 * 4 * sum(parameter.numel() for parameter in Poco(config).parameters())
    return windows + moved


def _model(device: torch.device) -> Poco:
    """A model with random FiLM weights: they start at zero, and zeros are faster than what comes later."""
    model = Poco(PocoConfig())
    for parameter in model.forecaster.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model.to(device)


def _windows(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    config = PocoConfig()
    context = torch.randn(case.batch, config.context, case.units, device=device)
    return context, torch.randn(case.batch, config.horizon, case.units, device=device)


def _forecast_steps(case: Case, device: torch.device) -> Mapping[str, Step]:
    """Forecasts with weights and interface fixed, as a live forecaster has them, a window at a time."""
    model = _model(device).eval()
    interface = model.new_interface(case.units).to(device)
    context, _ = _windows(case, device)

    def whole_batch(form: Model) -> None:
        with torch.inference_mode():
            form.forecast([SessionInput(context, interface, 0)])

    def one_by_one(form: Model) -> None:
        with torch_threads(1), torch.inference_mode():
            for window in context:
                form.forecast([SessionInput(window[None], interface, 0)])

    threads = torch.get_num_threads()
    ours = {name: accelerate(model, "stream", dtype, threads=threads) for name, dtype in DTYPES.items()}
    steps: dict[str, Step] = {name: partial(one_by_one, form) for name, form in ours.items()}
    simpler = accelerate(model, "adapt")
    return {**steps, SIMPLER: partial(whole_batch, simpler), PLAIN: partial(whole_batch, model)}


def _training_steps(case: Case, device: torch.device) -> Mapping[str, Step]:
    model = _model(device).train()
    interface = model.new_interface(case.units).to(device)
    parameters = [*model.parameters(), *interface.parameters()]
    move = _mover(parameters, amsgrad=True)
    ours = {name: accelerate(model, "train", dtype) for name, dtype in DTYPES.items()}
    return _learning(model, interface, case, device, ours, Blockwise(model, torch.float32), move)


def _adaptation_steps(case: Case, device: torch.device) -> Mapping[str, Step]:
    model = _model(device).eval().requires_grad_(False)
    interface = model.new_interface(case.units).to(device)
    move = _mover(list(interface.parameters()), amsgrad=False)
    ours = {name: accelerate(model, "adapt", dtype) for name, dtype in DTYPES.items()}
    return _learning(model, interface, case, device, ours, Blockwise(model, torch.float32), move)


def _learning(
    model: Poco,
    interface: Interface,
    case: Case,
    device: torch.device,
    ours: Mapping[str, Model],
    simpler: Model,
    move: Callable[[], None],
) -> Mapping[str, Step]:
    """Optimiser steps on the loss of each of ours, of the next simpler form and of the plain model."""
    context, future = _windows(case, device)
    entry = SessionInput(context, interface, 0)
    target = SessionTarget.of(entry, future, "squared").averaged()

    def step(form: Model) -> None:
        form.loss([entry], [target]).backward()
        move()

    forms = {**ours, SIMPLER: simpler, PLAIN: model}
    return {name: partial(step, form) for name, form in forms.items()}


def _mover(parameters: list[nn.Parameter], amsgrad: bool) -> Callable[[], None]:
    optimiser = AdamW(parameters, weight_decay=1e-4, amsgrad=amsgrad)

    def move() -> None:
        nn.utils.clip_grad_norm_(parameters, 5.0, foreach=True)
        optimiser.step(LEARNING_RATE)
        optimiser.clear_gradients()

    return move


_STEPS: dict[str, Callable[[Case, torch.device], Mapping[str, Step]]] = {
    "forecast": _forecast_steps,
    "train": _training_steps,
    "adapt": _adaptation_steps,
}
