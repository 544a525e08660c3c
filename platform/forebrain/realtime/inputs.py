"""The inputs of a stream: what was done so far, and what is planned, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forebrain.errors import AdaptationError, FrameError
from forebrain.realtime.ring import Ring
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.input_stacks import InputStacks, Known, as_inputs, held
from forebrain.sessions.inputs import in_order

# Longest plan that is queued, in horizons: what comes from the network has a bounded size.
MAX_HORIZONS = 64


class LiveInputs:
    """Inputs up to the newest frame, and a queue of those that are planned for the frames after it.

    A frame that brings none, or a value that is not finite, holds a level at its last value and an event at
    zero. Without any since the stream began, forecasts know the activity alone.

    Args:
        stacks: that forecast with inputs.
        context, horizon: C and H, frames.
    """

    def __init__(self, stacks: InputStacks, context: int, horizon: int) -> None:
        self.stacks, self.horizon = stacks, horizon
        self._is_event = np.array([each.kind == "event" for each in stacks.inputs])
        self._past = Ring(stacks.frames_before(context), len(stacks.inputs))
        self._context = context
        self._last: np.ndarray | None = None
        self._plan = np.zeros((0, len(stacks.inputs)), np.float32)
        # Of the newest forecast with a plan, and of that without: the features of its context and horizon,
        # the inputs it took the horizon to have, and how many frames of inputs had come.
        self._features: dict[bool, tuple[np.ndarray, np.ndarray, int]] = {}
        self._count = 0

    @property
    def knows(self) -> Known:
        """What the next forecast will know."""
        if self._last is None:
            return "none"
        return self.stacks.known("plan" if len(self._plan) >= self.horizon else "past")

    @property
    def newest(self) -> np.ndarray:
        """[D], those of the newest frame as they were taken; NaN before any came."""
        return np.full(len(self._is_event), np.nan, np.float32) if self._last is None else self._last

    @property
    def past(self) -> np.ndarray | None:
        """[T, D], those up to the newest frame, oldest first; None before any came."""
        return None if self._last is None else self._past.window

    @property
    def plan(self) -> np.ndarray:
        """[at most H, D], those that are planned for the next frames."""
        return self._plan[: self.horizon]

    @property
    def extrapolates(self) -> list[str]:
        """Names of the inputs that the plan takes out of the range that they had in the recording."""
        return self.stacks.outside(self._plan[: self.horizon]) if self.knows == "plan" else []

    def checked(self, values: Any, plan: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        """A frame's inputs [D] and the plan [L, D] of the frames after it. Raises FrameError."""
        inputs = self.stacks.inputs
        found = None
        if values is not None:
            try:
                found = in_order(values, self.stacks.names, 1, "the frame's inputs")
            except AdaptationError as error:
                raise FrameError(str(error)) from error
            if found.shape != (len(inputs),):
                raise FrameError(
                    f"the frame's inputs have shape {found.shape}; expected ({len(inputs)},), of "
                    f"{', '.join(self.stacks.names)}."
                )
        # A plan stays queued, and the sender may fill its array anew.
        return found, None if plan is None else self.checked_plan(plan).copy()

    def checked_plan(self, plan: Any) -> np.ndarray:
        """A plan as float32 [L, D], L at least H. Raises FrameError."""
        try:
            values = as_inputs(plan, self.stacks.inputs, "the plan")
        except AdaptationError as error:
            raise FrameError(str(error)) from error
        most = MAX_HORIZONS * self.horizon
        if not self.horizon <= len(values) <= most:
            raise FrameError(f"the plan has {len(values)} frames; expected {self.horizon} to {most}.")
        return values

    def push(self, values: np.ndarray | None, plan: np.ndarray | None) -> None:
        """Takes in the inputs of a frame, and what is planned after it, if that is new."""
        if values is not None and self._last is None:
            self._last = np.zeros(len(self._is_event), np.float32)
            self._begin(np.where(self._is_event | ~np.isfinite(values), 0, values))
        if self._last is not None:
            held = np.where(self._is_event, np.float32(0), self._last)
            self._last = held if values is None else np.where(np.isfinite(values), values, held)
            self._past.push(self._last)
            self._count += 1
        self._plan = self._plan[1:] if plan is None else plan

    def pass_over(self, missing: int) -> None:
        """Frames that did not come."""
        for _ in range(min(missing, self._past.length)):
            self.push(None, None)
        self._plan = self._plan[max(0, missing - self._past.length) :]

    def restart(self) -> None:
        """What was is not what goes before the next frame."""
        self._last, self._plan = None, self._plan[:0]

    def forecast(self, context: np.ndarray, model: Forecaster) -> np.ndarray:
        """Forecasts [H, N] from a normalised window [C, N], knowing what `knows` says: not `none`."""
        plan = self._plan[: self.horizon] if self.knows == "plan" else None
        return self._forecast(context, model, plan)

    def what_if(self, context: np.ndarray, model: Forecaster, plan: np.ndarray) -> np.ndarray:
        """The forecast [H, N] under another plan [H, D]; nothing changes. Raises FrameError."""
        self._require_response()
        return self._forecast(context, model, plan)

    def effect(self, plan: np.ndarray, levels: Sequence[float] | None = None) -> np.ndarray:
        """What a plan [H, D] changes of a forecast in which inputs stay as they are, normalised [H, N]; of
        levels quantiles [H, N, Q]. Raises FrameError, and ConfigError where nothing is known of these."""
        self._require_response()
        past = self._past.window
        stays = held(past, self.stacks.inputs, self.horizon)
        return self.stacks.effect(self._context, past, plan, stays, levels)

    def state(self) -> dict[str, np.ndarray]:
        """A copy of everything that `restore` needs."""
        last = np.zeros(0, np.float32) if self._last is None else self._last
        return {"inputs": self._past.window.copy(), "last_inputs": last.copy(), "plan": self._plan.copy()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes on where inputs of the same stacks were; a state of others, or of none, begins anew."""
        if arrays.get("inputs", self._plan).shape != self._past.window.shape:
            self.restart()
            return
        self._past.restore(arrays["inputs"], self._past.length)
        self._features.clear()
        self._last = arrays["last_inputs"] if len(arrays["last_inputs"]) else None
        self._plan = arrays["plan"]

    def _require_response(self) -> None:
        if self._last is None or self.stacks.plan is None:
            why = "no inputs have come yet" if self._last is None else "no plan is known to help here"
            raise FrameError(f"what would be under a plan cannot be told: {why}.")

    def _begin(self, first: np.ndarray) -> None:
        self._features.clear()
        for _ in range(self._past.length):
            self._past.push(first)

    def _forecast(self, context: np.ndarray, model: Forecaster, plan: np.ndarray | None) -> np.ndarray:
        past, planned = self._past.window[None], None if plan is None else plan[None]
        features = self._response_features(past, planned)
        forecast: np.ndarray = self.stacks.forecast(context[None], model, past, planned, features)[0]
        return forecast

    def _response_features(self, past: np.ndarray, plan: np.ndarray | None) -> np.ndarray | None:
        """[1, C + H, F], see `InputStacks.response_features`. Those of an earlier forecast are kept up to the
        first frame whose inputs came, or are planned now, otherwise than was planned then."""
        ahead = self.stacks.inputs_ahead(past, plan)
        if ahead is None:
            return None
        before, new = self._features.get(plan is not None), self._context
        if before is not None:
            features, expected, count = before
            new = self._count - count
        if before is None or new >= self._context:
            features = self.stacks.response_features(past, plan, ahead, self._context + self.horizon)
        else:
            came = np.concatenate([past[0, past.shape[1] - new :], ahead[0]])[: self.horizon]
            differs = (came != expected[0]).any(axis=1)
            kept = int(differs.argmax()) if differs.any() else self.horizon
            if missing := new + self.horizon - kept:
                formed = self.stacks.response_features(past, plan, ahead, missing)
                features = np.concatenate([features[:, new : self._context + kept], formed], axis=1)
        self._features[plan is not None] = features, ahead.copy(), self._count
        return features
