"""The contract of every model: what it is given, what it gives, and what belongs to a session.

A model is one plain file: a config and a module. Its public methods are `forecast`, `loss` and
`new_interface`; a new one writes the plain equations of one session, in one of three forms:

- `PerUnitModel`: `forecast_unit_windows`, each unit from its own past alone.
- `EncoderDecoder`: `embed_units`, `encode` and `decode`; the units mix once, in the encoder.
- `Model`: `forecast_session`; the units mix in every layer.

How units mix (`Model.mixes_units`) is all that training needs to know to go through large batches block by
block (`accelerate.blocks`).
What belongs to a session is in its `Interface`; every other parameter is the backbone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from forebrain.errors import ConfigError
from forebrain.models.normalisation import InstanceNorm

# An error is squared, or squared over the window's squared spread: loud windows do not outvote others.
LossName = Literal["squared", "relative"]


class Interface(nn.Module):
    """The session interface: what belongs to one session, a row for each unit and one vector for all of it.

    What they mean is the model's affair: embeddings of POCO, maps of single units into and out of a latent
    space, nothing at all (widths of 0). That a unit's numbers are a row is what lets sessions be split over
    workers, stored and adapted to alike, whatever the model.

    Args:
        num_units: N.
        width: d.
        generator: of the initial values, which are normal with a deviation of INITIAL_STD.
        session_width: e; None for d.

    Attributes:
        unit: [N, d].
        session: [e].
        is_smooth: the session's frames are nearer to the one before than to the mean, which follows from the
            recording. Windows of others (events, spike counts) are never instance-normalised.
    """

    INITIAL_STD = 0.02

    def __init__(
        self,
        num_units: int,
        width: int,
        generator: torch.Generator | None = None,
        session_width: int | None = None,
    ) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.empty(num_units, width))
        self.session = nn.Parameter(torch.empty(width if session_width is None else session_width))
        self.is_smooth = True
        for embedding in (self.unit, self.session):
            nn.init.normal_(embedding, std=self.INITIAL_STD, generator=generator)

    @classmethod
    def of_maps(
        cls,
        num_units: int,
        widths_and_stds: Sequence[tuple[int, float]],
        generator: torch.Generator | None = None,
        session_width: int = 0,
    ) -> Self:
        """An interface of weights: each unit has several maps side by side; the session's vector is zero.

        Args:
            num_units: N.
            widths_and_stds: numbers of each map in a unit's row, and the deviation they start with.
            generator: of the initial values.
            session_width: e.
        """
        widths, stds = zip(*widths_and_stds, strict=True)
        interface = cls(num_units, sum(widths), generator, session_width)
        with torch.no_grad():
            of_columns = torch.tensor(stds).repeat_interleave(torch.tensor(widths))
            interface.unit.mul_(of_columns / cls.INITIAL_STD)
            interface.session.zero_()
        return interface


class ProcessGroup(Protocol):
    """Workers that each hold some of a session's units, and read the same windows of it together."""

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over the workers; no gradient passes."""

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over the workers. The gradient is summed too: the loss is the workers' sum."""


@dataclass(frozen=True)
class SessionInput:
    """The windows of one session in a batch.

    Attributes:
        context: [B, C, N] z-scored activity, the frames before the forecast; B may be 0.
        interface: the session's own part, as the model's `new_interface` made it.
        dataset: position in the backbone's list of datasets, None for a data set it was not trained on.
        forecast_units: int64 [M], the units to forecast; all are read as the population. None for all.
        group: where the session's other units are: N are those that this worker holds, and each worker
            forecasts its own. Their forwards are in step. None where all units are here.
    """

    context: Tensor
    interface: Interface
    dataset: int | None = None
    forecast_units: Tensor | None = None
    group: ProcessGroup | None = None

    @cached_property
    def norm(self) -> InstanceNorm:
        """The instance normalisation of its windows."""
        return InstanceNorm.of(self.context)

    @property
    def num_forecast(self) -> int:
        """M: units to forecast."""
        return self.context.shape[2] if self.forecast_units is None else len(self.forecast_units)

    def of_forecast(self, tensor: Tensor, dim: int) -> Tensor:
        """A tensor with N units along `dim`, for the units to forecast."""
        return tensor if self.forecast_units is None else tensor.index_select(dim, self.forecast_units)


@dataclass(frozen=True)
class SessionTarget:
    """The frames that came after the windows of one session, and the weights of their errors.

    Attributes:
        frames: [B, H, M], z-scored.
        weight: [B, 1, M], what the squared errors of a unit's window are multiplied by.
    """

    frames: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls, entry: SessionInput, frames: Tensor, loss: LossName, present: Tensor | None = None
    ) -> SessionTarget:
        """The target of a loss.

        Args:
            entry: the windows.
            frames: what came after them.
            loss: what an error is.
            present: bool [B], which windows count; None for all.
        """
        if loss == "squared":
            weight = torch.ones_like(frames[:, :1])
        else:
            weight = entry.of_forecast(entry.norm.spread, 2).square().reciprocal()
        return cls(frames, weight if present is None else weight * present[:, None, None])

    def averaged(self) -> SessionTarget:
        """The same with weights over the number of values, so that the loss is a mean."""
        return SessionTarget(self.frames, self.weight / self.frames.numel())

    def normalised(self, norm: InstanceNorm) -> SessionTarget:
        """The same for forecasts that `norm` has not put back yet."""
        scale = norm.forecast_scale
        return SessionTarget((self.frames - norm.last) / scale, self.weight * scale.square())


@dataclass(frozen=True)
class ModelConfig:
    """The settings that all models share; a model's own config adds its name and sizes.

    Attributes:
        name: the model's name in the registry of models.
        context: frames a forecast is made from.
        horizon: frames forecast.
        relative: instance-normalise each window (`models.normalisation`), in sessions that are smooth.
            None: in a run what the protocol does (yes, under protocol poco no), elsewhere no, as published.
    """

    # What tables call the model.
    title: ClassVar[str] = ""
    name: str = ""
    context: int = 48
    horizon: int = 16
    relative: bool | None = None

    def __post_init__(self) -> None:
        self.require(1, "context", "horizon")

    def require(self, least: int, *names: str) -> None:
        """Raises ConfigError if a size is less than the least that is allowed."""
        for name in names:
            if getattr(self, name) < least:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; expected {least} or more.")

    def require_dropout(self, *names: str) -> None:
        """Raises ConfigError if a dropout is no probability below 1."""
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; expected 0 or more and below 1.")

    def with_default(self, relative: bool) -> Self:
        """The same, and `relative` as given where it is None."""
        return dataclasses.replace(self, relative=relative) if self.relative is None else self

    @property
    def splits_units(self) -> bool:
        """Whether the model can forecast sessions whose units are split over workers."""
        with torch.device("meta"):
            return self.build().splits_units

    def build(self, num_datasets: int = 1) -> Model:
        """The model, initialised from torch's global generator.

        Args:
            num_datasets: data sets that it is trained on.
        """
        raise NotImplementedError


class Model(nn.Module):
    """The backbone: every parameter that does not belong to a session.

    Attributes:
        config: sizes.
        mixes_units: `once`, in an encoder after which each unit is decoded by itself, or in `every_layer`.
        splits_units: it can forecast sessions whose units are split over workers (`SessionInput.group`).
    """

    config: ModelConfig
    mixes_units: ClassVar[Literal["once", "every_layer"]] = "every_layer"
    splits_units: ClassVar[bool] = False

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        """The interface of a session of so many units before training. Here: empty."""
        return Interface(num_units, 0)

    def forecast_session(self, entry: SessionInput) -> Tensor:
        """Forecasts [B, H, M] of one session's windows, normalised as these are; B > 0."""
        raise NotImplementedError

    def forecast(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        """Forecasts every window of a batch.

        Args:
            inputs: sessions with their windows, context [B_i, C, N_i]; a session may have none (B_i = 0).

        Returns:
            [B_i, H, M_i] for each session, in the order of `inputs`; M_i is N_i unless the input names the
            units to forecast.

        Raises:
            ConfigError: a context's length is not the model's.
        """
        present = [entry for entry in inputs if len(entry.context)]
        normalised, norms = self._normalise(present)
        forecasts = iter(self.forecast_normalised(normalised) if present else [])
        left = (
            forecast if norm is None else norm.denormalise(forecast)
            for forecast, norm in zip(forecasts, norms, strict=True)
        )
        horizon = self.config.horizon
        return [
            next(left) if len(entry.context) else entry.context.new_zeros(0, horizon, entry.num_forecast)
            for entry in inputs
        ]

    def loss(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        """Squared errors of the forecasts of all sessions, weighted and summed: a scalar.

        Raises:
            ConfigError: a context's length is not the model's.
        """
        present = [index for index, entry in enumerate(inputs) if len(entry.context)]
        if not present:
            return torch.zeros(())
        normalised, norms = self._normalise([inputs[index] for index in present])
        aims = [
            targets[index] if norm is None else targets[index].normalised(norm)
            for index, norm in zip(present, norms, strict=True)
        ]
        return self.loss_normalised(normalised, aims)

    def forward(
        self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget] | None = None
    ) -> list[Tensor] | Tensor:
        """`forecast`, or with targets `loss`: for what wraps a module (FSDP, DeepSpeed)."""
        return self.forecast(inputs) if targets is None else self.loss(inputs, targets)

    def forecast_normalised(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        """`forecast` of sessions that have windows, before they are denormalised. Executors replace it."""
        return [self.forecast_session(entry) for entry in inputs]

    def loss_normalised(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        """`loss` of sessions that have windows, of normalised forecasts. Executors replace it."""
        return weighted_squares(self.forecast_normalised(inputs), targets)

    def _normalise(
        self, inputs: Sequence[SessionInput]
    ) -> tuple[list[SessionInput], list[InstanceNorm | None]]:
        """Windows as the model sees them, and the normalisation of the units that each forecasts."""
        normalised: list[SessionInput] = []
        norms: list[InstanceNorm | None] = []
        for entry in inputs:
            if entry.context.shape[1] != self.config.context:
                raise ConfigError(
                    f"a context of {entry.context.shape[1]} frames was given; "
                    f"this model forecasts from {self.config.context}."
                )
            norm = entry.norm if self.config.relative and entry.interface.is_smooth else None
            if norm is not None:
                entry = replace(entry, context=norm.normalise(entry.context))
                norm = InstanceNorm(entry.of_forecast(norm.last, 2), entry.of_forecast(norm.spread, 2))
            normalised.append(entry)
            norms.append(norm)
        return normalised, norms


def weighted_squares(forecasts: Sequence[Tensor], targets: Sequence[SessionTarget]) -> Tensor:
    """The loss: squared errors of forecasts [B_i, H, M_i], weighted and summed over sessions."""
    errors = [
        (target.weight * (forecast.to(target.frames.dtype) - target.frames).square()).sum()
        for forecast, target in zip(forecasts, targets, strict=True)
    ]
    return torch.stack(errors).sum()


class EncoderDecoder(Model):
    """A model whose units mix once: an encoder reads the population into latents, a decoder forecasts each
    unit from its own past, from who it is and from the latents."""

    mixes_units: ClassVar[Literal["once", "every_layer"]] = "once"

    def embed_units(self, entry: SessionInput) -> Tensor:
        """[N, d]: who each unit is."""
        raise NotImplementedError

    def encode(self, entry: SessionInput, units: Tensor) -> Tensor:
        """Latents [B, K, d] that have read a session's windows, given its embedded units [N, d]."""
        raise NotImplementedError

    def decode(self, context: Tensor, units: Tensor, latents: Tensor) -> Tensor:
        """Forecasts [B, H, n] from the units' own past [B, C, n], their embeddings [n, d] and the latents."""
        raise NotImplementedError

    def forecast_session(self, entry: SessionInput) -> Tensor:
        units = self.embed_units(entry)
        latents = self.encode(entry, units)
        return self.decode(entry.of_forecast(entry.context, 2), entry.of_forecast(units, 0), latents)


class PerUnitModel(EncoderDecoder):
    """A model that forecasts each unit from its own past, all with the same weights.

    It reads neither who the unit is nor what its neighbours do, so a session's interface is empty.
    """

    splits_units = True

    def forecast_unit_windows(self, past: Tensor) -> Tensor:
        """Contexts of single units [R, C] to forecasts [R, H]; R > 0."""
        raise NotImplementedError

    def embed_units(self, entry: SessionInput) -> Tensor:
        return entry.interface.unit

    def encode(self, entry: SessionInput, units: Tensor) -> Tensor:
        return entry.context.new_zeros(len(entry.context), 0, 0)

    def decode(self, context: Tensor, units: Tensor, latents: Tensor) -> Tensor:
        if not context.numel():  # a step may forecast some units, and all of those are other workers'
            return context.new_zeros(len(context), self.config.horizon, context.shape[2])
        past = context.mT
        return self.forecast_unit_windows(past.flatten(0, 1)).unflatten(0, past.shape[:2]).mT


def over_population(entry: SessionInput, scores: Tensor, values: Tensor) -> Tensor:
    """Softmax-weighted sums over a session's whole population, wherever its units are.

    The one place where units meet that may lie on several workers: with `entry.group` the largest score
    and then the sums, the size of the latents, are all-reduced over it.

    Args:
        entry: the session.
        scores: [B, K, T] of this worker's T tokens.
        values: [B, T, h].

    Returns:
        [B, K, h].
    """
    group = entry.group
    largest = scores.detach().amax(dim=-1, keepdim=True)
    weights = (scores - (largest if group is None else group.all_reduce_max(largest))).exp()
    sums = torch.cat([weights @ values, weights.sum(dim=-1, keepdim=True)], dim=-1)
    sums = sums if group is None else group.all_reduce_sum(sums)
    return sums[..., :-1] / sums[..., -1:]
