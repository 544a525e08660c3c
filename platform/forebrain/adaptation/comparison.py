"""Was adapting worth it? The model beside copy, mean, linear, as many steps from scratch, and no step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forebrain.adaptation.adapting import Adaptation, Trained, adapt, train, windows_to_score
from forebrain.adaptation.artifact import Mode
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.fit import FitConfig, WindowForecaster
from forebrain.errors import AdaptationError
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.evaluate import (
    WINDOWS_PER_SESSION,
    Evaluation,
    Forecaster,
    evaluate,
    fit_baselines,
)
from forebrain.scoring.protocols import Part
from forebrain.sessions.session import READER_NOTES, Session
from forebrain.shards.fits import persistence_remark

SCRATCH = "from scratch"
NOT_ADAPTED = "not adapted"
NOT_KNOWN = (
    "whether the backbone has seen this animal cannot be told, because its identity is guessed; name "
    "dataset, subject and session in a sidecar file"
)
TEST_ROWS = 2_000_000
SCORED_PARTS: tuple[Part, ...] = ("validation", "test")


@dataclass(frozen=True, eq=False)
class Comparison:
    """An adaptation beside what else could have been done.

    Attributes:
        adaptation: the chosen mode's.
        name: the adapted model's name among the forecasters.
        others: what else was trained, by name.
        forecasters: all that were scored, by name.
        validation, test: their scores; the test part was looked at once, at the end.
        leak: what the backbone has seen of this animal, in words; None for nothing that is known.
        seconds: wall time of everything.
    """

    adaptation: Adaptation
    name: str
    others: Mapping[str, Trained]
    forecasters: Mapping[str, Forecaster]
    validation: Evaluation
    test: Evaluation
    leak: str | None
    seconds: float

    def findings(self) -> list[str]:
        """What a person should know of the recording, a line each."""
        adapted, prepared = self.adaptation.adapted, self.adaptation.prepared
        found = [str(finding) for finding in prepared.report.findings]
        known = prepared.session.metadata
        found += [known[name] for name in READER_NOTES if name in known]
        if self.leak is None and "identity_note" in known:
            found.append(NOT_KNOWN)
        remark = persistence_remark(prepared.windows.persistence)
        if remark is not None and adapted.description.model.relative:
            found.append(remark)
        return found

    def verdict(self) -> str:
        """A plain sentence on whether adapting was worth it."""
        scores = {name: self.test.summary(name).value("score") for name in self.forecasters}
        own = scores.pop(self.name)
        best = max(scores, key=lambda name: scores[name])
        low, high = self.test.summary(self.name).bounds("score")
        figures = f"it scores {own:.3f} on the test part, {best} {scores[best]:.3f}"
        if self.adaptation.adapted.mode == "none":
            return f"Nothing was adapted: {figures}."
        if own <= scores[best]:
            return f"Adapting was not worth it: {figures}. Use {best}."
        if not scores[best] < low:
            within = f"({low:.3f} to {high:.3f})" if math.isfinite(low) else "(too few windows for one)"
            return f"Adapting helped, though by less than its interval {within}: {figures}."
        return f"Adapting was worth it: {figures} at best of all else."

    def result(self) -> dict[str, Any]:
        """What result.json holds."""
        adapted, trained = self.adaptation.adapted, self.adaptation.trained
        scores = {name: _plain(self.test.summary(name).value("score")) for name in self.forecasters}
        others = [name for name in scores if name != self.name and name not in BASELINES]
        return {
            "score": scores[self.name],
            "interval": [_plain(bound) for bound in self.test.summary(self.name).bounds("score")],
            "baselines": {name: scores[name] for name in BASELINES},
            "others": {name: scores[name] for name in others},
            "score_by_step": _curve(trained),
            "others_by_step": {name: _curve(other) for name, other in self.others.items()},
            "best_step": trained.best_step,
            "seconds": trained.seconds,
            "seconds_in_all": self.seconds,
            "leak": self.leak is not None,
            "leak_note": self.leak or (NOT_KNOWN if NOT_KNOWN in self.findings() else None),
            "verdict": self.verdict(),
            "mode": adapted.mode,
            "model": adapted.model,
            "session": self.adaptation.prepared.session.id,
            "validation": self.validation.result(self.name),
            "test": self.test.result(self.name),
        }


def compare(
    backbone: Backbone, session: Session, mode: Mode, config: FitConfig, to_rate: bool = False
) -> Comparison:
    """Adapts, trains from scratch on the same windows for as many steps, and scores all side by side.

    Arguments and errors are those of `adapt`.

    Raises:
        AdaptationError: nothing moves in the test part, so that no score exists.
    """
    began = time.perf_counter()
    adaptation = adapt(backbone, session, mode, config, to_rate)
    prepared = adaptation.prepared
    others: dict[str, Trained] = {}
    if mode not in ("scratch", "none"):
        others[SCRATCH] = train(backbone, prepared, "scratch", config)
    unadapted = None if mode == "none" else train(backbone, prepared, "none", config)
    name = SCRATCH if mode == "scratch" else NOT_ADAPTED if mode == "none" else f"adapted ({mode})"
    models = {name: adaptation.trained, **others}
    if unadapted is not None:
        models[NOT_ADAPTED] = unadapted
    windows = prepared.windows
    forecasters: dict[str, Forecaster] = {
        each: WindowForecaster(trained.model, trained.interface, config) for each, trained in models.items()
    }
    forecasters |= fit_baselines(windows, seed=config.seed)
    limit = windows_to_score(prepared, WINDOWS_PER_SESSION, TEST_ROWS)
    validation, test = (
        evaluate(forecasters, windows, part, windows_per_session=limit, seed=config.seed)
        for part in SCORED_PARTS
    )
    if not test.summary(name).num_sessions:
        raise AdaptationError(f"session {prepared.session.id}: nothing moves in its test part.")
    leak = leak_of(backbone, session)
    seconds = time.perf_counter() - began
    return Comparison(adaptation, name, others, forecasters, validation, test, leak, seconds)


def leak_of(backbone: Backbone, session: Session) -> str | None:
    """What a backbone has seen of this animal, in words; None for nothing that is known."""
    same = [seen for seen in backbone.sessions if seen.subject == session.subject]
    if any((seen.dataset, seen.session) == (session.dataset, session.session) for seen in same):
        return f"the backbone was trained on this very session, {session.id}: its scores flatter it"
    if any(seen.dataset == session.dataset for seen in same):
        return (
            f"the backbone was trained on other sessions of this animal, {session.dataset}/"
            f"{session.subject}: the scores say nothing of animals that it has not seen"
        )
    if same:
        return (
            f"the backbone was trained on an animal that is called {session.subject} too, in "
            f"{same[0].dataset}: if it is the same one, the scores flatter it"
        )
    return None


def _curve(trained: Trained) -> list[dict[str, float | None]]:
    return [{"step": step, "score": _plain(score)} for step, score in trained.score_by_step]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
