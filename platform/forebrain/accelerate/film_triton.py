"""The FiLM forecaster of unit-windows in one Triton kernel each way, for GPUs.

    y = Wo (h * gamma) + Wf e1 + bf    h = relu(Wh x + bh), gamma = Wg e1 + bg, x the context

h and gamma are 1,024 wide, where what goes in and comes out is 128, 48 and 16. Written to a GPU's memory and
read again, they are most of what a unit-window moves; here a program forms a few columns of them for a few
unit-windows, in registers, and uses them up. Backwards they are formed again: one kernel passes gradients on
to unit-windows, another sums those of weights. That one is split over unit-windows too, and its partial sums
are added afterwards in a fixed order: nothing is added atomically, and no size is found by timing, so that a
run that goes on computes what it would have computed.

Products of float32 are exact (no TF32), those of bfloat16 are summed in float32. accelerate/film_kernels.py
launches these kernels, where there are Triton and a GPU, and tries them first.
"""

# What the arguments of a kernel are is Triton's affair.
# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(pointer, rows, num_rows, columns, num_columns, stride: tl.constexpr):
    """The part [rows, columns] of a matrix, zero beyond it."""
    inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    return tl.load(pointer + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _dot(left, right):
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _hidden(context, weight, bias, columns, M: tl.constexpr, C: tl.constexpr, C_UP: tl.constexpr):
    """Some columns of h."""
    chunk = _load(weight, columns, M, tl.arange(0, C_UP), C, C)
    shift = tl.load(bias + columns, mask=columns < M, other=0.0).to(tl.float32)
    before = _dot(context, tl.trans(chunk)) + shift[None, :]
    return tl.where(before <= 0, 0.0, before)  # What is not a number stays so; tl.maximum would drop it.


@triton.jit
def _scale(refined, chunk, bias, columns, M: tl.constexpr):
    """Some columns of gamma."""
    shift = tl.load(bias + columns, mask=columns < M, other=0.0).to(tl.float32)
    return _dot(refined, tl.trans(chunk)) + shift[None, :]


@triton.jit(do_not_specialize=["num_rows"])
def forecast_rows(
    forecast, refined, context, out, scale, scale_bias, shift, shift_bias, hidden, hidden_bias, num_rows,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    H_UP: tl.constexpr, D_UP: tl.constexpr, C_UP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program i forecasts tile i of unit-windows."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    horizon, of_refined, of_context = tl.arange(0, H_UP), tl.arange(0, D_UP), tl.arange(0, C_UP)
    e1 = _load(refined, rows, num_rows, of_refined, D, D)
    x = _load(context, rows, num_rows, of_context, C, C)
    dtype = refined.dtype.element_ty
    by_shift = _load(shift, horizon, H, of_refined, D, D)
    bias = tl.load(shift_bias + horizon, mask=horizon < H, other=0.0).to(tl.float32)
    total = _dot(e1, tl.trans(by_shift)) + bias[None, :]
    for first in range(0, M, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        h = _hidden(x, hidden, hidden_bias, columns, M, C, C_UP)
        gamma = _scale(e1, _load(scale, columns, M, of_refined, D, D), scale_bias, columns, M)
        by_out = _load(out, horizon, H, columns, M, M)
        total += _dot((h * gamma).to(dtype), tl.trans(by_out))
    inside = (rows < num_rows)[:, None] & (horizon < H)[None, :]
    tl.store(forecast + rows[:, None] * H + horizon[None, :], total, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def grad_rows(
    grad_refined, grad_out, context, out, scale, shift, hidden, hidden_bias, num_rows,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    H_UP: tl.constexpr, D_UP: tl.constexpr, C_UP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program i forms the gradient of e1 of tile i of unit-windows."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    horizon, of_refined, of_context = tl.arange(0, H_UP), tl.arange(0, D_UP), tl.arange(0, C_UP)
    grad_y = _load(grad_out, rows, num_rows, horizon, H, H)
    x = _load(context, rows, num_rows, of_context, C, C)
    dtype = grad_out.dtype.element_ty
    total = _dot(grad_y, _load(shift, horizon, H, of_refined, D, D))
    for first in range(0, M, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        h = _hidden(x, hidden, hidden_bias, columns, M, C, C_UP)
        grad_gamma = _dot(grad_y, _load(out, horizon, H, columns, M, M)) * h
        total += _dot(grad_gamma.to(dtype), _load(scale, columns, M, of_refined, D, D))
    inside = (rows < num_rows)[:, None] & (of_refined < D)[None, :]
    tl.store(grad_refined + rows[:, None] * D + of_refined[None, :], total, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def grad_weights(
    sum_out, sum_scale, sum_scale_bias, sum_hidden, sum_hidden_bias,
    grad_out, refined, context, out, scale, scale_bias, hidden, hidden_bias, num_rows,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    H_UP: tl.constexpr, D_UP: tl.constexpr, C_UP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program (i, j) of n by m sums slice i of columns over tile j of unit-windows and every m-th after."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    horizon, of_refined, of_context = tl.arange(0, H_UP), tl.arange(0, D_UP), tl.arange(0, C_UP)
    dtype = refined.dtype.element_ty
    by_scale = _load(scale, columns, M, of_refined, D, D)
    by_out = _load(out, horizon, H, columns, M, M)
    of_out = tl.zeros((COLUMNS, H_UP), tl.float32)
    of_scale = tl.zeros((COLUMNS, D_UP), tl.float32)
    of_hidden = tl.zeros((COLUMNS, C_UP), tl.float32)
    of_scale_bias = tl.zeros((COLUMNS,), tl.float32)
    of_hidden_bias = tl.zeros((COLUMNS,), tl.float32)
    for first in range(tl.program_id(1) * ROWS, num_rows, tl.num_programs(1) * ROWS):
        # Unit-windows beyond the last have gradients of zero, and so add nothing.
        rows = first + tl.arange(0, ROWS).to(tl.int64)
        grad_y = _load(grad_out, rows, num_rows, horizon, H, H)
        e1 = _load(refined, rows, num_rows, of_refined, D, D)
        x = _load(context, rows, num_rows, of_context, C, C)
        h = _hidden(x, hidden, hidden_bias, columns, M, C, C_UP)
        gamma = _scale(e1, by_scale, scale_bias, columns, M)
        grad_modulated = _dot(grad_y, by_out)
        grad_gamma = grad_modulated * h
        grad_h = tl.where(h <= 0, 0.0, grad_modulated * gamma)
        of_out += _dot(tl.trans((h * gamma).to(dtype)), grad_y)
        of_scale += _dot(tl.trans(grad_gamma.to(dtype)), e1)
        of_hidden += _dot(tl.trans(grad_h.to(dtype)), x)
        of_scale_bias += tl.sum(grad_gamma, axis=0)
        of_hidden_bias += tl.sum(grad_h, axis=0)
    # Row `columns` of partial sum j of each.
    inside, lines = columns < M, tl.program_id(1) * M + columns
    tl.store(
        sum_out + lines[:, None] * H + horizon[None, :], of_out,
        mask=inside[:, None] & (horizon < H)[None, :],
    )  # fmt: skip
    tl.store(
        sum_scale + lines[:, None] * D + of_refined[None, :], of_scale,
        mask=inside[:, None] & (of_refined < D)[None, :],
    )  # fmt: skip
    tl.store(
        sum_hidden + lines[:, None] * C + of_context[None, :], of_hidden,
        mask=inside[:, None] & (of_context < C)[None, :],
    )  # fmt: skip
    tl.store(sum_scale_bias + lines, of_scale_bias, mask=inside)
    tl.store(sum_hidden_bias + lines, of_hidden_bias, mask=inside)
