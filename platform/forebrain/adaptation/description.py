"""What a backbone is and what it expects of a recording: the `config` and `preprocessing` of a version.

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

from forebrain.config import from_values
from forebrain.errors import AdaptationError, ConfigError
from forebrain.models.contract import LossName, Model, ModelConfig
from forebrain.models.slots import SLOTS
from forebrain.scoring.protocols import PROTOCOLS, ProtocolName
from forebrain.sessions.session import Range

CONFIG_FORMAT = "forebrain-model-1"
PREPROCESSING_FORMAT = "forebrain-preprocessing-1"


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
    protocol: ProtocolName
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
                    "Update forebrain, or take a model that jobs/publish.py made."
                )
        try:
            model = from_values(SLOTS[config["model"]["name"]], config["model"])
            described = cls(
                model=model,
                num_datasets=int(config["num_datasets"]),
                loss=config["loss"],
                protocol=preprocessing["protocol"],
                event_rate_hz=preprocessing["event_rate_hz"],
                resample_hz=preprocessing["resample_hz"],
                fitted_on={
                    name: tuple((int(start), int(stop)) for start, stop in ranges)
                    for name, ranges in preprocessing["zscore"]["fitted_on"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise AdaptationError(
                f"{where}: its config or preprocessing is damaged ({error!r:.200})."
            ) from error
        if described.protocol not in PROTOCOLS or described.loss not in get_args(LossName):
            raise AdaptationError(
                f"{where}: expects protocol {described.protocol!r:.40} and loss {described.loss!r:.40}; "
                f"known are {', '.join(PROTOCOLS)} and {', '.join(get_args(LossName))}. Update forebrain."
            )
        if (preprocessing.get("context"), preprocessing.get("horizon")) != (model.context, model.horizon):
            raise AdaptationError(f"{where}: its preprocessing expects other windows than its model takes.")
        return described

    def build(self, tensors: Mapping[str, Tensor], where: str) -> Model:
        """The backbone with these weights, in evaluation mode.

        Raises:
            AdaptationError: the weights are those of another model.
        """
        model = self.model.build(self.num_datasets)
        fill(model, tensors, where)
        return model.eval()


@torch.no_grad()
def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Sets every parameter of a module.

    Raises:
        AdaptationError: one is missing or has another shape, or there are others.
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
        parameter.copy_(stored)


def tensors_of(data: bytes, where: str) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file. Raises AdaptationError where it is none."""
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise AdaptationError(f"{where}: its tensors cannot be read ({error}).") from error
