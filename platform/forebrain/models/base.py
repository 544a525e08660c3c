"""What a model is given, what it gives, and what belongs to a session.

A model is a slot: one config and one module whose `forward` takes a list of `SessionInput` and returns one
forecast for each or, told what came, the error of them all. Everything that belongs to a session is in its
`Interface`, which the model makes; the rest is the backbone. `models.slots` lists them all.

Every loss is a sum of squared errors with weights that are known beforehand (`SessionTarget`), so a model may
form gradients of it as soon as it has forecast some rows.
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
from forebrain.models.normalisation import WindowFrame

# What an error is: squared, or squared over the window's squared spread, so that loud windows do not outvote
# others.
LossName = Literal["squared", "relative"]


class Interface(nn.Module):
    """What belongs to one session: a row for each unit, and one vector for the session.

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
            recording. Windows of others (events, spike counts) no model sees relative to their last frame.
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
        context: [B, C, N] normalised activity, the frames before the forecast; B may be 0.
        interface: the session's own part, as the model's `new_interface` made it.
        dataset: position in the backbone's list of datasets, None for a data set it was not trained on.
        forecast_units: int64 [M], the units to forecast; all are read as the population. None for all.
        peers: where the session's other units are: N are those that this worker holds, and each worker
            forecasts its own. Their forwards are in step. None where all units are here.
    """

    context: Tensor
    interface: Interface
    dataset: int | None = None
    forecast_units: Tensor | None = None
    peers: ProcessGroup | None = None

    @cached_property
    def frame(self) -> WindowFrame:
        """Where its rows stand."""
        return WindowFrame.of(self.context)

    @property
    def num_forecast(self) -> int:
        """M: units to forecast."""
        return self.context.shape[2] if self.forecast_units is None else len(self.forecast_units)

    def of_forecast(self, tensor: Tensor, dim: int) -> Tensor:
        """A tensor with N units along `dim`, for the units to forecast."""
        return tensor if self.forecast_units is None else tensor.index_select(dim, self.forecast_units)


@dataclass(frozen=True)
class SessionTarget:
    """What came after the windows of one session, and what it counts to have missed it.

    Attributes:
        frames: [B, H, M], normalised.
        weight: [B, 1, M], what the squared errors of a row are multiplied by.
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
            weight = entry.of_forecast(entry.frame.spread, 2).square().reciprocal()
        return cls(frames, weight if present is None else weight * present[:, None, None])

    def averaged(self) -> SessionTarget:
        """The same with weights over the number of values, so that the error is a mean."""
        return SessionTarget(self.frames, self.weight / self.frames.numel())

    def within(self, frame: WindowFrame) -> SessionTarget:
        """The same for forecasts that `frame` has not put back yet."""
        trusted = frame.trusted
        return SessionTarget((self.frames - frame.last) / trusted, self.weight * trusted.square())


@dataclass(frozen=True)
class ModelConfig:
    """What every model's config says; a model's own adds its name and sizes.

    Attributes:
        name: the model's name among the slots.
        context: frames a forecast is made from.
        horizon: frames forecast.
        relative: see and forecast each window relative to its last frame and spread (`models.relative`), in
            sessions whose frames persist. None: in a run what the protocol does (yes, under protocol poco
            no), elsewhere no, as published.
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

    def under(self, protocol: str) -> Self:
        """The same with the protocol's choices filled in."""
        if self.relative is not None:
            return self
        return dataclasses.replace(self, relative=protocol != "poco")

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
        splits_units: it forecasts sessions whose units are split over workers (`SessionInput.peers`).
    """

    config: ModelConfig
    splits_units: ClassVar[bool] = False

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        """What belongs to a session of so many units before training; it reads no weight of the backbone."""
        raise NotImplementedError

    def forecast_windows(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        """Forecasts [B_i, H, M_i] of sessions that have windows (at least one of them, each B_i > 0)."""
        raise NotImplementedError

    def error_of_windows(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        """Squared errors of `forecast_windows`, weighted and summed: a scalar."""
        errors = [
            (target.weight * (forecast.to(target.frames.dtype) - target.frames).square()).sum()
            for forecast, target in zip(self.forecast_windows(inputs), targets, strict=True)
        ]
        return torch.stack(errors).sum()

    def seen(self, entry: SessionInput, target: SessionTarget) -> tuple[SessionInput, SessionTarget]:
        """Windows of one session, and what came after them, as `error_of_windows` is given them."""
        (seen,), (frame,) = self._enter([entry])
        return seen, target if frame is None else target.within(frame)

    def learn(self, entry: SessionInput, target: SessionTarget) -> Tensor:
        """The error of what is `seen`, whose gradients are added to all that require them."""
        error = self.error_of_windows([entry], [target])
        with torch.autocast(entry.context.device.type, enabled=False):
            error.backward()
        return error.detach()

    def forward(
        self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget] | None = None
    ) -> list[Tensor] | Tensor:
        """Forecasts every window of a batch, or says how far forecasts are from what came.

        Args:
            inputs: sessions with their windows, context [B_i, C, N_i]; a session may have none (B_i = 0).
            targets: what came after them.

        Returns:
            Without targets a forecast [B_i, H, M_i] for each session, in the order of `inputs`; M_i is N_i
            unless the input names the units to forecast. With targets the squared errors of all sessions,
            weighted and summed, a scalar: cheaper to learn from than forecasts.

        Raises:
            ConfigError: a context's length is not the model's.
        """
        present = [index for index, entry in enumerate(inputs) if len(entry.context)]
        seen, frames = self._enter([inputs[index] for index in present])
        if targets is not None:
            entered = [
                targets[index] if frame is None else targets[index].within(frame)
                for index, frame in zip(present, frames, strict=True)
            ]
            return self.error_of_windows(seen, entered) if present else torch.zeros(())
        forecasts = self.forecast_windows(seen) if present else []
        left = (
            forecast if frame is None else frame.leave(forecast)
            for forecast, frame in zip(forecasts, frames, strict=True)
        )
        horizon = self.config.horizon
        return [
            next(left) if len(entry.context) else entry.context.new_zeros(0, horizon, entry.num_forecast)
            for entry in inputs
        ]

    def _enter(self, inputs: Sequence[SessionInput]) -> tuple[list[SessionInput], list[WindowFrame | None]]:
        """What is seen of windows, and in which frame each session's units are forecast."""
        for entry in inputs:
            if entry.context.shape[1] != self.config.context:
                raise ConfigError(
                    f"a context of {entry.context.shape[1]} frames was given; "
                    f"this model forecasts from {self.config.context}."
                )
        seen: list[SessionInput] = []
        frames: list[WindowFrame | None] = []
        for entry in inputs:
            if not (self.config.relative and entry.interface.is_smooth):
                seen.append(entry)
                frames.append(None)
                continue
            frame = entry.frame
            seen.append(replace(entry, context=frame.enter(entry.context)))
            frames.append(WindowFrame(entry.of_forecast(frame.last, 2), entry.of_forecast(frame.spread, 2)))
        return seen, frames


class RowModel(Model):
    """A model that forecasts each row (one unit of one sample) from its own past, all with the same weights.

    It reads neither who the unit is nor what its neighbours do, so a session's own part is empty.
    """

    splits_units = True

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return Interface(num_units, 0)

    def forecast_rows(self, rows: Tensor) -> Tensor:
        """Contexts [R, C] to forecasts [R, H]."""
        raise NotImplementedError

    def forecast_windows(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        rows = rows_of(inputs)
        # No rows where a step forecasts some units, and all of those are other workers'.
        forecast = self.forecast_rows(rows) if len(rows) else rows.new_zeros(0, self.config.horizon)
        return windows_of(forecast, inputs)


def rows_of(inputs: Sequence[SessionInput]) -> Tensor:
    """Each forecast unit's own past in each window, [R, C], of all sessions one below the other."""
    return torch.cat([entry.of_forecast(entry.context, 2).transpose(1, 2).flatten(0, 1) for entry in inputs])


def windows_of(rows: Tensor, inputs: Sequence[SessionInput]) -> list[Tensor]:
    """Forecasts [R, H], in the order of `rows_of`, as [B_i, H, M_i] for each session."""
    shapes = [(len(entry.context), entry.num_forecast) for entry in inputs]
    parts = rows.split([size * num_units for size, num_units in shapes])
    return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, shapes, strict=True)]
