"""Executors: faster forms of a model's equations, each a drop-in for one model and one purpose.

Science never imports this package. An executor is held to the plain model by one shared test, and stays only
while a row of the benchmark shows it at 1.3 times the next simpler form or more (docs/benchmarks.md).
"""

from __future__ import annotations

from typing import Literal

import torch

from forebrain.models.base import Model

# Train: the weights change in each step. Adapt: they are frozen and interfaces change. Stream: nothing
# changes, and windows come one at a time.
Purpose = Literal["train", "adapt", "stream"]
Kernels = Literal["plain", "fused"]


def accelerate(
    model: Model,
    purpose: Purpose,
    dtype: torch.dtype = torch.float32,
    *,
    kernels: Kernels = "plain",
    compile: bool = False,
    threads: int = 1,
) -> Model:
    """The fastest form of a model that is known for a purpose; the model itself where none fits.

    Args:
        model: for `adapt` and `stream` its weights are taken as they are now.
        purpose: what for.
        dtype: of most of the matrix products, float32 or bfloat16.
        kernels: `fused` lets Triton kernels pass FiLM on a GPU that has them.
        compile: pass the plain equations by torch.compile, in `train`.
        threads: that share the units of a large session, in `stream`.
    """
    from forebrain.accelerate.blocks import Blockwise
    from forebrain.accelerate.folded_poco import FoldedPoco, FrozenPoco
    from forebrain.accelerate.streaming_poco import StreamingPoco
    from forebrain.models.poco import Poco

    if compile and purpose == "train":
        compile_equations(model)
        return Blockwise(model, dtype)
    # On a GPU nothing but the plain equations has shown its ratio yet.
    on_cpu = next((each.device.type for each in model.parameters()), "cpu") == "cpu"
    if type(model) is Poco and (on_cpu or kernels == "fused"):
        if purpose == "stream":
            return StreamingPoco(model, dtype, threads)
        if purpose == "adapt" and not any(each.requires_grad for each in model.parameters()):
            return FrozenPoco(model, dtype)
        return FoldedPoco(model, dtype, kernels == "fused")
    return model if purpose == "stream" and dtype == torch.float32 else Blockwise(model, dtype)


def compile_equations(model: Model) -> None:
    """Lets torch.compile pass the plain equations of a model, in place.

    Sizes of sessions differ from step to step, so shapes are compiled as symbols.
    """
    for name in ("encode", "decode") if model.mixes_units == "once" else ("forecast_session",):
        setattr(model, name, torch.compile(getattr(model, name), dynamic=True))
