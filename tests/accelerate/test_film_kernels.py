"""The fused kernels are right, can be compiled, and are done without where they cannot be had."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from forebrain.accelerate import accelerate, film_kernels
from forebrain.accelerate.film_kernels import FilmWeights, FusedFilm, runs_kernels
from small_models import SMALL, batch, build

CHECKS = Path(__file__).with_name("film_kernel_checks.py")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@needs_triton
@pytest.mark.parametrize("where", ["interpreter", pytest.param("gpu", marks=needs_cuda)])
def test_kernels_compute_what_the_plain_formulation_does(where: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if where == "interpreter" else "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


class NoGpu:
    """What Triton asks its driver before it compiles what is to be launched."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.get_current_target = lambda: GPUTarget("cuda", capability, 32)
        self.get_current_device = lambda: capability
        self.get_current_stream = lambda device: 0


@needs_triton
@pytest.mark.parametrize(("capability", "dtype"), [(80, torch.float32), (90, torch.bfloat16)])
def test_what_is_launched_compiles_without_spilling_and_fits_small_gpus(
    capability: int,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    from triton.runtime import JITFunction, driver

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DUMP_PTXAS_LOG", "1")
    monkeypatch.setattr(driver, "_active", NoGpu(capability))
    compiled = []

    def compile_only(kernel: JITFunction, grid: tuple[int, int]) -> Callable[..., None]:
        return lambda *args, **kwargs: compiled.append(kernel.run(*args, grid=grid, warmup=True, **kwargs))

    monkeypatch.setattr(JITFunction, "__getitem__", compile_only)
    horizon, width, context, film_width = 16, 128, 48, 1024
    shapes = (
        (horizon, film_width), (film_width, width), (film_width,), (horizon, width), (horizon,),
        (film_width, context), (film_width,),
    )  # fmt: skip
    weights = FilmWeights._make(torch.zeros(shape, dtype=dtype) for shape in shapes)
    refined, frames, grad_out = (torch.zeros(70, size, dtype=dtype) for size in (width, context, horizon))
    fused = FusedFilm(weights)
    fused.forecast(refined, frames)
    fused.backward(grad_out, refined, frames, weights)

    assert len(compiled) == 3
    spilled = re.findall(r"(\d+) bytes spill", capsys.readouterr().out)
    assert spilled == ["0", "0"] * 3
    for kernel in compiled:
        assert kernel.metadata.shared <= 99 * 1024
        # Tensor cores would round float32 to TF32. Nothing is added in an order that is left to chance.
        assert ("mma" in kernel.asm["ptx"]) == (dtype == torch.bfloat16)
        assert not re.search(r"\b(atom|red)\.", kernel.asm["ptx"])


@pytest.mark.parametrize("lacking", ["triton", pytest.param("driver", marks=needs_triton), "agreement"])
def test_what_is_lacking_is_said_once_and_pytorch_does_the_work(
    lacking: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(SMALL).eval()
    inputs = batch(model, [(2, 9)])
    executor = accelerate(model, "train", kernels="fused")
    with torch.no_grad():
        expected = executor.forecast(inputs)
    monkeypatch.setattr(film_kernels, "runs_kernels", lambda device: True)
    if lacking == "triton":
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, "forebrain.accelerate.film_triton", raising=False)
        monkeypatch.delattr("forebrain.accelerate.film_triton", raising=False)
    elif lacking == "agreement":
        monkeypatch.setattr(film_kernels, "_error", lambda *_: float("nan"))
    film_kernels._agrees.cache_clear()
    for _ in range(2):
        with torch.no_grad():
            for ours, forecast in zip(executor.forecast(inputs), expected, strict=True):
                assert torch.equal(ours, forecast)
    (record,) = caplog.records
    # Of a CPU's rows Triton says this or that, depending on whether there is a GPU beside it.
    assert {"triton": "triton", "driver": "Error", "agreement": "wrong by nan"}[lacking] in record.message
    film_kernels._agrees.cache_clear()


def test_old_gpus_those_of_amd_and_cpus_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert runs_kernels(gpu)
    assert not runs_kernels(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not runs_kernels(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 4))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not runs_kernels(gpu)
