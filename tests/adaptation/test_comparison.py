"""A comparison scores all modes alike, and its verdict follows from the scores."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.comparison import Comparison, compare, leak_of
from forebrain.adaptation.description import Description
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.origin import weights_of
from forebrain.adaptation.report import save_comparison
from forebrain.adaptation.score import Lead
from forebrain.errors import AdaptationError
from forebrain.models.baselines.mlp import MlpConfig
from forebrain.sessions.session import Session
from forebrain_registry import Metadata, Registry, SeenSession, publish

QUICK = FitConfig(steps=6, batch_size=4)


@pytest.fixture
def backbone(registry: Registry, publish_backbone: Callable[..., str]) -> Backbone:
    return Backbone.from_registry(publish_backbone(), registry.uri)


@pytest.mark.parametrize("mode", ["embeddings", "forecaster", "full", "scratch", "none"])
def test_every_mode_scores_beside_the_others_and_loads(
    mode: str, backbone: Backbone, walk: Callable[..., Session], tmp_path: Path
) -> None:
    session = walk(9, num_frames=300)
    comparison = compare(backbone, session, mode, QUICK)
    result = comparison.result()
    alone = {"scratch": "from scratch", "none": "not adapted"}.get(mode, "backbone alone")
    others = {"from scratch", "not adapted"} if mode != "none" else set()
    assert comparison.name == f"adapted ({mode})" and set(result["others"]) == {alone, *others}
    unknown = {"embeddings": set(), "none": {"era", "self"}, "scratch": {"self"}}.get(mode, set())
    assert {name for name, score in result["baselines"].items() if score is None} == unknown
    assert set(result["baselines"]) == {"copy", "mean", "linear", "ridge", "era", "self"}
    assert result["weights"]["weights"].keys() == result["weights"]["worth"].keys()
    assert result["noise_ceiling"] <= 1
    assert len(result["score_by_step"]) == (1 if mode == "none" else 4)
    assert result["score"] == comparison.test.scores[comparison.name][session.id].value("score")
    adapted = Adapted.of_comparison(comparison)
    adapted.save(tmp_path / "out")
    loaded = Adapted.load(tmp_path / "out")
    raw = session.frames(0, 20)
    assert (loaded.forecast(raw) == adapted.forecast(raw)).all()
    assert (tmp_path / "out" / "backbone.safetensors").exists() == (mode in ("forecaster", "full", "scratch"))


def test_it_says_when_windows_are_seen_as_they_are(
    registry: Registry, publish_backbone: Callable[..., str], walk: Callable[..., Session]
) -> None:
    backbone, session = Backbone.from_registry(publish_backbone(), registry.uri), walk(9, num_frames=300)
    noise = np.random.default_rng(0).normal(size=session.traces.shape).astype(np.float32)
    smooth, rough = (
        compare(backbone, replace(session, traces=traces), "none", QUICK).findings()
        for traces in (session.traces, noise)
    )
    assert not any("correlate" in finding for finding in smooth)
    assert sum("a frame and the next correlate by" in finding for finding in rough) == 1


def test_a_recording_in_which_nothing_moves_at_the_end_has_no_score(
    backbone: Backbone, walk: Callable[..., Session]
) -> None:
    traces = walk(9, num_frames=300).frames(0, 300)
    traces[235:] = traces[235]
    with pytest.raises(AdaptationError, match="nothing moves in its test part"):
        compare(backbone, replace(walk(9), traces=traces), "none", QUICK)


@pytest.mark.parametrize(
    ("mode", "lead", "words"),
    [
        (
            "embeddings",
            Lead("linear", 0.1, 0.04, 0.16),
            "Adapting was worth it: .*0.300 .*linear, 0.200 .*0.040",
        ),
        ("embeddings", Lead("linear", 0.1, -0.04, 0.24), "chance may have done it: .*linear, 0.200 .*-0.040"),
        ("full", Lead("linear", 0.1, float("nan"), float("nan")), "too few windows to be sure: .*linear"),
        ("embeddings", Lead("linear", -0.1, -0.2, 0), "Adapting was not worth it: .* Use linear"),
        ("embeddings", Lead("linear", -0.1, -0.3, 0.1), "Adapting does not seem worth it: .* Use linear"),
        ("embeddings", Lead("linear", 0.02, 0.01, 0.03), "was worth it, a little: .*0.020 ahead"),
        ("embeddings", Lead("ridge", 0.004, 0.001, 0.007), "no difference that matters: .* as well: ridge"),
        ("full", Lead("self", -0.004, -0.01, 0.002), r"no difference that matters: .*0.002\)\.$"),
        ("full", Lead("from scratch", -0.1, -0.2, 0), "not worth it: .* Use --mode scratch --stack false"),
        ("full", Lead("not adapted", 0.0, 0, 0), "no difference that matters: .* as well: --mode none"),
        ("scratch", Lead("not adapted", -0.1, -0.2, 0), "Training from scratch was not worth it"),
        ("none", Lead("linear", 0.1, 0.04, 0.16), "No step was taken: .*0.300 .*linear, 0.200"),
        ("full", Lead("self", -0.1, -0.2, 0), "not worth it: .* Use --mode scratch"),
        ("full", Lead("backbone alone", -0.1, -0.2, 0), "not worth it: .* Use --stack false"),
    ],
)
def test_the_verdict_follows_from_the_lead(mode: str, lead: Lead, words: str) -> None:
    made = SimpleNamespace(
        name="model",
        lead=lambda: lead,
        _score=lambda name: 0.3 if name == "model" else 0.2,
        mode=mode,
        far=lambda: "",
        beside_linear=lambda: "",
    )
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(Comparison.verdict(made))


def test_the_lead_is_over_the_best_of_all_else_on_the_same_windows(
    backbone: Backbone, walk: Callable[..., Session]
) -> None:
    comparison = compare(backbone, walk(9, num_frames=600), "embeddings", QUICK)
    result = comparison.result()
    others = {**result["baselines"], **result["others"]}
    lead = comparison.lead()
    assert lead.over == result["lead"]["over"] == max(others, key=others.__getitem__)
    assert lead.score == pytest.approx(result["score"] - others[lead.over])
    assert result["lead"]["interval"] == [lead.low, lead.high]
    assert lead.low < lead.score < lead.high
    # What makes one stretch harder than another does so for both.
    assert lead.high - lead.low < result["interval"][1] - result["interval"][0]


def test_progress_is_told_of_steps_and_of_windows(backbone: Backbone, walk: Callable[..., Session]) -> None:
    told: list[tuple[str, int, int]] = []
    compare(
        backbone, walk(9, num_frames=300), "embeddings", QUICK,
        progress=lambda what, done, total: told.append((what, done, total)),
    )  # fmt: skip
    for what in ("adapted (embeddings): step", "from scratch: step"):
        assert [done for each, done, _ in told if each == what] == [0, 1, 2, 3, 4, 5, 6]
    for what in ("scoring the validation part: window", "scoring the test part: window"):
        assert [(done, total) for each, done, total in told if each == what][-1] == (45, 45)


def test_a_model_without_embeddings_is_weighed_as_it_is_beside_all_rivals(
    registry: Registry, description: Description, walk: Callable[..., Session]
) -> None:
    described = replace(description, model=MlpConfig(context=12, horizon=4, width=8))
    version = publish(
        registry, "plain", {"model.safetensors": weights_of(described.model.build())},
        Metadata(
            licence="MIT", config=described.config(), preprocessing=described.preprocessing(),
            sessions=(SeenSession("lab", "animal1", "one", "celegans", 2.5),),
        ),
    )  # fmt: skip
    plain = Backbone.from_registry(str(version), registry.uri)
    session = walk(9, num_frames=300)
    adapted = plain.adapt(session, config=QUICK, progress=False)
    assert adapted.mode == "none" and adapted.result is not None
    assert None not in adapted.result["baselines"].values()  # self and era among them
    with pytest.raises(AdaptationError, match="choose mode none or full"):
        plain.adapt(session, "embeddings", QUICK)


def test_a_leak_is_told_by_session_animal_and_name(backbone: Backbone, walk: Callable[..., Session]) -> None:
    seen, known = walk(1), backbone.sessions
    assert "this very session, lab/animal1/one" in (leak_of(known, seen) or "")
    assert "other sessions of this animal" in (leak_of(known, replace(seen, session="two")) or "")
    assert "is called animal1 too, in lab" in (leak_of(known, replace(seen, dataset="elsewhere")) or "")
    assert leak_of(known, walk(2)) is None
    earlier = SeenSession("lab", unicodedata.normalize("NFD", "ratón"), "one", "mouse")
    composed = replace(seen, subject=unicodedata.normalize("NFC", "ratón"), session="two")
    told = leak_of([earlier], composed)
    assert "other sessions of this animal" in (told or "")


def test_a_recording_in_which_nothing_moves_while_steps_are_chosen_is_refused(
    backbone: Backbone, walk: Callable[..., Session]
) -> None:
    traces = walk(9, num_frames=300).frames(0, 300)
    traces[175:245] = traces[175]
    silent = replace(walk(9), traces=traces)
    with pytest.raises(AdaptationError, match=r"nothing moves in its validation part.*--mode none"):
        backbone.adapt(silent, "embeddings", QUICK)
    assert backbone.adapt(silent, "none", QUICK).mode == "none"


def test_what_a_reader_guessed_is_told(backbone: Backbone, walk: Callable[..., Session]) -> None:
    guessed = {"identity_note": "identity guessed from the file name", "licence": "MIT"}
    comparison = compare(backbone, replace(walk(9, num_frames=300), metadata=guessed), "none", QUICK)
    assert "identity guessed from the file name" in comparison.findings()
    assert any("has seen this animal cannot be told" in each for each in comparison.findings())
    assert comparison.result()["leak"] is False and comparison.result()["leak_note"] in comparison.findings()


def test_a_backbone_of_guessed_names_does_not_know_its_own_recording_which_is_told(
    backbone: Backbone, walk: Callable[..., Session]
) -> None:
    guessed = replace(backbone, guessed=2)
    comparison = compare(guessed, replace(walk(9, num_frames=300), session="new"), "none", QUICK)
    result = comparison.result()
    assert not result["leak"] and "the names of 2 of the sessions" in result["leak_note"]
    assert result["leak_note"] in comparison.findings()
    seen = compare(guessed, walk(1, num_frames=300), "none", QUICK)  # which the name tells all the same
    assert seen.result()["leak"] and not any("is not known" in finding for finding in seen.findings())


def test_pictures_call_units_what_the_recording_calls_them(
    backbone: Backbone, walk: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr("forebrain.plotting.save", lambda figure, path: drawn.update({path.name: figure}))
    traces = walk(9, num_frames=300).frames(0, 300)
    traces[:, 2] = 1.0
    named = replace(walk(9, num_frames=300), traces=traces, unit_names=("AVA", "AVB", "RIM", "SMD", "RIV"))
    save_comparison(compare(backbone, named, "none", QUICK), tmp_path / "out")
    labels = drawn["forecast_traces.png"].axes[0].get_yticklabels()
    assert {label.get_text().splitlines()[0] for label in labels} == {"AVA", "AVB", "SMD", "RIV"}
