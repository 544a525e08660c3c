"""The description of a backbone and of the recordings it expects: `config` and `preprocessing` of a version.

Written when a run is published, read when an animal is adapted, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.overrides import TorchFunctionMode

from forebrain.config import from_values
from forebrain.errors import AdaptationError, ConfigError
from forebrain.models.base import LossName, Model, ModelConfig
from forebrain.models.registry import MODELS
from forebrain.scoring.protocols import LABELLED, PROTOCOLS, RecordingProtocol
from forebrain.sessions.session import Range

CONFIG_FORMAT = "forebrain-model-1"
PREPROCESSING_FORMAT = "forebrain-preprocessing-1"
# What building a config may take: sizes of so much whatever its weights, a few times the numbers of
# its weights and some for tables, and so many calls of torch for each tensor (the models make up to 20).
LARGEST = 10_000
TABLES = 10**6
CALLS_PER_TENSOR = 200
_MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange)


@dataclass(frozen=True)
class Description:
    """A backbone in words.

    Attributes:
        model: which it is and its size, with the protocol's choices filled in.
        num_datasets: rows of its data set embedding.
        loss: what it was trained with.
        protocol: how recordings are split and normalised.
        event_rate_hz: bins that event matrices are summed into, Hz; None keeps their frames.
        resample_hz: rate every recording was resampled to, Hz; None kept their own.
        fitted_on: session id -> the frames that its mean and scale were fitted on.
    """

    model: ModelConfig
    num_datasets: int
    loss: LossName
    protocol: RecordingProtocol
    event_rate_hz: float | None
    resample_hz: float | None
    fitted_on: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """The `config` of a version's metadata."""
        return {
            "format": CONFIG_FORMAT,
            "model": dataclasses.asdict(self.model),
            "num_datasets": self.num_datasets,
            "loss": self.loss,
        }

    def preprocessing(self) -> dict[str, Any]:
        """The `preprocessing` of a version's metadata."""
        return {
            "format": PREPROCESSING_FORMAT,
            "protocol": self.protocol,
            "context": self.model.context,
            "horizon": self.model.horizon,
            "event_rate_hz": self.event_rate_hz,
            "resample_hz": self.resample_hz,
            "zscore": {
                "what": "each unit less its mean, over its standard deviation",
                "fitted_on": {name: [list(one) for one in ranges] for name, ranges in self.fitted_on.items()},
            },
        }

    @classmethod
    def from_metadata(
        cls, config: Mapping[str, Any], preprocessing: Mapping[str, Any], where: str
    ) -> Description:
        """Reads what `config` and `preprocessing` gave.

        Args:
            where: whose they are, for messages.

        Raises:
            AdaptationError: they are of no format that is known here, or do not agree with each other.
        """
        for name, values, expected in (
            ("config", config, CONFIG_FORMAT),
            ("preprocessing", preprocessing, PREPROCESSING_FORMAT),
        ):
            if (found := values.get("format")) != expected:
                raise AdaptationError(
                    f"{where}: its {name} has format {found!r:.60}; this program reads {expected!r}. "
                    "Update forebrain, or take a model that `forebrain publish` made."
                )
        try:
            model = from_values(MODELS[config["model"]["name"]], config["model"])
            described = cls(
                model=model,
                num_datasets=_whole(config["num_datasets"]),
                loss=config["loss"],
                protocol=preprocessing["protocol"],
                event_rate_hz=_rate(preprocessing["event_rate_hz"]),
                resample_hz=_rate(preprocessing["resample_hz"]),
                fitted_on={
                    name: tuple((int(start), int(stop)) for start, stop in ranges)
                    for name, ranges in preprocessing["zscore"]["fitted_on"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise AdaptationError(
                f"{where}: its config or preprocessing is damaged ({error!r:.200})."
            ) from error
        if described.protocol not in (*PROTOCOLS, *LABELLED) or described.loss not in get_args(LossName):
            raise AdaptationError(
                f"{where}: expects protocol {described.protocol!r:.40} and loss {described.loss!r:.40}; "
                f"known are {', '.join(PROTOCOLS)} and {', '.join(get_args(LossName))}. Update forebrain."
            )
        if (preprocessing.get("context"), preprocessing.get("horizon")) != (model.context, model.horizon):
            raise AdaptationError(f"{where}: its preprocessing expects other windows than its model takes.")
        return described

    def build(self, tensors: Mapping[str, Tensor], where: str) -> Model:
        """The backbone with these weights, in evaluation mode.

        A config may ask for more than any machine has; it gets what its weights warrant.

        Raises:
            AdaptationError: the weights are those of another model.
        """
        num_stored = sum(tensor.numel() for tensor in tensors.values())
        sizes = [size for size in dataclasses.astuple(self.model) if isinstance(size, int)]
        if (largest := max(self.num_datasets, *sizes)) > max(num_stored, LARGEST):
            raise AdaptationError(
                f"{where}: its config has the size {largest}, its weights are {num_stored} numbers in all. "
                "It is damaged, or they belong to another model."
            )
        try:
            with _Limits(4 * num_stored + TABLES, CALLS_PER_TENSOR * (1 + len(tensors))):
                model = self.model.build(self.num_datasets)
        except (RuntimeError, TypeError) as error:
            raise AdaptationError(f"{where}: its config cannot be built ({error!s:.200}).") from error
        fill(model, tensors, where)
        return model.eval()


class _Limits(TorchFunctionMode):
    """Stops a build before it makes more numbers or parts than it may."""

    def __init__(self, numbers: int, calls: int) -> None:
        super().__init__()
        self._numbers, self._calls = numbers, calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._calls -= 1
        if func in _MAKERS:
            self._numbers -= func(*args, **(kwargs | {"device": "meta"})).numel()
        if self._calls < 0 or self._numbers < 0:
            raise RuntimeError("it is many times as large as its weights")
        return func(*args, **kwargs)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no whole number from 0 on")
    return value


def _rate(value: Any) -> float | None:
    if value is not None and not (type(value) in (int, float) and 0 < value < float("inf")):
        raise ValueError(f"{value!r:.40} is no rate in Hz")
    return value


@torch.no_grad()
def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Sets every parameter of a module.

    Raises:
        AdaptationError: one is missing, not finite, or has another shape or type of number, or there are
            others.
    """
    parameters = dict(module.named_parameters())
    if unknown := tensors.keys() - parameters.keys():
        raise AdaptationError(f"{where}: holds {min(unknown)!r:.80}, which this model does not have.")
    for name, parameter in parameters.items():
        stored = tensors.get(name)
        if stored is None or stored.shape != parameter.shape:
            found = "nothing" if stored is None else f"shape {tuple(stored.shape)}"
            raise AdaptationError(
                f"{where}: holds {found} for {name}; expected {tuple(parameter.shape)}. "
                "It belongs to another model."
            )
        if stored.dtype != parameter.dtype:
            raise AdaptationError(f"{where}: holds {stored.dtype} for {name}; expected {parameter.dtype}.")
        if not stored.isfinite().all():
            raise AdaptationError(f"{where}: {name} holds numbers that are not finite. It is damaged.")
        parameter.copy_(stored)


def tensors_of(data: bytes, where: str) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file. Raises AdaptationError where it is none."""
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that torch does not have
        raise AdaptationError(f"{where}: its tensors cannot be read ({error}).") from error
