"""What the fused kernels compute; test_film_kernels.py runs this file, in Triton's interpreter and on a GPU.

Whether a kernel is interpreted is decided when Triton is imported, so not in the process of other tests.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from forebrain.accelerate import film_kernels
from forebrain.accelerate.film_kernels import MOST_ERROR, FilmWeights, FusedFilm, Sizes
from forebrain.accelerate.folded_poco import FoldedPoco
from forebrain.models.base import Model, SessionInput
from forebrain.models.poco import PocoConfig
from small_models import SMALL, batch, build, gradients, targets_of

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
# Nothing is a multiple of a tile or a power of two; or everything is; or there are several slices of columns.
SIZES = [Sizes(5, 24, 20, 50), Sizes(16, 16, 32, 64), Sizes(17, 33, 20, 70)]


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has them run here too; how many rows they were asked to forecast."""
    if INTERPRETED:
        import numpy as np
        from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

        def floats(handle: TensorHandle) -> np.ndarray:
            # Triton 3.7 multiplies the bits of bfloat16 as if they were integers.
            data = handle.data
            return (data.astype(np.uint32) << 16).view(np.float32) if data.dtype == np.uint16 else data

        def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
            return TensorHandle(floats(a) @ floats(b) + d.data, d.dtype.scalar)

        monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
        monkeypatch.setattr(film_kernels, "runs_kernels", lambda device: True)
        monkeypatch.setattr(film_kernels, "LEAST_ROWS_OF_SUM", 50)
        monkeypatch.setattr(film_kernels, "TRIED_ROWS", 110)  # two sums, of unequal parts
    asked: list[int] = []
    forecast = FusedFilm.forecast

    def counted(self: FusedFilm, refined: Tensor, context: Tensor) -> Tensor:
        asked.append(len(refined))
        return forecast(self, refined, context)

    monkeypatch.setattr(FusedFilm, "forecast", counted)
    return asked


def drawn(sizes: Sizes, num_rows: int, dtype: torch.dtype) -> tuple[FilmWeights, Tensor, Tensor, Tensor]:
    """Weights, e1, context and the gradient of forecasts."""
    torch.manual_seed(0)
    horizon, width, num_frames, film_width = sizes
    shapes = (
        (horizon, film_width), (film_width, width), (film_width,), (horizon, width), (horizon,),
        (film_width, num_frames), (film_width,),
    )  # fmt: skip
    weights = FilmWeights._make(torch.randn(shape).to(DEVICE, dtype) * 0.3 for shape in shapes)
    rows = [torch.randn(num_rows, size).to(DEVICE, dtype) for size in (width, num_frames, horizon)]
    return weights, *rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("sizes", SIZES)
def test_forecasts_and_all_gradients_of_random_rows_agree_with_the_formula(
    sizes: Sizes, dtype: torch.dtype
) -> None:
    # The interpreter cuts bfloat16 off, where a GPU rounds.
    assert film_kernels._error(DEVICE, dtype, sizes) < MOST_ERROR[dtype] / 2


@pytest.mark.parametrize("num_rows", [0, 1, 64])
def test_any_number_of_rows_is_forecast_and_learnt_from(num_rows: int) -> None:
    weights, refined, context, grad_out = drawn(SIZES[0], num_rows, torch.float32)
    fused = FusedFilm(weights)
    hidden = torch.relu(context @ weights.hidden.T + weights.hidden_bias)
    scale = refined @ weights.scale.T + weights.scale_bias
    expected = (hidden * scale) @ weights.out.T + refined @ weights.shift.T + weights.shift_bias
    torch.testing.assert_close(fused.forecast(refined, context), expected, rtol=1e-4, atol=1e-4)
    totals = FilmWeights._make(torch.zeros_like(each) for each in weights)
    grad_refined = fused.backward(grad_out, refined, context, totals)
    assert grad_refined.shape == refined.shape
    torch.testing.assert_close(totals.out, grad_out.T @ (hidden * scale), rtol=1e-4, atol=1e-4)


def test_gradients_are_added_to_what_is_wanted_and_nothing_else_is_formed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, refined, context, grad_out = drawn(SIZES[0], 70, torch.float32)
    fused, ones = FusedFilm(weights), torch.ones_like(weights.hidden)
    every = FilmWeights._make(torch.zeros_like(each) for each in weights)
    grad_refined = fused.backward(grad_out, refined, context, every)
    some = FilmWeights(None, None, None, None, None, ones, None)
    assert torch.equal(fused.backward(grad_out, refined, context, some), grad_refined)
    torch.testing.assert_close(ones, every.hidden + 1)

    monkeypatch.setattr(FusedFilm, "_of_wide", None)
    frozen = FilmWeights._make([None] * 7)
    assert torch.equal(fused.backward(grad_out, refined, context, frozen), grad_refined)


def test_what_is_not_a_number_is_seen_in_forecasts_and_gradients() -> None:
    weights, refined, context, grad_out = drawn(SIZES[0], 3, torch.float32)
    weights.hidden[7, 2] = torch.nan
    fused = FusedFilm(weights)
    assert fused.forecast(refined, context).isnan().all()
    totals = FilmWeights._make(torch.zeros_like(each) for each in weights)
    assert fused.backward(grad_out, refined, context, totals).isnan().all()
    assert totals.out[:, 7].isnan().all() and totals.out[:, 6].isfinite().all()


def test_the_same_rows_give_the_same_bits() -> None:
    weights, refined, context, grad_out = drawn(SIZES[0], 130 if INTERPRETED else 100_000, torch.bfloat16)
    fused, found = FusedFilm(weights), []
    for _ in range(2):
        totals = FilmWeights._make(torch.zeros_like(each, dtype=torch.float32) for each in weights)
        found.append([fused.forecast(refined, context), fused.backward(grad_out, refined, context, totals)])
        found[-1] += totals
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def model_and_inputs(changes: dict | None = None) -> tuple[Model, list[SessionInput]]:
    config = PocoConfig(**{**SMALL.__dict__, **(changes or {})})
    model = build(config)
    # Several sessions in a block, training with a shared first product and without.
    inputs = batch(model, [(3, 5), (0, 4), (2, 11), (1, 2)])
    for entry in inputs:
        entry.interface.to(DEVICE)
    moved = [SessionInput(e.context.to(DEVICE), e.interface, e.dataset) for e in inputs]
    return model.to(DEVICE), moved


def test_poco_with_kernels_equals_the_plain_model(kernels: list[int]) -> None:
    model, inputs = model_and_inputs()
    executor = FoldedPoco(model, torch.float32, kernels=True)
    targets = targets_of(inputs, SMALL.horizon)
    expected_loss = model.loss(inputs, targets)
    expected_gradients = gradients(model, inputs, expected_loss)
    with torch.no_grad():
        for ours, theirs in zip(executor.forecast(inputs), model.forecast(inputs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    loss = executor.loss(inputs, targets)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients(model, inputs, loss).items():
        scale = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(
            gradient, expected_gradients[name], rtol=1e-3, atol=1e-4 * max(1, scale), msg=name
        )
    # After the trial one block each: forecasts, and the loss.
    assert kernels[-2:] == [15 + 22 + 2] * 2 and len(kernels) <= 3


def test_bfloat16_with_kernels_is_as_near_to_float32_as_without(kernels: list[int]) -> None:
    model, inputs = model_and_inputs()
    targets = targets_of(inputs, SMALL.horizon)
    exact = gradients(model, inputs, model.loss(inputs, targets))

    def missed(with_kernels: bool) -> float:
        executor = FoldedPoco(model, torch.bfloat16, kernels=with_kernels)
        found = gradients(model, inputs, executor.loss(inputs, targets))
        return max(((found[name] - exact[name]).norm() / (exact[name].norm() + 1)).item() for name in exact)

    with_kernels = missed(True)
    asked = len(kernels)
    without = missed(False)
    assert len(kernels) == asked > 0
    assert with_kernels < 2 * without < 0.1


def test_units_adapt_to_a_frozen_backbone_with_kernels(kernels: list[int]) -> None:
    model, inputs = model_and_inputs()
    model.requires_grad_(False)
    targets = targets_of(inputs, SMALL.horizon)
    executor = FoldedPoco(model, torch.float32, kernels=True)
    found = gradients(model, inputs, executor.loss(inputs, targets))
    assert kernels
    expected = gradients(model, inputs, model.loss(inputs, targets))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize(
    "changes", [{"film_layers": 2}, {"context": 72}, {"horizon": 65}, {"width": 144}], ids=str
)
def test_other_sizes_are_left_to_pytorch(changes: dict, kernels: list[int]) -> None:
    model, inputs = model_and_inputs(changes)
    with torch.no_grad():
        FoldedPoco(model, torch.float32, kernels=True).forecast(inputs)
    assert not kernels
