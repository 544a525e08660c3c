"""A backbone adapted to one animal: what forecasts it, tells how well, and goes live."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import torch

from forebrain import realtime
from forebrain.accelerate import accelerate
from forebrain.adaptation.artifact import Artifact
from forebrain.adaptation.comparison import Comparison
from forebrain.adaptation.plans import Choice, ExtrapolationWarning, response_table, unit_weights
from forebrain.adaptation.score import Score
from forebrain.adaptation.tables import embedding_table, forecast_table, unit_table
from forebrain.errors import AdaptationError, ConfigError, RecordingError
from forebrain.models.base import Model, SessionInput
from forebrain.notebook import facts
from forebrain.realtime.forecaster import LiveConfig, LiveForecaster
from forebrain.scoring.conformal import window_spread
from forebrain.scoring.input_stacks import HOLD, KNOWN, InputStacks, Known, as_inputs, held, reaching_back
from forebrain.scoring.quantiles import BAND, require_levels
from forebrain.sessions.session import Session, other_animal

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
        self,
        window: Session,
        inputs: Any = None,
        plan: Any = None,
        *,
        quantiles: Sequence[float] | None = None,
        horizon: int | None = None,
    ) -> pandas.DataFrame: ...
    @overload
    def forecast(
        self,
        window: Any,
        inputs: Any = None,
        plan: Any = None,
        *,
        quantiles: Sequence[float] | None = None,
        horizon: int | None = None,
    ) -> np.ndarray: ...
    def forecast(
        self,
        window: Any,
        inputs: Any = None,
        plan: Any = None,
        *,
        quantiles: Sequence[float] | None = None,
        horizon: int | None = None,
    ) -> np.ndarray | pandas.DataFrame:
        """Forecasts what follows a window, or a recording's end: points, or quantiles of what will come.

        Args:
            window: raw frames [at least C, N] at `rate_hz`, of the adapted units or of all that were
                recorded, of which the last C are used; or a session of the same animal, see `latest_window`.
            inputs: what was done so far: values [T, D] of `input_names` up to the window's last frame, or a
                mapping or data frame by name; of a session True, for those that it has. None: not known.
            plan: what will be done: values of the next H frames likewise, or `hold` for inputs that stay as
                they are. None: not known. With a session its own inputs go before it.
            quantiles: levels, each inside (0, 1), of quantiles calibrated on forecasts that know as much as
                this one; None for points.
            horizon: frames to forecast, at most H; None for H.

        Returns:
            Of an array float32 [horizon, N] in the same units of measurement, with quantiles [horizon, N, Q];
            of a session a data frame of these, with seconds ahead as index and units as columns, with
            quantiles pairs (unit, quantile).

        Raises:
            AdaptationError: too few frames, other units or inputs, a value that is not finite, a plan for
                what cannot be planned, a longer horizon, or quantiles without calibrated intervals.
            ConfigError: a level is not inside (0, 1), or comes twice.

        Warns:
            ExtrapolationWarning: a plan leaves the range that an input had in the recording.
            RateWarning: a session's rate is another, within the tolerance; see `Preprocessing.recording`.
            ValuesWarning: a session's values have left what was fitted, or units have none; see there.
        """
        steps = self._steps(horizon)
        levels = None if quantiles is None else require_levels(quantiles)
        if levels is not None and self.calibration is None:
            raise AdaptationError(
                "quantiles were asked for, and this adaptation has no calibrated intervals: it was made "
                "before there were any, or its validation part has no window. Adapt again, to a longer "
                "recording."
            )
        frames, past = self._window_and_inputs(window, inputs, plan is not None)
        planned = None if plan is None else self._plan(plan, past)
        forecast = self._forecast(frames, past, planned)
        if levels is not None:
            forecast = self._quantiles(frames, forecast, levels, self._knows(past, planned))
        _require_finite(forecast)
        if isinstance(window, Session):
            return forecast_table(forecast[:steps], self.preprocessing, levels)
        return forecast[:steps]

    @overload
    def effect(
        self,
        window: Session,
        plan: Any,
        against: Any = None,
        inputs: Any = None,
        *,
        quantiles: Sequence[float] | None = None,
    ) -> pandas.DataFrame: ...
    @overload
    def effect(
        self,
        window: Any,
        plan: Any,
        against: Any = None,
        inputs: Any = None,
        *,
        quantiles: Sequence[float] | None = None,
    ) -> np.ndarray: ...
    def effect(
        self,
        window: Any,
        plan: Any,
        against: Any = None,
        inputs: Any = None,
        *,
        quantiles: Sequence[float] | None = None,
    ) -> np.ndarray | pandas.DataFrame:
        """The difference that a plan makes: the forecast under it less the forecast under another.

        It is an association under the inputs that were recorded, not a cause beyond them (docs/inputs.md).

        Args:
            window, inputs: as `forecast` takes them.
            plan: what will be done.
            against: instead of what; None for inputs that stay as they are.
            quantiles: levels, each inside (0, 1), of where the estimated answer may truly lie: refitted
                without one block of time after another, and as far off as answers usually are. The noise of
                a recording is not in it, as it is in a forecast's quantiles. None for the effect itself.

        Returns:
            float32 [H, N] in the recording's units of measurement, with quantiles [H, N, Q]; of a session a
            data frame.

        Raises:
            AdaptationError: as of `forecast`; no plan is known to help on this recording; or quantiles of an
                adaptation that was made before there were any.
            ConfigError: a level is not inside (0, 1), or comes twice.
        """
        levels = None if quantiles is None else require_levels(quantiles)
        stacks = self._planned_stacks()
        _, past = self._window_and_inputs(window, inputs, True)
        assert past is not None
        planned, other = (self._plan(each, past) for each in (plan, HOLD if against is None else against))
        before = reaching_back(past, stacks.inputs, stacks.frames_before(self.context))
        try:
            effect = stacks.effect(self.context, before, planned, other, levels)
        except ConfigError as error:
            raise AdaptationError(
                "quantiles of an effect were asked for, and this adaptation was made before there were any. "
                "Adapt again."
            ) from error
        effect = effect * (self.preprocessing.scale if levels is None else self.preprocessing.scale[:, None])
        _require_finite(effect)
        return forecast_table(effect, self.preprocessing, levels) if isinstance(window, Session) else effect

    def response(self, name: str) -> pandas.DataFrame:
        """Each unit's expected answer to one input, over as long as it was looked for.

        Args:
            name: of an input that can be planned. An event happens once; a level goes from rest to the
                highest value that it had, and stays.

        Returns:
            A data frame: seconds after as index, units as columns, in the recording's units of measurement.

        Raises:
            AdaptationError: there is no such input, or no plan is known to help on this recording.
        """
        return response_table(self._planned_stacks(), name, self.preprocessing)

    def choose(
        self,
        window: Any,
        plans: Sequence[Any],
        objective: Mapping[str, float] | np.ndarray,
        inputs: Any = None,
    ) -> Choice:
        """The plan that is forecast to bring an objective nearest.

        Args:
            window, inputs: as `forecast` takes them.
            plans: what could be done, one or more.
            objective: a weight for each unit, by name or [N]: units with a positive one are to be raised,
                those with a negative one lowered. Units count by their own deviations.

        Raises:
            AdaptationError: as of `forecast`; no plan is known to help on this recording, there are none to
                choose from, or a unit is not known.
        """
        self._planned_stacks()
        if not len(plans):
            raise AdaptationError("there is no plan to choose from; give one or more.")
        weights = unit_weights(objective, self.preprocessing)
        frames, past = self._window_and_inputs(window, inputs, True)
        assert past is not None
        forecasts = np.stack([self._forecast(frames, past, self._plan(each, past)) for each in plans])
        _require_finite(forecasts)
        values = (self.preprocessing.normalise(forecasts).mean(axis=1) @ weights).astype(float)
        return Choice(int(values.argmax()), values)

    def known(self, inputs: Any = None, plan: Any = None) -> str:
        """What a forecast that is given these knows, in words; less than was given where it did not help."""
        wanted: Known = "plan" if plan is not None else "past" if inputs not in (None, False) else "none"
        known = "none" if self.inputs is None else self.inputs.known(wanted)
        return KNOWN[known]

    @property
    def input_names(self) -> tuple[str, ...]:
        """D names of the inputs that forecasts can know, in the order of arrays of them."""
        return () if self.inputs is None else self.inputs.names

    def other_animal(self, session: Session) -> str | None:
        """A sentence that tells of a recording of another animal by name; None where nothing tells it."""
        return other_animal(session, self.identity.dataset, self.identity.subject)

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
            calibration=self.calibration, inputs=self.inputs,
            about={"model": str(self.origin), **asdict(self.identity)},
        )  # fmt: skip

    @property
    def score(self) -> Score | None:
        """How good it is on the part held back, and whether adapting was worth it; None if not scored."""
        return None if self.result is None else Score.from_result(self.result)

    @property
    def units(self) -> pandas.DataFrame:
        """A row for each unit, in the order of the forecasts' columns.

        `region` and `x`, `y`, `z` where the recording tells them. Where it was scored, on the test part:
        `explained` (part of the unit's variance), `noise_ceiling` (of what can be explained), `r2` (about the
        mean of the training part), `correlation`, `score` (against copy, which favours noise) and
        `trusted_seconds` (how far ahead at least a quarter is explained). `column` among the recorded units,
        `mean` and `scale`.
        """
        return unit_table(self.preprocessing, (self.evaluation or {}).get("units"))

    @property
    def embeddings(self) -> pandas.DataFrame:
        """The units' embeddings: a row for each unit, a column for each dimension."""
        return embedding_table(self.interface.unit.detach().float().cpu().numpy(), self.preprocessing)

    def plot_response(self, name: str) -> Figure:
        """A picture of `response`: units by seconds after an input, in order of how they answer.

        Raises:
            AdaptationError: as of `response`.
        """
        from forebrain.adaptation.plot import responses  # needs matplotlib

        return responses(self.response(name) / self.preprocessing.scale, name, self.identity.id)

    def plot(self, session: Session | None = None) -> Figure:
        """A picture of the end of the recording: what came, and what had been forecast.

        Where a plan is known to help, the forecasts that knew the inputs that came stand beside those that
        did not.

        Args:
            session: a recording of this animal, see `latest_window`; None for the one adapted to.

        Raises:
            AdaptationError: no recording is given and none is known, it does not fit, or it is too short.
        """
        from forebrain.adaptation.plot import forecasts_at_the_end  # needs matplotlib

        if session is not None:
            prepared = self.preprocessing.recording(session, self.context)
        elif self.comparison is not None:
            prepared = self.comparison.prepared.session
        else:
            raise AdaptationError(
                "which recording? This adaptation was opened from a folder, or not scored; give a session."
            )
        band = None if self.calibration is None else self._band
        planned: Callable[[int], tuple[np.ndarray, np.ndarray | None]] | None = None
        stacks, drawn = self.inputs, {}
        if stacks is not None and stacks.plan is not None and prepared.stimulus is not None:
            values = prepared.input_values(stacks.names)
            start = prepared.segments[-1][0]
            drawn = {name: values[:, column] for column, name in enumerate(stacks.names)}

            def under_plan(origin: int) -> tuple[np.ndarray, np.ndarray | None]:
                frames = prepared.frames(origin - self.context, origin)
                plan = values[origin : origin + self.horizon]
                forecast = self._forecast(frames, values[start:origin], plan)
                if self.calibration is None or "plan" not in stacks.calibrations:
                    return forecast, None
                return forecast, self._quantiles(frames, forecast, BAND, "plan")

            band, planned = None, under_plan

        return forecasts_at_the_end(
            self._forecast, prepared, self.preprocessing, self.context, self.horizon, band, planned, drawn
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

    def _repr_html_(self) -> str:
        rows = [
            ("model", f"{self.origin}, mode {self.mode}"),
            ("units", f"{self.num_units:,}"),
            ("forecasts", f"{self.horizon} frames from {self.context}"),
        ]
        if self.rate_hz is not None:
            rows.append(("rate", f"{self.rate_hz:.4g} Hz, so {self.horizon / self.rate_hz:.3g} s ahead"))
        title, score = f"{self.identity.id}, adapted", self.score
        if score is None:
            return facts(title, rows, "not scored")
        known = {"adapted": score.value, **score.others, **score.baselines}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in known.items() if math.isfinite(value))
        return facts(
            title, [*rows, ("score", shown)], score.verdict, f"Leak: {score.leak}." if score.leak else ""
        )

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

    def _steps(self, horizon: int | None) -> int:
        steps = self.horizon if horizon is None else horizon
        if not 1 <= steps <= self.horizon:
            raise AdaptationError(
                f"a horizon of {steps} frames was asked for; this model forecasts 1 to {self.horizon}."
            )
        return steps

    def _window_and_inputs(
        self, window: Any, inputs: Any, plans: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Checked frames [C, N], and inputs [T, D] that go before a plan or are known anyway."""
        if inputs is False:
            inputs = None
        if (inputs is not None or plans) and self.inputs is None:
            raise AdaptationError(
                f"this adaptation to {self.identity.id} knows no inputs: the recording had none that "
                "change, or they were left out. Adapt to one that has them."
            )
        if isinstance(window, Session):
            recorded = self.preprocessing.recording(window, self.context)
            frames = self.preprocessing.last_window(recorded, self.context)
            if self.inputs is None or (not plans and inputs is None):
                return frames, None
            if inputs is None or inputs is True:
                start, stop = recorded.segments[-1]
                try:
                    values = recorded.input_values(self.input_names)[start:stop]
                except RecordingError as error:
                    raise AdaptationError(str(error)) from error
                return frames, as_inputs(values, self.inputs.inputs, f"session {window.id}")
        else:
            frames = self.preprocessing.window(window, self.context)
        if inputs is None:
            if plans:
                raise AdaptationError(
                    "a plan was given without the inputs so far; expected inputs [frames, "
                    f"{len(self.input_names)}] up to the window's last frame, of "
                    f"{', '.join(self.input_names)}."
                )
            return frames, None
        assert self.inputs is not None
        return frames, as_inputs(inputs, self.inputs.inputs, "inputs")

    def _plan(self, plan: Any, past: np.ndarray | None) -> np.ndarray:
        """The values that a plan stands for, float32 [H, D]."""
        assert self.inputs is not None and past is not None
        inputs = self.inputs.inputs
        if isinstance(plan, str):
            if plan != HOLD:
                raise AdaptationError(f"plan {plan!r:.40} is unknown; expected values, or {HOLD!r}.")
            return held(past, inputs, self.horizon)
        if hasattr(plan, "keys"):
            planned = [each for each in inputs if each.can_be_planned]
            named = {str(name) for name in plan.keys()}  # noqa: SIM118
            if behaviour := [each.name for each in inputs if not each.can_be_planned and each.name in named]:
                raise AdaptationError(
                    f"plan: {', '.join(behaviour)} cannot be planned, only watched; expected a plan of "
                    f"{', '.join(each.name for each in planned)}."
                )
            values = held(past, inputs, self.horizon)
            given = as_inputs(plan, planned, "plan")
            if len(given) == self.horizon:
                values = values.copy()
                values[:, [each.can_be_planned for each in inputs]] = given
            else:
                values = given
        else:
            values = as_inputs(plan, inputs, "plan")
        if len(values) != self.horizon:
            raise AdaptationError(
                f"plan: has {len(values)} frames; expected {self.horizon}, those that are forecast, at "
                f"{'the frames’ rate' if self.rate_hz is None else f'{self.rate_hz:.4g} Hz'}."
            )
        if outside := self.inputs.outside(values):
            warnings.warn(
                f"the plan takes {', '.join(outside)} out of the range that the recording had; what is "
                "forecast there is an extrapolation",
                ExtrapolationWarning,
                stacklevel=3,
            )
        return values

    def _planned_stacks(self) -> InputStacks:
        if self.inputs is None or self.inputs.response is None:
            raise AdaptationError(
                f"no plan is known to help on {self.identity.id}: its units were not seen to answer to an "
                "input that can be planned."
            )
        return self.inputs

    @torch.inference_mode()
    def _forecast(
        self, frames: np.ndarray, past: np.ndarray | None = None, plan: np.ndarray | None = None
    ) -> np.ndarray:
        context = self.preprocessing.normalise(frames)[None]
        stacks = self.inputs
        if self._knows(past, plan) == "none":
            forecast = self._model(0, context)
            if self.stack is not None:
                forecast = self.stack.forecast(context, forecast)
        else:
            assert stacks is not None and past is not None
            before = reaching_back(past, stacks.inputs, stacks.frames_before(self.context))
            forecast = stacks.forecast(
                context, self._model, before[None], None if plan is None else plan[None]
            )
        return self.preprocessing.denormalise(forecast[0])

    def _knows(self, past: np.ndarray | None, plan: np.ndarray | None) -> Known:
        """What a forecast that is given these knows."""
        if self.inputs is None or past is None:
            return "none"
        return self.inputs.known("past" if plan is None else "plan")

    def _band(self, frames: np.ndarray) -> np.ndarray:
        return self._quantiles(frames, self._forecast(frames), BAND)

    def _quantiles(
        self, frames: np.ndarray, forecast: np.ndarray, levels: Sequence[float], known: Known = "none"
    ) -> np.ndarray:
        """float32 [H, N, Q] about the forecast [H, N] of raw frames [C, N] that knows so much."""
        assert self.calibration is not None
        calibration = self.calibration
        if self.inputs is not None:  # of one from before there were such, the others are rather too wide
            calibration = self.inputs.calibrations.get(known, calibration)
        spread = window_spread(self.preprocessing.normalise(frames)[None])
        normalised = self.preprocessing.normalise(forecast)[None]
        quantiles = calibration.quantiles(normalised, spread, levels)[:, 0]
        return np.moveaxis(self.preprocessing.denormalise(quantiles), 0, -1).astype(np.float32)

    def _model(self, session: int, context: np.ndarray) -> np.ndarray:
        """The model's forecasts [B, H, N] of normalised contexts [B, C, N]."""
        frames = torch.from_numpy(np.ascontiguousarray(context)).to(self.interface.unit.device)
        (forecast,) = self._executor.forecast([SessionInput(frames, self.interface)])
        values: np.ndarray = forecast.cpu().numpy()
        return values

    @cached_property
    def _executor(self) -> Model:
        return accelerate(self.model, "stream")

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: without what follows from the rest, and without the recording."""
        return {
            **{key: value for key, value in vars(self).items() if key != "_executor"},
            "comparison": None,
        }


def _require_finite(forecast: np.ndarray) -> None:
    """Raises AdaptationError."""
    if not np.isfinite(forecast).all():
        raise AdaptationError(
            "the window, the inputs or the plan are so far from the recording that no finite forecast "
            "follows; expected them in the recording's own units."
        )
