"""The fused kernels are right, can be compiled, and are done without where they cannot be had."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_poco import SMALL, batch, build

from forebrain.models import fused_film
from forebrain.models.fused_film import TILES, Sizes, constants, runs_kernels

CHECKS = Path(__file__).with_name("fused_film_checks.py")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@needs_triton
@pytest.mark.parametrize("where", ["interpreter", pytest.param("gpu", marks=needs_cuda)])
def test_kernels_compute_what_the_plain_formulation_does(where: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if where == "interpreter" else "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
@pytest.mark.parametrize(("capability", "dtype"), [(80, torch.float32), (90, torch.bfloat16)])
def test_kernels_compile_without_spilling_and_fit_small_gpus(
    capability: int,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from forebrain.models import film_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DUMP_PTXAS_LOG", "1")
    for (name, of), tile in TILES.items():
        if of != dtype:
            continue
        kernel = getattr(film_kernel, name)
        fixed = constants(tile, Sizes(horizon=16, width=128, context=48, film_width=1024))
        pointers = {name for name in kernel.arg_names if name not in fixed and name != "num_rows"}
        types = {
            argument: "*fp32" if argument.startswith("sum_") or dtype == torch.float32 else "*bf16"
            for argument in pointers
        }
        source = ASTSource(
            kernel,
            {each: types.get(each, "constexpr" if each in fixed else "i32") for each in kernel.arg_names},
            fixed,
            # What a launch finds of addresses that PyTorch allocates.
            {(kernel.arg_names.index(each),): [["tt.divisibility", 16]] for each in pointers},
        )
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=tile.options)
        assert compiled.asm["cubin"]
        assert compiled.metadata.shared <= 99 * 1024
        spilled = re.findall(r"(\d+) bytes spill", capsys.readouterr().out)
        assert spilled and set(spilled) == {"0"}, name


@pytest.mark.parametrize("lacking", ["triton", pytest.param("driver", marks=needs_triton), "agreement"])
def test_what_is_lacking_is_said_once_and_pytorch_does_the_work(
    lacking: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, inputs = build(SMALL).eval(), batch(SMALL, [(2, 9)])
    expected = model(inputs)
    monkeypatch.setattr(fused_film, "runs_kernels", lambda device: True)
    if lacking == "triton":
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, "forebrain.models.film_kernel", raising=False)
        monkeypatch.delattr("forebrain.models.film_kernel", raising=False)
    elif lacking == "agreement":
        monkeypatch.setattr(fused_film, "_error", lambda *_: float("nan"))
    fused_film._agrees.cache_clear()
    for _ in range(2):
        for ours, forecast in zip(model(inputs), expected, strict=True):
            assert torch.equal(ours, forecast)
    (record,) = caplog.records
    # Of a CPU's rows Triton says this or that, depending on whether there is a GPU beside it.
    assert {"triton": "triton", "driver": "Error", "agreement": "wrong by nan"}[lacking] in record.message
    fused_film._agrees.cache_clear()


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
