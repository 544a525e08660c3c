"""A backbone adapted to one animal: what forecasts it, tells how well, and goes live."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import torch

from forebrain import realtime
from forebrain.accelerate import accelerate
from forebrain.adaptation.artifact import Artifact
from forebrain.adaptation.comparison import Comparison
from forebrain.adaptation.score import Score
from forebrain.adaptation.tables import embedding_table, forecast_table, unit_table
from forebrain.errors import AdaptationError
from forebrain.models.base import Model, SessionInput
from forebrain.realtime.forecaster import LiveConfig, LiveForecaster
from forebrain.scoring.conformal import window_spread
from forebrain.scoring.quantiles import BAND, require_levels
from forebrain.sessions.session import Session

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Adapted(Artifact):
    """A backbone with the interface of one animal; what it holds is said at `Artifact`.

    Attributes:
        comparison: how it came about, beside all else that was tried; None where it was not scored, or was
            opened from a folder.
    """

    comparison: Comparison | None = None

    @classmethod
    def of_comparison(cls, comparison: Comparison) -> Self:
        """The adaptation that a comparison was made of."""
        return cls(**vars(comparison.artifact()), comparison=comparison)

    @property
    def context(self) -> int:
        """C, frames that a forecast is made from."""
        return self.model.config.context

    @property
    def horizon(self) -> int:
        """H, frames forecast."""
        return self.model.config.horizon

    @property
    def num_units(self) -> int:
        """N."""
        return self.preprocessing.num_units

    @property
    def rate_hz(self) -> float | None:
        """Frames a second of windows and forecasts; None where the recording did not state it."""
        return self.preprocessing.rate_hz

    @overload
    def forecast(
        self, window: Session, *, quantiles: Sequence[float] | None = None, horizon: int | None = None
    ) -> pandas.DataFrame: ...
    @overload
    def forecast(
        self, window: Any, *, quantiles: Sequence[float] | None = None, horizon: int | None = None
    ) -> np.ndarray: ...
    def forecast(
        self, window: Any, *, quantiles: Sequence[float] | None = None, horizon: int | None = None
    ) -> np.ndarray | pandas.DataFrame:
        """Forecasts what follows a window, or a recording's end: points, or quantiles of what will come.

        Args:
            window: raw frames [at least C, N] at `rate_hz`, of the adapted units or of all that were
                recorded, of which the last C are used; or a session of the same animal, see `latest_window`.
            quantiles: levels, each inside (0, 1), of calibrated quantiles; None for points.
            horizon: frames to forecast, at most H; None for H.

        Returns:
            Of an array float32 [horizon, N] in the same units of measurement, with quantiles [horizon, N, Q];
            of a session a data frame of these, with seconds ahead as index and units as columns, with
            quantiles pairs (unit, quantile).

        Raises:
            AdaptationError: too few frames, other units, a value that is not finite, a longer horizon, or
                quantiles of an adaptation without calibrated intervals.
            ConfigError: a level is not inside (0, 1), or comes twice.
        """
        steps = self.horizon if horizon is None else horizon
        if not 1 <= steps <= self.horizon:
            raise AdaptationError(
                f"a horizon of {steps} frames was asked for; this model forecasts 1 to {self.horizon}."
            )
        levels = None if quantiles is None else require_levels(quantiles)
        if levels is not None and self.calibration is None:
            raise AdaptationError(
                "quantiles were asked for, and this adaptation has no calibrated intervals: it was made "
                "before there were any, or its validation part has no window. Adapt again, to a longer "
                "recording."
            )
        if isinstance(window, Session):
            frames = self.latest_window(window)
        else:
            frames = self.preprocessing.window(window, self.context)
        forecast = self._forecast(frames) if levels is None else self._quantiles(frames, levels)
        if isinstance(window, Session):
            return forecast_table(forecast[:steps], self.preprocessing, levels)
        return forecast[:steps]

    def latest_window(self, session: Session) -> np.ndarray:
        """The last frames of a recording of this animal, as `forecast` takes them: float32 [C, N].

        Args:
            session: as it was recorded, with the same units in the same order.

        Raises:
            AdaptationError: it has other units or another rate, ends with too few unbroken frames, or a unit
                has no value yet.
        """
        return self.preprocessing.latest_window(session, self.context)

    def stream(self, config: LiveConfig | None = None, *, threads: int = 1) -> LiveForecaster:
        """A live forecaster of this animal: frames in, forecasts out.

        Args:
            config: how the stream is normalised and judged; None for the defaults.
            threads: see `realtime.open`.
        """
        return realtime.open(
            self.model, self.interface, self.preprocessing, stack=self.stack, config=config, threads=threads,
            calibration=self.calibration,
        )  # fmt: skip

    @property
    def score(self) -> Score | None:
        """How good it is on the part held back, and whether adapting was worth it; None if not scored."""
        return None if self.result is None else Score.from_result(self.result)

    @property
    def units(self) -> pandas.DataFrame:
        """A row for each unit: place among the recorded ones, mean and scale."""
        return unit_table(self.preprocessing)

    @property
    def embeddings(self) -> pandas.DataFrame:
        """The units' embeddings: a row for each unit, a column for each dimension."""
        return embedding_table(self.interface.unit.detach().float().cpu().numpy(), self.preprocessing)

    def plot(self, session: Session | None = None) -> Figure:
        """A picture of the end of the recording: what came, and what had been forecast.

        Args:
            session: a recording of this animal, see `latest_window`; None for the one adapted to.

        Raises:
            AdaptationError: no recording is given and none is known, it does not fit, or it is too short.
        """
        from forebrain.adaptation.plot import forecasts_at_the_end  # needs matplotlib

        if session is not None:
            prepared = self.preprocessing.recording(session)
        elif self.comparison is not None:
            prepared = self.comparison.prepared.session
        else:
            raise AdaptationError(
                "which recording? This adaptation was opened from a folder, or not scored; give a session."
            )
        band = None
        if self.calibration is not None:
            band = partial(self._quantiles, levels=BAND)
        return forecasts_at_the_end(
            self._forecast, prepared, self.preprocessing, self.context, self.horizon, band
        )

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Writes what `save` does, and report.md with tables and pictures; the folder must not exist yet.

        Raises:
            AdaptationError: it was not scored, or was opened from a folder.
            StorageError: there is something of that name, or the disk is full.
        """
        from forebrain.adaptation.report import save_comparison  # needs matplotlib

        if self.comparison is None:
            raise AdaptationError(
                "there is nothing to report: this adaptation was opened from a folder, or not scored. Adapt "
                "again, or see the report beside it."
            )
        return save_comparison(self.comparison, folder)

    def __repr__(self) -> str:
        rate = "" if self.rate_hz is None else f" at {self.rate_hz:.4g} Hz"
        try:
            score = "not scored" if self.result is None else str(self.score)
        except AdaptationError as error:
            score = str(error)
        return (
            f"{self.origin} adapted to {self.identity.id} ({self.mode}): {self.num_units} units{rate}, "
            f"{self.context} frames to the next {self.horizon}\n{score}"
        )

    def _forecast(self, frames: np.ndarray) -> np.ndarray:
        return self.preprocessing.denormalise(self._normalised_forecast(frames))

    def _quantiles(self, frames: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """float32 [H, N, Q] of raw frames [C, N]."""
        assert self.calibration is not None
        forecast = self._normalised_forecast(frames)
        spread = window_spread(self.preprocessing.normalise(frames)[None])
        quantiles = self.calibration.quantiles(forecast[None], spread, levels)[:, 0]
        return np.moveaxis(self.preprocessing.denormalise(quantiles), 0, -1).astype(np.float32)

    @torch.inference_mode()
    def _normalised_forecast(self, frames: np.ndarray) -> np.ndarray:
        normalised = torch.from_numpy(self.preprocessing.normalise(frames)).to(self.interface.unit.device)
        (made,) = self._executor.forecast([SessionInput(normalised[None], self.interface)])
        forecast = made[0].cpu().numpy()
        if self.stack is not None:
            forecast = self.stack.forecast(normalised.cpu().numpy(), forecast)
        return forecast

    @cached_property
    def _executor(self) -> Model:
        return accelerate(self.model, "stream")

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: without what follows from the rest, and without the recording."""
        return {
            **{key: value for key, value in vars(self).items() if key != "_executor"},
            "comparison": None,
        }
