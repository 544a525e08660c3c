"""Checks the model against weights, inputs, outputs and gradients of the published implementation.

A fixture is `<name>.npz` (arrays under the published names) and `<name>.json` (hyper-parameters). Prints a
line of JSON for each. The exit status is 1 if one does not pass.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from forebrain.accelerate import Purpose, accelerate
from forebrain.errors import ForebrainError
from forebrain.models.base import Interface, Model, SessionInput, SessionTarget
from forebrain.models.perceiver import ProcessorLayer
from forebrain.models.poco import Poco, PocoConfig
from forebrain_registry.storage import path_here

POSITIONAL = "folder"
OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 2e-5
OPTIMISER_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Config:
    """The fixtures to check.

    Attributes:
        folder: fixtures, <name>.json beside <name>.npz.
        device: a torch device, for example cuda.
    """

    folder: str
    device: str = "cpu"


def run(config: Config, console: Console) -> int:
    """Prints a result for each fixture."""
    all_passed = True
    for result in check_folder(config.folder, config.device):
        print(json.dumps(result), flush=True)
        all_passed &= result["passed"]
    return 0 if all_passed else 1


class ParityError(ForebrainError):
    """A fixture cannot be read or asks for something this model does not have."""


def check_folder(folder: str | Path, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Checks every fixture of a folder, one result each: errors are largest absolute differences.

    Raises:
        ParityError: there is no fixture, or one cannot be read.
    """
    descriptions = sorted(path_here(folder).glob("*.json"))
    if not descriptions:
        raise ParityError(f"{folder}: no fixture found; expected <name>.json beside <name>.npz.")
    for path in descriptions:
        yield check_fixture(path, device)


def check_fixture(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Runs one fixture.

    Returns:
        `fixture`, `output_error`, and where the fixture has them `loss_error`, `gradient_error` (with the
        parameter it is in) and `after_steps_error`; `passed`.
    """
    arrays_path = path.with_suffix(".npz")
    if not arrays_path.exists():
        raise ParityError(f"{arrays_path}: missing; expected the arrays of {path.name} beside it.")
    try:
        description = json.loads(path.read_bytes())
        hyper = description["hyper"]
        with np.load(arrays_path, allow_pickle=False) as archive:
            arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
        fixture = _Fixture(description, arrays, torch.device(device))
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        raise ParityError(f"{path}: cannot be read as a parity fixture ({error!r}).") from error

    forms = fixture.forms()
    by_form = {name: fixture.output_error("output", form) for name, form in forms.items()}
    result: dict[str, Any] = {
        "fixture": path.stem,
        "output_error": max(by_form.values()),
        "output_error_by_form": by_form,
    }
    passed = result["output_error"] <= OUTPUT_TOLERANCE
    if fixture.has("grad/"):
        found = [fixture.gradient_error(forms[name]) for name in ("plain", "train")]
        loss, gradient_error, worst = max(found, key=lambda each: each[1])
        result |= {"gradient_error": gradient_error, "worst_gradient": worst}
        if "loss" in description:
            result["loss_error"] = abs(loss - description["loss"])
        passed &= gradient_error <= GRADIENT_TOLERANCE
    if fixture.has("after5/"):
        # By either form of the loss from the same weights.
        other = copy.deepcopy(fixture)
        for each, form in ((fixture, fixture.model), (other, other.forms()["train"])):
            each.optimise(5, hyper, form)
        result["after_steps_error"] = max(
            each.output_error("after5", each.model) for each in (fixture, other)
        )
        passed &= result["after_steps_error"] <= OPTIMISER_TOLERANCE
    return {**result, "passed": bool(passed)}


def _config(description: Mapping[str, Any]) -> PocoConfig:
    hyper = description["hyper"]
    return PocoConfig(
        context=hyper["seq_length"] - hyper["pred_length"],
        horizon=hyper["pred_length"],
        token_length=hyper["compression_factor"],
        encoder_context=hyper.get("decoder_context_length"),
        width=hyper["decoder_hidden_size"],
        num_latents=hyper["poyo_num_latents"],
        num_layers=hyper["decoder_num_layers"],
        num_heads=hyper["decoder_num_heads"],
        head_width=description.get("dim_head", 64),
        feed_forward_multiple=description.get("ffn_mult", 4),
        film_width=hyper["conditioning_dim"],
        film_layers=hyper.get("conditioning_layers", 1),
        session_embedding="session" in hyper["unit_embedding_components"],
        latent_session_embedding=hyper["latent_session_embedding"],
        rotary_t_max=hyper["rotary_attention_tmax"],
        feed_forward_dropout=0.0,
        branch_dropout=0.0,
    )


class _Fixture:
    """A model with a fixture's weights, and its inputs."""

    def __init__(
        self, description: Mapping[str, Any], arrays: Mapping[str, Tensor], device: torch.device
    ) -> None:
        sizes = description["input_sizes"]
        self.device = device
        self.arrays = arrays
        self.model = Poco(_config(description), num_datasets=len(sizes)).to(device)
        width = self.model.config.width
        self.interfaces = [
            Interface(num_units, width).to(device) for dataset in sizes for num_units in dataset
        ]
        self.datasets = [position for position, dataset in enumerate(sizes) for _ in dataset]
        with torch.no_grad():
            for name, parameters in self._published_names():
                joined = arrays[f"param/{name}"].to(device)
                for parameter, value in zip(parameters, _split_like(joined, parameters), strict=True):
                    parameter.copy_(value)

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.arrays)

    def windows(self, name: str, session: int) -> Tensor:
        """[B, frames, N] of an array that is published as [frames, B, N]."""
        return self.arrays[f"{name}{session}"].to(self.device).transpose(0, 1)

    def inputs(self) -> list[SessionInput]:
        return [
            SessionInput(self.windows("input/x", i), interface, dataset)
            for i, (interface, dataset) in enumerate(zip(self.interfaces, self.datasets, strict=True))
        ]

    def forms(self) -> dict[str, Model]:
        """The plain model and the executors that take its place."""
        purposes: tuple[Purpose, ...] = ("train", "adapt", "stream")
        frozen = copy.deepcopy(self.model).requires_grad_(False)
        forms: dict[str, Model] = {"plain": self.model}
        for each in purposes:
            forms[each] = accelerate(self.model if each == "train" else frozen, each)
        return forms

    def output_error(self, prefix: str, form: Model) -> float:
        """The largest error of forecasts of whole batches and of their windows one by one."""
        inputs = self.inputs()
        with torch.no_grad():
            together = form.forecast(inputs)
            alone = [
                [form.forecast([replace(entry, context=window[None])])[0] for window in entry.context]
                for entry in inputs
            ]
        return max(
            max(
                _largest_difference(forecast, expected := self.windows(f"{prefix}/y", i)),
                _largest_difference(torch.cat([*windows, forecast[:0]]), expected),
            )
            for i, (forecast, windows) in enumerate(zip(together, alone, strict=True))
        )

    def loss(self, form: Model) -> Tensor:
        """Squared errors summed over sessions, over the number of predicted values."""
        inputs = self.inputs()
        targets = [
            SessionTarget.of(entry, self.windows("target/y", i), "squared") for i, entry in enumerate(inputs)
        ]
        return form.loss(inputs, targets) / sum(target.frames.numel() for target in targets)

    def gradient_error(self, form: Model) -> tuple[float, float, str]:
        """Loss, largest gradient error, and the published name of the parameter that has it."""
        self.model.zero_grad()
        for interface in self.interfaces:
            interface.zero_grad()
        loss = self.loss(form)
        loss.backward()
        errors = {}
        for name, parameters in self._published_names():
            if f"grad/{name}" in self.arrays:
                parts = _split_like(self.arrays[f"grad/{name}"].to(self.device), parameters)
                errors[name] = max(
                    _largest_difference(torch.zeros_like(p) if p.grad is None else p.grad, expected)
                    for p, expected in zip(parameters, parts, strict=True)
                )
        worst = max(errors, key=errors.__getitem__)
        return loss.item(), errors[worst], worst

    def optimise(self, num_steps: int, hyper: Mapping[str, Any], form: Model) -> None:
        parameters = [parameter for _, joined in self._published_names() for parameter in joined]
        optimiser = torch.optim.AdamW(
            parameters, lr=hyper["lr"], weight_decay=hyper["wdecay"], amsgrad=True, foreach=True
        )
        for _ in range(num_steps):
            optimiser.zero_grad()
            self.loss(form).backward()
            nn.utils.clip_grad_norm_(parameters, hyper["grad_clip"])
            optimiser.step()

    def _published_names(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Published parameter names with ours; several of ours where the published tensor joins them."""
        model, decoder, perceiver = self.model, "decoder", "decoder.perceiver_io"
        yield f"{decoder}.unit_emb.weight", [interface.unit for interface in self.interfaces]
        yield f"{decoder}.session_emb.weight", [interface.session for interface in self.interfaces]
        yield f"{decoder}.dataset_emb.weight", [model.dataset]
        yield f"{decoder}.latent_emb.weight", [model.latent]
        modules: dict[str, nn.Module] = {f"{decoder}.input_proj": model.token}
        for name, attention, feed_forward in (
            ("enc", model.encoder_attention, model.encoder_feed_forward),
            ("dec", model.decoder_attention, model.decoder_feed_forward),
        ):
            prefix = f"{perceiver}.{name}_atn"
            modules |= {
                f"{prefix}.norm": attention.norm,
                f"{prefix}.norm_context": attention.norm_context,
                f"{prefix}.to_q": attention.to_query,
                f"{prefix}.to_out": attention.to_out,
            }
            yield f"{prefix}.to_kv.weight", [attention.to_key.weight, attention.to_value.weight]
            modules |= _feed_forward_names(f"{perceiver}.{name}_ffn", feed_forward)
        for index, layer in enumerate(model.processor):
            assert isinstance(layer, ProcessorLayer)
            prefix = f"{perceiver}.proc_layers.{index}"
            modules |= {
                f"{prefix}.0.norm": layer.attention.norm,
                f"{prefix}.0.to_qkv": layer.attention.to_query_key_value,
                f"{prefix}.0.to_out": layer.attention.to_out,
            }
            modules |= _feed_forward_names(f"{prefix}.1", layer.feed_forward)
        for index, hidden in enumerate(model.forecaster.hidden):
            modules[f"in_proj.{index + 1}.0" if index else "in_proj.0"] = hidden
        modules |= {
            "conditioning_alpha": model.forecaster.scale,
            "conditioning_beta": model.forecaster.shift,
            "out_proj": model.forecaster.out,
        }
        for name, module in modules.items():
            for kind, parameter in module.named_parameters():
                yield f"{name}.{kind}", [parameter]


def _feed_forward_names(prefix: str, module: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{prefix}.0": module.get_submodule("norm"),
        f"{prefix}.1.net.0": module.get_submodule("expand"),
        f"{prefix}.1.net.3": module.get_submodule("contract"),
    }


def _split_like(joined: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Cuts a published tensor into the parameters that it joins along its rows."""
    rows = joined.split([p.shape[0] if p.ndim == joined.ndim else 1 for p in parameters])
    return [part.reshape(p.shape) for part, p in zip(rows, parameters, strict=True)]


def _largest_difference(ours: Tensor, expected: Tensor) -> float:
    """Infinite where either is not finite, so that no comparison can pass."""
    if not ours.numel():
        return 0.0
    difference = (ours - expected).abs().max().item()
    return difference if math.isfinite(difference) else math.inf
