"""The backbones that come with forebrain: what makes them, from the download on, and what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import forebrain.studies
from file_server import Server
from forebrain.config import parse
from forebrain.errors import ConfigError
from forebrain.models.poco import PocoConfig
from forebrain.sealed import sealed, unsealed
from forebrain.sessions import catalogue
from forebrain.sessions.catalogue import Entry
from forebrain.sessions.session import Session
from forebrain.studies.backbone import SPLIT, BackboneConfig, metrics_of, study
from forebrain_registry import Registry, pull

DEFINITIONS = sorted((Path(forebrain.studies.__file__).parent / "backbones").glob("*.yaml"))
QUIET = Console(quiet=True)
PERMISSIVE = {"MIT", "CC-BY-4.0", "CC-BY-3.0-US"}
TINY = [
    "--model.width", "16", "--model.num_heads", "2", "--model.head_width", "8", "--model.film_width", "32",
    "--training.steps", "2", "--training.validate_every", "2", "--training.batch_size", "4",
    "--fit.steps", "2", "--fit.batch_size", "4", "--sessions_each", "1",
]  # fmt: skip


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web host, and a home of one's own."""
    monkeypatch.setenv("FOREBRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    server = Server()
    yield server
    server.close()


def export(seed: int, num_frames: int = 400, num_units: int = 3) -> bytes:
    """A table as Inscopix exports it: smoothed noise at 10 Hz."""
    noise = np.random.default_rng(seed).normal(size=(num_frames + 20, num_units))
    window = np.hanning(21) / np.hanning(21).sum()
    traces = np.apply_along_axis(np.convolve, 0, noise, window, mode="valid")
    lines = [
        f" ,{','.join(f' C{n}' for n in range(num_units))}",
        "Time(s)/Cell Status" + ", accepted" * num_units,
    ]
    lines += [f"{t / 10:.1f},{','.join(f'{x:.5f}' for x in row)}" for t, row in enumerate(traces)]
    return "\n".join([*lines, ""]).encode()


@pytest.mark.slow
def test_a_definition_makes_a_published_backbone_from_the_download_on(host: Server, tmp_path: Path) -> None:
    names = ["macaque-quartz-2022-12-01", "macaque-fuji-2024-02-20", "macaque-vader-2023-03-09"]
    for seed, name in enumerate(names):  # the address alone is another one
        public = catalogue.catalogue()[name]
        url = f"{host.url}/{public.file_name}"
        host.files[f"/{public.file_name}"] = content = export(seed)
        sha256 = hashlib.sha256(content).hexdigest()
        catalogue.add(name, Entry(url, sha256, public.licence, public.citation, sidecar=public.sidecar))
    (definition,) = (path for path in DEFINITIONS if path.stem == "macaque")
    given = ["--config", str(definition), "--recordings", *names, "--left_out", '[["*/Fuji"]]', *TINY]
    given += ["--out", str(tmp_path / "out"), "--registry", str(tmp_path / "registry")]
    config = parse(BackboneConfig, given)
    result = study(config, QUIET)
    assert host.num_requests == len(names)

    version = Registry(tmp_path / "registry").resolve("macaque")
    trained_on = {seen.subject for seen in version.metadata.sessions}
    assert trained_on == {"Quartz", "Fuji"}
    assert version.metadata.licence == "CC-BY-4.0"
    scored = {metric.name: metric for metric in version.metadata.metrics if metric.split == SPLIT}
    assert {"score", "score of linear", "score of ridge", "score of self", "score of era"} < set(scored)
    rows = {row["session"].split("/")[1]: row for row in result["rows"]}
    assert set(rows) == {"Fuji", "Vader"}
    assert scored["score"].value == pytest.approx(np.mean([row["score"] for row in rows.values()]))
    assert rows["Fuji"]["weights_sha256"] != rows["Vader"]["weights_sha256"]
    card = (pull(Registry(tmp_path / "registry"), "macaque").folder / "README.md").read_text()
    assert "| rhesus_SMA_M1_thebrisklab | MIT | Microendoscopic calcium imaging" in card
    assert f"score of self | {scored['score of self'].value:.3f}" in card

    host.close()  # all is done: nothing is fetched, trained or published again
    assert json.dumps(study(config, QUIET)) == json.dumps(result)
    assert len(Registry(tmp_path / "registry").versions("macaque")) == 1


def test_scores_of_another_fit_are_not_taken_for_those_that_are_asked_for(
    tmp_path: Path, walk: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "get", lambda name: tmp_path / f"{name}.npz")
    for seed in range(3):
        walk(seed, num_frames=400).save(tmp_path / f"{seed}.npz")
    useless = walk(3, num_frames=400)
    replace(useless, traces=useless.traces * np.nan).save(tmp_path / "3.npz")
    walk(4, num_frames=120).save(tmp_path / "4.npz")
    given = ["--name", "worms", "--recordings", "0", "1", "2", "3", "4", *TINY]
    given += ["--unseen", "lab/animal1", "lab/animal4"]
    config = parse(BackboneConfig, [*given, "--out", str(tmp_path / "out")])
    first = study(config, QUIET)
    assert study(config, QUIET) == first
    assert [row["session"] for row in first["rows"]] == ["lab/animal1/one"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "3.npz: session lab/animal3/one: nothing usable remains" in report
    assert "- session lab/animal4/one: too short." in report
    with pytest.raises(ConfigError, match="is of another --fit"):
        study(replace(config, fit=replace(config.fit, steps=3)), QUIET)
    (step,) = (tmp_path / "out" / "scores").iterdir()
    row = unsealed(step.read_bytes())
    del row["fit"]  # as an earlier version left it
    step.write_bytes(sealed(row))
    assert study(config, QUIET)["metrics"] == first["metrics"]
    for name in ("seeds", "sessions_each"):
        with pytest.raises(ConfigError, match=f"{name} is 0; expected 1 or more"):
            replace(config, **{name: 0})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"left_out": [["lab/animal0"], ["lab/animel2"]]}, r"nothing in .* is like 'lab/animel2'"),
        ({"left_out": [["*/*"]]}, "all 5 sessions are held out"),
        ({"left_out": [["lab/animal0"], ["lab/animal?"]]}, "lab/animal0/one is left out of both"),
        ({"left_out": [["lab/animal1"]], "unseen": ["lab/animal1"]}, "lab/animal1/one is left out of both"),
        ({"unseen": ["lab/again"]}, r"lab/again/one: .*an animal that is called again too, in elsewhere"),
        (
            {"unseen": ["lab/animal0"], "model": PocoConfig(context=192)},
            "scored; nothing was trained",
        ),
    ],
)
def test_what_ends_a_study_is_found_before_its_first_run(
    tmp_path: Path,
    walk: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    says: str,
) -> None:
    def train(*given: Any) -> None:
        raise AssertionError("a run was trained")

    monkeypatch.setattr(catalogue, "get", lambda name: tmp_path / f"{name}.npz")
    monkeypatch.setattr("forebrain.studies.backbone.pretrain", train)
    for seed in range(3):
        walk(seed, num_frames=400).save(tmp_path / f"{seed}.npz")
    for seed, dataset in ((3, "lab"), (4, "elsewhere")):
        named = replace(walk(seed, num_frames=400), subject="again", dataset=dataset)
        named.save(tmp_path / f"{seed}.npz")
    config = BackboneConfig("worms", ["0", "1", "2", "3", "4"], str(tmp_path / "out"), **given)
    with pytest.raises(ConfigError, match=says):
        study(config, QUIET)


def test_a_recording_that_changed_since_the_study_began_ends_it_before_any_work(
    tmp_path: Path, walk: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*given: Any, **options: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(catalogue, "get", lambda name: tmp_path / f"{name}.npz")
    monkeypatch.setattr("forebrain.studies.backbone.prepare", begin)
    config = BackboneConfig("worms", ["first", "second"], str(tmp_path / "out"))
    for seed, name in enumerate(config.recordings):
        walk(seed).save(tmp_path / f"{name}.npz")
    for _ in range(2):
        with pytest.raises(InterruptedError):
            study(config, QUIET)
    walk(1, num_frames=410).save(tmp_path / "second.npz")
    with pytest.raises(ConfigError, match="as they were before lab/animal1/one"):
        study(config, QUIET)


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_what_a_definition_trains_on_may_be_handed_on(path: Path) -> None:
    text = path.read_text()
    assert f"forebrain study backbone --config {path.stem} --out DIR --registry URI" in text
    config = parse(BackboneConfig, ["--config", str(path), "--out", "o"])
    assert config.name == path.stem and config.licence == "CC-BY-4.0"
    unseen = {pattern.split("/")[-2] + pattern.split("/")[-1] for pattern in config.unseen}
    for name in config.recordings:
        entry = catalogue.catalogue()[name]
        is_unseen = {entry.sidecar["dataset"] + "*", "*" + entry.sidecar["subject"]} & unseen
        assert is_unseen or entry.licence in PERMISSIVE, name


def test_means_are_over_animals_and_sessions_without_a_score_do_not_count() -> None:
    def row(animal: str, session: str, score: float | None) -> dict[str, Any]:
        values = {"copy": 0.0, "mean": -1.0, "linear": 0.1, "ridge": 0.2, "era": 0.1, "self": 0.2}
        said = "too short" if score is None else None
        made = {"session": f"lab/{animal}/{session}", "species": "mouse", "left_out_because": said}
        return made if score is None else {**made, "score": score, **values}

    rows = [
        row("a", "1", 0.1),
        row("a", "2", 0.3),
        row("b", "1", 0.4),
        row("c", "1", 0.6),
        row("d", "1", None),
    ]
    metrics = {metric.name: metric for metric in metrics_of(rows)}
    assert metrics["score"].value == pytest.approx(0.4)
    assert metrics["score less that of self"].value == pytest.approx(0.2)
    assert metrics["score of self"].low == pytest.approx(0.2)
    assert metrics["score"].low == pytest.approx(0.2, abs=0.05) and metrics["score"].dataset == "mouse"
    assert {metric.low for metric in metrics_of(rows[:3])} == {None}  # two animals make no interval
    overall, *_ = metrics_of([*rows, {**row("e", "1", 0.9), "species": "zebrafish"}])
    assert (overall.name, overall.dataset) == ("score", "") and overall.value == pytest.approx(0.525)
