"""Every executor is its plain model, but for the time it takes: values, gradients, and what it may be given.

The plain model is the oracle: nothing here knows how an executor works, but for the sizes of its blocks,
which are made small so that sessions are cut by windows, cut by units, and several share a block.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from forebrain.accelerate import Purpose, accelerate, streaming_poco, unit_blocks, unit_decoder_passes
from forebrain.accelerate.blocks import Blockwise
from forebrain.accelerate.executor import Executor
from forebrain.accelerate.folded_poco import FoldedPoco, FrozenPoco
from forebrain.accelerate.streaming_poco import StreamingPoco
from forebrain.errors import ConfigError
from forebrain.models.ablations import PoyoConfig, TacoConfig, UicoConfig
from forebrain.models.base import Model, ModelConfig, SessionInput
from forebrain.models.baselines.linear import LinearConfig
from forebrain.models.baselines.mlp import MlpConfig
from forebrain.models.baselines.tsmixer import TsMixerConfig
from forebrain.models.poco import PocoConfig
from small_models import SMALL, batch, build, double, gradients, new_interface, targets_of


def poco(**changes: Any) -> PocoConfig:
    return replace(SMALL, **changes)


_SIZES = {"context": 24, "horizon": 5}
_ABLATION = {name: getattr(SMALL, name) for name in ("width", "feed_forward_dropout")} | _SIZES
_HEADS = {"token_length": 8, "num_heads": 2, "head_width": 8, "branch_dropout": 0.0}
POCOS = {
    "poco": poco(),
    "relative": poco(relative=True),
    "no session embedding": poco(session_embedding=False),
    "latent session embedding, two layers": poco(latent_session_embedding=True, num_layers=2),
    "three layers of FiLM": poco(film_layers=3),
    "short encoder context": poco(encoder_context=8),
    "no layer, one token": poco(num_layers=0, token_length=24, num_latents=5),
}
OTHERS: dict[str, ModelConfig] = {
    "poyo": PoyoConfig(**_ABLATION, **_HEADS, num_latents=3),
    "uico": UicoConfig(**_ABLATION, film_width=24, relative=True),
    "taco": TacoConfig(**_ABLATION, **_HEADS, film_width=24),
    "mlp": MlpConfig(**_SIZES, width=16, relative=True),
    "tsmixer": TsMixerConfig(**_SIZES, unit_width=4, dropout=0.0),
    "linear": LinearConfig(**_SIZES, individual=True),
}


@dataclass(frozen=True)
class Form:
    """An executor and the models that it takes."""

    purpose: Purpose
    executor: type[Executor]
    configs: dict[str, ModelConfig]
    is_frozen: bool = False

    def make(self, model: Model, dtype: torch.dtype = torch.float64) -> Model:
        if self.executor is Blockwise:
            return Blockwise(model, dtype)
        return accelerate(model.requires_grad_(not self.is_frozen), self.purpose, dtype)


FORMS = {
    "blockwise": Form("train", Blockwise, {**POCOS, **OTHERS}),
    "train": Form("train", FoldedPoco, dict(POCOS)),
    "adapt": Form("adapt", FrozenPoco, dict(POCOS), is_frozen=True),
    "stream": Form("stream", StreamingPoco, dict(POCOS), is_frozen=True),
}
CASES = [
    pytest.param(form, config, id=f"{name}-{case}")
    for name, form in FORMS.items()
    for case, config in form.configs.items()
]
FORM = pytest.mark.parametrize("form", [pytest.param(form, id=name) for name, form in FORMS.items()])
BATCH_FORM = pytest.mark.parametrize("form", [FORMS["blockwise"], FORMS["train"], FORMS["adapt"]])
# One of some windows, one of none, units that fill several blocks, and so few that sessions share one.
SHAPES = [(3, 5), (0, 4), (2, 11), (1, 2), (3, 1), (1, 2)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_blocks, "CPU_BLOCK", 7)
    monkeypatch.setattr(streaming_poco, "BLOCK_ROWS", 4)


def expected(model: Model, inputs: Sequence[SessionInput]) -> list[Tensor]:
    with torch.no_grad():
        return model.forecast(inputs)


def close(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float = 1e-9) -> None:
    for each, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(each, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("form", "config"), CASES)
def test_it_forecasts_what_the_model_does(form: Form, config: ModelConfig) -> None:
    model = build(config).double().eval()
    inputs = double(batch(model, SHAPES))
    executor = form.make(model)
    assert type(executor) is form.executor
    with torch.inference_mode():
        close(executor.forecast(inputs), expected(model, inputs))
        for entry in inputs:
            for window in entry.context:
                alone = replace(entry, context=window[None])
                close(executor.forecast([alone]), expected(model, [alone]))
        assert executor.forecast([]) == []


@pytest.mark.parametrize(("form", "config"), CASES)
@pytest.mark.parametrize("some", [False, True], ids=["all units", "some units"])
def test_its_loss_and_gradients_are_the_models(form: Form, config: ModelConfig, some: bool) -> None:
    model = build(config).double()
    inputs = double(batch(model, SHAPES))
    if some:  # all are read; of one session none is forecast here
        few = [torch.tensor([0]), torch.tensor([1]), torch.tensor([1, 4, 8]), torch.tensor([], dtype=int)]
        chosen = [*few, torch.tensor([0]), torch.tensor([1])]
        inputs = [replace(e, forecast_units=units) for e, units in zip(inputs, chosen, strict=True)]
    targets = targets_of(inputs, config.horizon)
    executor = form.make(model)
    wanted_loss = model.loss(inputs, targets)
    wanted = gradients(model, inputs, wanted_loss)
    loss = executor.loss(inputs, targets)
    close([loss], [wanted_loss])
    for name, gradient in gradients(model, inputs, loss).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-8, atol=1e-8, msg=name)
    with torch.no_grad():
        without = executor.loss(inputs, targets)
    close([without], [wanted_loss])
    assert not without.requires_grad and executor.loss(inputs[1:2], targets[1:2]) == 0
    if form.is_frozen:
        assert all(each.grad is None for each in [*model.parameters(), *executor.parameters()])


@FORM
def test_gradients_of_forecasts_are_the_models(form: Form) -> None:
    """For whoever computes a loss of another kind."""
    model = build(SMALL).double()
    inputs = double(batch(model, SHAPES))
    executor = form.make(model)

    def loss(of: Model) -> Tensor:
        return torch.stack([each.abs().sum() for each in of.forecast(inputs)]).sum()

    wanted = gradients(model, inputs, loss(model))
    for name, gradient in gradients(model, inputs, loss(executor)).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-8, atol=1e-8, msg=name)


@FORM
def test_a_loss_is_scaled_and_its_gradients_are_had_once(form: Form) -> None:
    model = build(SMALL).double()
    inputs = double(batch(model, [(3, 5)]))
    targets = targets_of(inputs, SMALL.horizon)
    executor = form.make(model)
    once = gradients(model, inputs, executor.loss(inputs, targets))
    thrice = gradients(model, inputs, 3 * executor.loss(inputs, targets))
    for name, gradient in thrice.items():
        torch.testing.assert_close(gradient, 3 * once[name], msg=name)
    loss = executor.loss(inputs, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


class Units:
    """Workers that are threads, each with some units of a session; what they reduce meets here."""

    def __init__(self, number: int) -> None:
        self.barrier = threading.Barrier(number)
        self.given: list[Tensor] = [torch.empty(0)] * number

    def meet(self, worker: int, tensor: Tensor, combine: Callable[[Tensor], Tensor]) -> Tensor:
        self.given[worker] = tensor.detach()
        self.barrier.wait(30)
        combined = combine(torch.stack(self.given))
        self.barrier.wait(30)
        return combined


class Worker:
    """One of them, as a process group."""

    def __init__(self, units: Units, worker: int) -> None:
        self.units, self.worker = units, worker

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        return self.units.meet(self.worker, tensor, lambda each: each.amax(dim=0))

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return _Summed.apply(tensor, self)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, worker: Worker) -> Tensor:
        ctx.worker = worker
        return worker.units.meet(worker.worker, tensor, lambda each: each.sum(dim=0))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        worker = ctx.worker
        return worker.units.meet(worker.worker, grad, lambda each: each.sum(dim=0)), None


SPLIT = [
    *((name, POCOS[case]) for name in ("blockwise", "train", "adapt") for case in ("poco", "relative")),
    *(("blockwise", config) for config in OTHERS.values() if config.splits_units),
]


@pytest.mark.parametrize(("name", "config"), SPLIT)
def test_a_session_that_is_split_over_workers_is_one_session(name: str, config: ModelConfig) -> None:
    form = FORMS[name]
    model = build(config).double()
    (whole,) = double(batch(model, [(3, 7)]))
    (target,) = targets_of([whole], config.horizon)
    wanted = gradients(model, [whole], model.loss([whole], [target]))
    forecasts = expected(model, [whole])[0]
    parts = [torch.arange(0, 4), torch.arange(4, 7)]
    units, results = Units(2), {}
    models = [deepcopy(model) for _ in parts]

    def work(worker: int) -> None:
        own, copy = parts[worker], models[worker]
        interface = copy.new_interface(len(own)).double()
        with torch.no_grad():
            interface.unit.copy_(whole.interface.unit[own])
            interface.session.copy_(whole.interface.session)
        entry = replace(
            whole, context=whole.context[..., own], interface=interface, group=Worker(units, worker)
        )
        aim = replace(target, frames=target.frames[..., own], weight=target.weight[..., own])
        executor = form.make(copy)
        with torch.no_grad():
            found = executor.forecast([entry])[0]
        results[worker] = found, gradients(copy, [entry], executor.loss([entry], [aim]))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    close([torch.cat([results[0][0], results[1][0]], dim=2)], [forecasts])
    of_units = torch.cat([results[worker][1]["0.unit"] for worker in range(2)])
    close([of_units], [wanted["0.unit"]], 1e-8)
    for of in {*wanted} - {"0.unit"}:
        if not (form.is_frozen and not of.startswith("0.")):
            close([results[0][1][of] + results[1][1][of]], [wanted[of]], 1e-8)


@pytest.mark.parametrize(("form", "config"), CASES)
def test_bf16_is_near_and_gives_fp32(form: Form, config: ModelConfig) -> None:
    model = build(config, std=0.1)
    inputs = batch(model, [(2, 30), (1, 9)])
    targets = targets_of(inputs, config.horizon)
    executor = form.make(model, torch.bfloat16)
    exact, wanted = expected(model.eval(), inputs), gradients(model, inputs, model.loss(inputs, targets))
    with torch.inference_mode():
        rough = executor.forecast(inputs)
    assert {each.dtype for each in rough} == {torch.float32} and not torch.equal(rough[0], exact[0])
    for each, other in zip(rough, exact, strict=True):
        assert (each - other).norm() < 0.03 * other.norm()
    loss = executor.loss(inputs, targets)
    assert loss.dtype == torch.float32
    found = gradients(model, inputs, loss)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    size = torch.stack([each.norm() for each in wanted.values()]).norm()
    for name, gradient in found.items():
        if not form.is_frozen or name.startswith("0."):
            assert (gradient - wanted[name]).norm() < 0.06 * wanted[name].norm() + 0.005 * size, name


@FORM
def test_an_autocast_around_it_changes_nothing(form: Form) -> None:
    model = build(SMALL).eval()
    inputs = batch(model, [(2, 9)])
    executor = form.make(model, torch.float32)
    targets = targets_of(inputs, SMALL.horizon)
    with torch.no_grad():
        alone = executor.forecast(inputs)[0], executor.loss(inputs, targets)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            around = executor.forecast(inputs)[0], executor.loss(inputs, targets)
    assert torch.equal(alone[0], around[0]) and torch.equal(alone[1], around[1])


@pytest.mark.parametrize(
    "form", [FORMS["blockwise"], FORMS["train"], FORMS["adapt"]], ids=lambda f: f.purpose
)
def test_dropout_follows_mode_and_seed(form: Form) -> None:
    config = poco(feed_forward_dropout=0.5, branch_dropout=0.4)
    model = build(config).train()
    inputs = batch(model, [(4, 20)])
    targets = targets_of(inputs, config.horizon)
    executor = form.make(model, torch.float32)

    def loss(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return executor.loss(inputs, targets).detach()

    assert torch.equal(loss(1), loss(1)) and not torch.equal(loss(1), loss(2))
    executor.eval()
    assert torch.equal(loss(1), loss(2))


@pytest.mark.parametrize("form", [FORMS["blockwise"], FORMS["train"]], ids=lambda f: f.purpose)
def test_gradients_under_dropout_are_those_of_the_same_masks(form: Form) -> None:
    config = poco(feed_forward_dropout=0.3, branch_dropout=0.2)
    model = build(config).double().train()
    (entry,) = double(batch(model, [(2, 9)]))
    targets = targets_of([entry], config.horizon)
    executor = form.make(model)

    def loss(unit: Tensor) -> Tensor:
        torch.manual_seed(3)
        with torch.no_grad():
            entry.interface.unit.copy_(unit)
        return executor.loss([entry], targets)

    base = entry.interface.unit.detach().clone()
    loss(base).backward()
    direction, step = torch.randn_like(base), 1e-6
    with torch.no_grad():
        slope = (loss(base + step * direction) - loss(base - step * direction)) / (2 * step)
    assert entry.interface.unit.grad is not None
    torch.testing.assert_close((entry.interface.unit.grad * direction).sum(), slope, rtol=1e-5, atol=1e-7)


@FORM
def test_a_context_of_another_length_is_an_error(form: Form) -> None:
    model = build(SMALL)
    (entry,) = batch(model, [(1, 3)])
    with pytest.raises(ConfigError, match="24"), torch.no_grad():
        form.make(model, torch.float32).forecast([replace(entry, context=entry.context[:, 1:])])


@pytest.mark.parametrize("purpose", ["adapt", "stream"])
def test_what_is_frozen_keeps_the_weights_it_was_made_with(purpose: Purpose) -> None:
    model = build(SMALL).eval().requires_grad_(False)
    inputs = batch(model, [(1, 5)])
    executor = accelerate(model, purpose)
    with torch.no_grad():
        before = executor.forecast(inputs)[0]
        for parameter in model.parameters():
            parameter.add_(1.0)
        assert torch.equal(executor.forecast(inputs)[0], before)


def test_what_is_to_be_trained_is_not_frozen_for_adaptation() -> None:
    assert type(accelerate(build(SMALL), "adapt")) is FoldedPoco


@pytest.mark.parametrize("purpose", ["train", "adapt", "stream"])
def test_where_no_executor_fits_the_model_answers(purpose: Purpose) -> None:
    model = build(LinearConfig(**_SIZES)).eval()
    inputs = batch(model, [(1, 3)])
    executor = accelerate(model, purpose)
    assert executor is model if purpose == "stream" else type(executor) is Blockwise
    with torch.no_grad():
        assert torch.equal(executor.forecast(inputs)[0], model.forecast(inputs)[0])


@pytest.mark.slow
def test_equations_compiled_once_for_sessions_of_all_sizes_are_the_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
    model = build(SMALL)
    inputs = batch(model, [(2, 30), (3, 9)])
    targets = targets_of(inputs, SMALL.horizon)
    loss = model.loss(inputs, targets)
    wanted = gradients(model, inputs, loss)
    compiled = accelerate(model, "train", compile=True).loss(inputs, targets)
    torch.testing.assert_close(compiled, loss, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients(model, inputs, compiled).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-3, msg=name)


# Streams.


@pytest.fixture
def stream() -> Iterator[tuple[Model, Model, SessionInput, Tensor]]:
    """A model, its stream, a session and windows [3, C, N] of it."""
    model = build(poco(relative=True)).eval()
    (entry,) = batch(model, [(3, 30)])  # eight blocks
    with torch.inference_mode():
        yield model, accelerate(model, "stream"), entry, entry.context


def forecast(executor: Model, entry: SessionInput, window: Tensor) -> Tensor:
    return executor.forecast([replace(entry, context=window[None])])[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_however_many_threads_share_the_units_the_forecast_is_the_same_to_the_bit(
    dtype: torch.dtype, stream: Any
) -> None:
    model, _, entry, windows = stream
    alone = forecast(accelerate(model, "stream", dtype), entry, windows[0])
    for threads in (2, 3, 20):
        assert torch.equal(
            forecast(accelerate(model, "stream", dtype, threads=threads), entry, windows[0]), alone
        )


def test_a_forecast_depends_on_no_window_before_it_and_stays_as_it_was(stream: Any) -> None:
    _, executor, entry, windows = stream
    first = forecast(executor, entry, windows[0])
    kept = first.clone()
    forecast(executor, entry, windows[1])
    assert torch.equal(first, kept) and torch.equal(forecast(executor, entry, windows[0]), kept)


def test_sessions_of_one_backbone_do_not_disturb_one_another_and_are_forgotten_when_gone(stream: Any) -> None:
    model, executor, entry, windows = stream
    before = forecast(executor, entry, windows[0])
    with torch.inference_mode(False):
        other = SessionInput(windows[:, :, :7].clone(), new_interface(model, 7), None)
    close([forecast(executor, other, other.context[0])], [forecast(model, other, other.context[0])], 1e-4)
    assert torch.equal(forecast(executor, entry, windows[0]), before)
    del other
    gc.collect()
    assert len(executor._sessions) == 1


def test_an_interface_that_was_changed_is_seen_as_it_is_now() -> None:
    model = build(SMALL).eval()
    (entry,) = batch(model, [(1, 5)])
    executor = accelerate(model, "stream")
    with torch.no_grad():
        before = executor.forecast([entry])[0]
        entry.interface.unit.add_(0.5)
        after = executor.forecast([entry])[0]
        close([after], model.forecast([entry]), 1e-4)
        assert not torch.allclose(before, after)
        entry.interface.is_smooth = False
        close(
            executor.forecast([replace(entry, dataset=1)]), model.forecast([replace(entry, dataset=1)]), 1e-4
        )


def test_a_failure_in_a_thread_that_helps_is_raised(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, entry, windows = stream
    executor = accelerate(model, "stream", threads=2)

    def fail(block: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(streaming_poco._Block, "see", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        forecast(executor, entry, windows[0])


# Memory.


def test_what_is_held_from_call_to_call_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_blocks, "CPU_BLOCK", 16)
    monkeypatch.setattr(unit_decoder_passes._OF_THREAD, "buffers", unit_decoder_passes._Buffers())
    model = build(poco(feed_forward_dropout=0.2))
    executor = accelerate(model, "train")
    held = []
    for shape in ((1, 16), (9, 13), (1, 100), (40, 1)):
        inputs = batch(model, [shape])
        executor.loss(inputs, targets_of(inputs, SMALL.horizon)).backward()
        with torch.no_grad():
            executor.forecast(inputs)
        held.append(sum(each.numel() for each in unit_decoder_passes._OF_THREAD.buffers._held.values()))
    assert held == held[:1] * 4


def test_views_of_it_are_few_and_of_what_is_held() -> None:
    buffers = unit_decoder_passes._Buffers()
    most = unit_decoder_passes.MOST_VIEWS
    for num_rows in [*range(1, 3 * most), 5]:
        taken = buffers.take("gate", num_rows, 8, torch.float32, torch.device("cpu"))
        again = buffers.take("gate", num_rows, 8, torch.float32, torch.device("cpu"))
        (held,) = buffers._held.values()
        assert taken.shape == (num_rows, 8)
        assert taken.data_ptr() == again.data_ptr() == held.data_ptr()
        assert len(buffers._taken) <= most + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@FORM
def test_cuda_agrees_with_the_cpu(form: Form) -> None:
    model = build(SMALL).eval()
    inputs = batch(model, [(2, 50), (1, 9)])
    wanted = expected(model, inputs)
    model.cuda()
    moved = [replace(e, context=e.context.cuda(), interface=e.interface.cuda()) for e in inputs]
    with torch.no_grad():
        close([each.cpu() for each in form.make(model, torch.float32).forecast(moved)], wanted, 1e-4)
