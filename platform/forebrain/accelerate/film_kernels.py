"""The FiLM forecaster of a block of unit-windows by Triton kernels (accelerate/film_triton.py), on request.

They take the place of operations of accelerate/unit_decoder_passes.py on NVIDIA's GPUs that are new enough,
where Triton is installed (PyTorch for CUDA on Linux brings it), for one hidden layer and sizes that fit.
Before the first use of their kind they are tried on random unit-windows and must agree with the formula:
where they do not, or cannot be compiled, a warning says why and PyTorch's operations do the work. That is
decided once in a process, by nothing that changes between two runs on one machine.

Triton is imported only where a GPU meets it.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.accelerate.unit_decoder_weights import DecoderWeights

# Of the GPU: it has bfloat16 in products.
LEAST_CAPABILITY = (8, 0)
# Unit-windows over which a program sums weights' gradients at least, and how many programs share them at
# most: times 16 or 32 slices of columns they are a few for each processor of a GPU.
LEAST_ROWS_OF_SUM = 512
MOST_SUMS = 32
# Of what the kernels compute when they are tried, relative to its norm.
MOST_ERROR = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# More than one of the kernels' tiles, with a part of one, and two sums.
TRIED_ROWS = 2 * LEAST_ROWS_OF_SUM + 1

_log = logging.getLogger(__name__)


class FilmWeights(NamedTuple):
    """Those of `DecoderWeights` that forecast, or their gradients, which are None for what is frozen."""

    out: Any
    scale: Any
    scale_bias: Any
    shift: Any
    shift_bias: Any
    hidden: Any
    hidden_bias: Any

    @classmethod
    def of(cls, weights: DecoderWeights) -> FilmWeights:
        """The forecaster's weights of a decoder with one hidden layer."""
        return cls(
            weights.out_weight, weights.scale_weight, weights.scale_bias, weights.shift_weight,
            weights.shift_bias, *weights.hidden,
        )  # fmt: skip


class Sizes(NamedTuple):
    """H, d, C and M."""

    horizon: int
    width: int
    context: int
    film_width: int

    @classmethod
    def of(cls, weights: FilmWeights) -> Sizes:
        return cls(len(weights.out), weights.scale.shape[1], weights.hidden.shape[1], len(weights.hidden))

    @property
    def fit(self) -> bool:
        """Whether tiles of this size fit the 99 KiB of shared memory that every such GPU lends a program."""
        return self.horizon <= 64 and self.width <= 128 and self.context <= 64


class Tile(NamedTuple):
    """The part of the products that a program works on at once.

    Attributes:
        rows: unit-windows of a step.
        columns: of the M hidden values.
        warps: threads by 32.
    """

    rows: int
    columns: int
    warps: int

    @property
    def options(self) -> dict[str, int]:
        """Options of the compiler. Three stages, its default, take half as much shared memory again."""
        return {"num_warps": self.warps, "num_stages": 2}


# Of those that were compiled (docs/LOG.md), the largest that leave in registers what belongs there.
TILES = {
    ("forecast_rows", torch.float32): Tile(64, 32, 4),
    ("forecast_rows", torch.bfloat16): Tile(64, 64, 4),
    ("grad_rows", torch.float32): Tile(64, 32, 8),
    ("grad_rows", torch.bfloat16): Tile(64, 64, 4),
    ("grad_weights", torch.float32): Tile(16, 64, 8),
    ("grad_weights", torch.bfloat16): Tile(64, 32, 4),
}


class FusedFilm:
    """The forecaster by kernels.

    Args:
        weights: in the dtype of the products.
    """

    def __init__(self, weights: FilmWeights) -> None:
        self.weights = FilmWeights._make(each.contiguous() for each in weights)
        self.sizes = Sizes.of(weights)

    def forecast(self, refined: Tensor, context: Tensor) -> Tensor:
        """Forecasts [r, H] of unit-windows.

        Args:
            refined: [r, d], e1.
            context: [r, C]; like all that is passed contiguous, and in the dtype of the weights.
        """
        forecast = refined.new_empty(len(refined), self.sizes.horizon)
        self._launch("forecast_rows", len(refined), 0, forecast, refined, context, *self.weights)
        return forecast

    def backward(self, grad_out: Tensor, refined: Tensor, context: Tensor, gradients: FilmWeights) -> Tensor:
        """The gradient of e1 [r, d], given that of forecasts [r, H].

        Adds those of weights to what is not None of `gradients`, but for the shift's, which has nothing wide.
        """
        weights = self.weights
        grad_refined = torch.empty_like(refined)
        self._launch(
            "grad_rows", len(refined), 0, grad_refined, grad_out, context,
            weights.out, weights.scale, weights.shift, weights.hidden, weights.hidden_bias,
        )  # fmt: skip
        wide = (
            gradients.out, gradients.scale, gradients.scale_bias, gradients.hidden, gradients.hidden_bias
        )  # fmt: skip
        if any(each is not None for each in wide):
            for total, grad in zip(wide, self._of_wide(grad_out, refined, context), strict=True):
                if total is not None:
                    total.add_(grad)
        return grad_refined

    def _of_wide(self, grad_out: Tensor, refined: Tensor, context: Tensor) -> list[Tensor]:
        """Gradients of weights in the order of `backward`, float32."""
        weights = self.weights
        horizon, width, num_frames, film_width = self.sizes
        num_sums = max(1, min(MOST_SUMS, len(refined) // LEAST_ROWS_OF_SUM))
        shapes = (
            (film_width, horizon), (film_width, width), (film_width,), (film_width, num_frames), (film_width,)
        )  # fmt: skip
        sums = [refined.new_empty(num_sums, *shape, dtype=torch.float32) for shape in shapes]
        self._launch(
            "grad_weights", len(refined), num_sums, *sums, grad_out, refined, context,
            weights.out, weights.scale, weights.scale_bias, weights.hidden, weights.hidden_bias,
        )  # fmt: skip
        of_out, *others = (each.sum(dim=0) for each in sums)
        return [of_out.T, *others]

    def _launch(self, name: str, num_rows: int, num_sums: int, *tensors: Tensor) -> None:
        """Starts a program for each tile of unit-windows or, given `num_sums`, so many a slice of columns."""
        from forebrain.accelerate import film_triton

        tile = TILES[name, self.weights.out.dtype]
        by_rows = -(-num_rows // tile.rows), 1
        by_columns = -(-self.sizes.film_width // tile.columns), num_sums
        kernel = getattr(film_triton, name)[by_columns if num_sums else by_rows]
        kernel(*tensors, num_rows, **constants(tile, self.sizes), **tile.options)


def constants(tile: Tile, sizes: Sizes) -> dict[str, int]:
    """The constants of a compiled kernel; sizes that products sum over are rounded up to those they take."""
    horizon, width, context = (max(16, 1 << (size - 1).bit_length()) for size in sizes[:3])
    return {
        "H": sizes.horizon, "D": sizes.width, "C": sizes.context, "M": sizes.film_width,
        "H_UP": horizon, "D_UP": width, "C_UP": context, "ROWS": tile.rows, "COLUMNS": tile.columns,
    }  # fmt: skip


def film_kernels(weights: DecoderWeights, device: torch.device) -> FusedFilm | None:
    """The forecaster by kernels; None where PyTorch's operations have to do.

    Args:
        weights: in the dtype of the products.
        device: theirs.
    """
    dtype = weights.out_weight.dtype
    if not runs_kernels(device) or dtype not in MOST_ERROR or len(weights.hidden) != 2:
        return None
    film = FilmWeights.of(weights)
    sizes = Sizes.of(film)
    return FusedFilm(film) if sizes.fit and _agrees(device, dtype, sizes) else None


def runs_kernels(device: torch.device) -> bool:
    """Whether a device would run the kernels, with Triton."""
    if device.type != "cuda" or torch.version.cuda is None:
        return False  # On AMD's GPUs, which PyTorch calls cuda too, they were never compiled.
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


@functools.cache
def _agrees(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> bool:
    """Whether the kernels can be had here and are right. Says why not."""
    try:
        error = _error(device, dtype, sizes)
    except Exception as failed:  # Of a compiler, a linker or a driver: whatever it is, there is another way.
        problem = f"{type(failed).__name__}: {failed}"
    else:
        problem = "" if error <= MOST_ERROR[dtype] else f"they are wrong by {error:.1e}"
    if problem:
        _log.warning(
            "%s does without fused kernels for %s, and uses PyTorch's operations: %s", device, dtype, problem
        )
    return not problem


def _error(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> float:
    """The largest error of what the kernels compute of random unit-windows, relative to its norm."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, device=device)
        return (drawn / shape[-1] ** 0.5).to(dtype)

    horizon, width, num_frames, film_width = sizes
    with torch.inference_mode(False), torch.enable_grad():
        weights = FilmWeights(
            out=normal(horizon, film_width), scale=normal(film_width, width), scale_bias=normal(film_width),
            shift=normal(horizon, width), shift_bias=normal(horizon),
            hidden=normal(film_width, num_frames), hidden_bias=normal(film_width),
        )  # fmt: skip
        refined, context, grad_out = (
            normal(TRIED_ROWS, size) * size**0.5 for size in (width, num_frames, horizon)
        )
        fused = FusedFilm(weights)
        gradients = FilmWeights._make(torch.zeros_like(each, dtype=torch.float32) for each in weights)
        found = [fused.forecast(refined, context), fused.backward(grad_out, refined, context, gradients)]

        exact = FilmWeights._make(each.double().requires_grad_() for each in weights)
        e1 = refined.double().requires_grad_()
        modulated = F.linear(context.double(), exact.hidden, exact.hidden_bias).relu()
        modulated = modulated * F.linear(e1, exact.scale, exact.scale_bias)
        forecast = F.linear(modulated, exact.out) + F.linear(e1, exact.shift, exact.shift_bias)
        forecast.backward(grad_out.double())
        expected = [forecast.detach(), e1.grad]
        for name in ("out", "scale", "scale_bias", "hidden", "hidden_bias"):
            found.append(getattr(gradients, name))
            expected.append(getattr(exact, name).grad)
        errors = [
            (ours - theirs).norm() / theirs.norm() for ours, theirs in zip(found, expected, strict=True)
        ]
        return torch.stack(errors).max().item()
