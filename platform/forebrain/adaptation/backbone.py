"""A backbone as it is used: loaded, adapted to a recording, and said whether that was worth it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.adapting import Mode, default_mode, train
from forebrain.adaptation.comparison import compare
from forebrain.adaptation.fit import FitConfig, WindowForecaster
from forebrain.adaptation.pretrained import Pretrained
from forebrain.adaptation.progress import Progress, progress_shown
from forebrain.adaptation.recording import prepare_session
from forebrain.adaptation.stacking import fit_closed_form, inputs_to_know, is_stacked, linear_on
from forebrain.notebook import facts
from forebrain.sessions.session import Session


class Backbone(Pretrained):
    """A trained backbone; what it holds is said at `Pretrained`."""

    def adapt(
        self,
        session: Session,
        mode: Mode | None = None,
        config: FitConfig | None = None,
        to_rate: bool = False,
        *,
        score: bool = True,
        rivals: bool = True,
        inputs: Sequence[str] | None = None,
        hold_out: Mapping[str, Sequence[float]] | None = None,
        minutes: float | None = None,
        progress: Progress | bool = True,
    ) -> Adapted:
        """Fits an interface for a session's units, or more, and weighs the model with regressions.

        This backbone stays as it is.

        Args:
            session: as it was recorded.
            mode: what is trained, see `adapting.train`; None for embeddings, or for nothing where there are
                only `minutes` or the model has no embeddings.
            config: the optimisation; None for the defaults.
            to_rate: resample where the recording has another rate than the backbone was trained on.
            score: score it on the part held back, beside copy, mean, linear, ridge and what else could have
                been done, such as no step at all.
            rivals: train what the recording could do for itself too, see `compare`; it takes twice as long
                again or longer.
            inputs: names of those of the session that forecasts may know; None for all that can be planned.
            hold_out: values of inputs by name, for protocol `values` (`under`).
            minutes: fit to so many minutes before the validation part and to no other frame, see
                `last_minutes`.
            progress: show how far it is; or is told, as `compare` says.

        Raises:
            RecordingError: nothing usable is in the recording.
            AdaptationError: it does not fit the backbone, or nothing moves in the parts that are scored.
        """
        config = config or FitConfig()
        mode = mode or default_mode(self.model, minutes)
        with progress_shown(progress) as told, config.few_threads(session.num_units):
            if score:
                comparison = compare(
                    self, session, mode, config, to_rate, told, rivals, inputs=inputs, hold_out=hold_out,
                    minutes=minutes,
                )  # fmt: skip
                return Adapted.of_comparison(comparison)
            prepared = prepare_session(session, self.description, self.rates_hz, to_rate, hold_out, minutes)
            known_inputs = inputs_to_know(prepared.session, inputs, is_stacked(self, config))
            steps = 0 if mode == "none" else config.steps
            trained = train(
                self, prepared, mode, config, after_step=lambda step: told("adapting: step", step, steps)
            )
            windows = prepared.windows
            model = WindowForecaster(trained.model, trained.interface, config)
            linear = linear_on(windows, config.seed)
            closed = fit_closed_form(
                self, model, windows, linear, known_inputs, config, "adapting", told,
                is_fitted=trained.best_step > 0,
            )  # fmt: skip
            stack = None if closed.stack is None else closed.stack.stack
            stacks = None if closed.inputs is None else closed.inputs.stacks
            return Adapted.of(self, prepared, trained, mode, stack, stacks, closed.calibration)

    def _repr_html_(self) -> str:
        config = self.model.config
        rates = ", ".join(f"{rate:.4g}" for rate in self.rates_hz[:6]) + ", ..." * (len(self.rates_hz) > 6)
        animals = {(seen.dataset, seen.subject) for seen in self.sessions}
        rows = [
            ("model", config.title),
            ("forecasts", f"{config.horizon} frames from {config.context}"),
            ("trained on", f"{len(self.sessions)} sessions of {len(animals)} animals"),
            ("species", ", ".join(sorted({seen.species for seen in self.sessions})) or "unknown"),
            ("rates", f"{rates} Hz" if rates else "unknown"),
        ]
        if self.deprecated is not None:
            rows.append(("deprecated", self.deprecated))
        return facts(str(self.origin), rows)

    def __repr__(self) -> str:
        config = self.model.config
        rates = ", ".join(f"{rate:.4g}" for rate in self.rates_hz[:4]) + ", ..." * (len(self.rates_hz) > 4)
        species = ", ".join(sorted({seen.species for seen in self.sessions}))
        return (
            f"{self.origin}: {config.title}, {config.context} frames to the next {config.horizon}, "
            f"trained on {len(self.sessions)} sessions of {species or 'unknown species'}"
            f"{f' at {rates} Hz' if rates else ''}"
            f"{'' if self.deprecated is None else f'; deprecated: {self.deprecated}'}"
        )
