"""Many recordings: one table, failures in it, nothing done twice, the same with Ray as without."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.comparison import compare
from forebrain.adaptation.description import Description
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.origin import weights_of
from forebrain.errors import ConfigError, ForebrainError
from forebrain.models.poco import Poco, PocoConfig
from forebrain.sessions.session import Session
from forebrain.studies.many_adaptations import ManyConfig, adapt_many, show
from forebrain.training.versions import code_version
from forebrain_registry import Metadata, Registry, SeenSession, publish

MODEL = PocoConfig(
    context=12, horizon=4, token_length=4, width=16, num_latents=2, num_heads=2, head_width=8, film_width=32,
    relative=True,
)  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, walk: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> ManyConfig:
    """A published backbone, two good recordings, one of another rate and one that is damaged."""
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    described = Description(MODEL, 1, "relative", "chronological", None, None)
    metadata = Metadata(
        "MIT", described.config(), described.preprocessing(),
        sessions=(SeenSession("lab", "animal1", "one", "celegans", 2.5),),
    )  # fmt: skip
    publish(
        Registry(tmp_path / "registry"), "worms", {"model.safetensors": weights_of(Poco(MODEL))}, metadata
    )
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, num_frames in (("a", 250), ("b", 250), ("short", 40)):
        np.save(folder / f"{name}.npy", walk(ord(name[0]), num_frames=250).frames(0, num_frames))
        (folder / f"{name}.npy.session.yaml").write_text(f"{{rate_hz: 2.5, subject: {name}}}")
    (folder / "torn.npy").write_bytes((folder / "a.npy").read_bytes()[:300])
    return ManyConfig(
        "worms", [str(folder)], str(tmp_path / "out"), str(tmp_path / "registry"), serial=True,
        fit=FitConfig(steps=2, batch_size=4),
    )  # fmt: skip


def status(rows: list[dict]) -> dict[str, str]:
    return {Path(row["recording"]).stem: row["status"] for row in rows}


def test_failures_are_rows_and_what_is_finished_is_not_done_again(config: ManyConfig, tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    rows = adapt_many(config, quiet)
    assert status(rows) == {"a": "adapted", "b": "adapted", "short": "failed", "torn": "failed"}
    errors = {Path(row["recording"]).stem: row["error"] for row in rows}
    assert "too short" in errors["short"] and "torn.npy" in errors["torn"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}
    assert {path.name for path in kept} >= {"result.json", "report.md", "interface.safetensors"}

    # Better luck the second time: the torn file was copied again.
    (tmp_path / "recordings" / "torn.npy").write_bytes((tmp_path / "recordings" / "b.npy").read_bytes())
    again = adapt_many(config, quiet)
    assert status(again) == {"a": "finished", "b": "finished", "short": "failed", "torn": "adapted"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert [row["score"] for row in again[:2]] == [row["score"] for row in rows[:2]]

    table = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
    assert [row["status"] for row in table] == ["finished", "finished", "failed", "adapted"]
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == again
    (folder,) = {path.parent for path in kept if "-a-a-" in path.parent.name}
    assert Adapted.load(folder).num_units == 5

    shown = Console(width=200, record=True, quiet=False, file=(tmp_path / "shown").open("w"))
    show(config, again, shown)
    text = shown.export_text()
    assert "mean over 3 sessions" in text and "3 adapted, 1 failed" in text and "linear" in text


def test_recordings_of_one_name_do_not_pass_for_each_other(config: ManyConfig, tmp_path: Path) -> None:
    (tmp_path / "recordings" / "short.npy").write_bytes((tmp_path / "recordings" / "b.npy").read_bytes())
    for name in ("a", "b", "short"):
        sidecar = tmp_path / "recordings" / f"{name}.npy.session.yaml"
        sidecar.write_text(
            f"{{rate_hz: 2.5, subject: worm, session: {'other' if name == 'short' else 'day'}}}"
        )
    rows = adapt_many(replace(config, mode="none"), Console(quiet=True))
    assert status(rows) == {"a": "failed", "b": "failed", "short": "adapted", "torn": "failed"}
    assert all("2 recordings are called recordings/worm/day" in row["error"] for row in rows[:2])
    assert rows[1]["score"] is None


def test_what_is_finished_does_not_pass_for_another_recording_of_its_name(
    config: ManyConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "recordings"
    config = replace(config, mode="none", recordings=[str(folder / "a.npy")])
    assert status(adapt_many(config, Console(quiet=True))) == {"a": "adapted"}
    kept = (folder / "a.npy").read_bytes()
    (folder / "a.npy").write_bytes((folder / "b.npy").read_bytes())
    (row,) = adapt_many(config, Console(quiet=True))
    assert row["status"] == "failed" and row["score"] is None
    assert "another recording called recordings/a/a" in row["error"] and "another --out" in row["error"]
    (folder / "a.npy").write_bytes(kept)
    assert status(adapt_many(config, Console(quiet=True))) == {"a": "finished"}


def test_adaptations_of_another_version_are_named_once_and_in_the_table(
    config: ManyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / "recordings" / f"{name}.npy") for name in ("a", "b")]
    config = replace(config, mode="none", recordings=paths)
    other = "forebrain 0.1.0, code 0123456789ab"
    said = f"adaptations of {other} are used as they are; this is {code_version()}."
    for _ in range(2):
        rows = adapt_many(config, Console(width=1000))
        assert [row["code_version"] for row in rows] == [code_version()] * 2
    assert "are used as they are" not in capsys.readouterr().out
    for of in (tmp_path / "out").glob("*/recording.json"):
        of.write_text(json.dumps({**json.loads(of.read_text()), "code_version": other}))
    rows = adapt_many(config, Console(width=1000))
    assert [row["code_version"] for row in rows] == [other] * 2
    assert capsys.readouterr().out.count(said) == 1
    assert other in (tmp_path / "out" / "table.csv").read_text()


def test_a_recording_or_backbone_that_changes_meanwhile_is_not_adapted_to(
    config: ManyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recordings" / "b.npy"
    content = path.read_bytes()

    def adapt(backbone: Backbone, session: Session, *args: Any, **kwargs: Any) -> Any:
        if session.subject == "b":
            path.write_bytes(content[:-8] + bytes(8))
        return compare(backbone, session, *args, **kwargs)

    with monkeypatch.context() as changing:
        changing.setattr("forebrain.studies.many_adaptations.compare", adapt)
        rows = adapt_many(config, Console(quiet=True))
    errors = {Path(row["recording"]).stem: row["error"] for row in rows}
    assert errors["a"] == "" and "b.npy changed while it was read" in errors["b"]
    assert not list((tmp_path / "out").glob("*-b-*/result.json"))

    opened = Backbone.open(config.model, config.registry)
    other = replace(opened, origin=replace(opened.origin, weights_sha256="other"))
    found = iter([opened])
    monkeypatch.setattr(Backbone, "open", lambda *args, **kwargs: next(found, other))
    rows = adapt_many(config, Console(quiet=True))
    assert {row["status"] for row in rows} == {"failed"}
    assert all("other weights than when this began" in row["error"] for row in rows[:3])


def test_a_folder_takes_no_other_settings(config: ManyConfig) -> None:
    quiet = Console(quiet=True)
    adapt_many(replace(config, mode="none"), quiet)
    with pytest.raises(ConfigError, match="another mode, steps"):
        adapt_many(replace(config, fit=FitConfig(steps=3, batch_size=4)), quiet)
    with pytest.raises(ForebrainError, match="Did you mean 'worms'"):
        adapt_many(replace(config, model="wurms"), quiet)


def test_a_version_that_came_since_does_not_hide_the_one_that_goes_on(config: ManyConfig) -> None:
    config, quiet = replace(config, mode="none"), Console(quiet=True)
    adapt_many(config, quiet)
    registry = Registry(config.registry)
    metadata = registry.resolve("worms").metadata
    publish(registry, "worms", {"model.safetensors": weights_of(Poco(MODEL))}, metadata)  # of other weights
    with pytest.raises(
        ConfigError, match=r"another weights.*, with --model worms@1 in place of worms@2, to go"
    ):
        adapt_many(config, quiet)
    rows = adapt_many(replace(config, model="worms@1"), quiet)
    assert [row["status"] for row in rows].count("finished") == 2
    # The same weights under another name are the same; one of before there were names has none to give.
    asked = Path(config.out) / "adaptations.yaml"
    asked.write_text(asked.read_text().replace("worms@1", "elsewhere@7"))
    adapt_many(replace(config, model="worms@1"), quiet)
    asked.write_text(asked.read_text().replace("model: elsewhere@7\n", ""))
    adapt_many(replace(config, model="worms@1"), quiet)
    with pytest.raises(ConfigError, match="Give the same command to go on"):
        adapt_many(config, quiet)


@pytest.mark.parametrize("content", ["", "- a list", "{ unclosed"])
def test_a_damaged_record_of_what_was_asked_is_one_clear_error(config: ManyConfig, content: str) -> None:
    Path(config.out).mkdir(parents=True)
    (Path(config.out) / "adaptations.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"adaptations\.yaml: damaged .*Remove it"):
        adapt_many(config, Console(quiet=True))


def test_an_adaptation_whose_result_is_damaged_is_made_again(config: ManyConfig) -> None:
    config = replace(config, mode="none")
    before = adapt_many(config, Console(quiet=True))
    result = next(Path(config.out).glob("*/result.json"))
    result.write_text('{"interval"')
    after = adapt_many(config, Console(quiet=True))
    assert sorted(row["status"] for row in after)[0] == "adapted"
    assert [row["score"] for row in after] == [row["score"] for row in before]


class TestWithRay:
    @pytest.fixture(autouse=True)
    def cluster(self) -> Iterator[None]:
        ray = pytest.importorskip("ray")
        from forebrain.ray_runtime import start_ray

        start_ray(num_cpus=2)
        yield
        ray.shutdown()

    def test_tasks_give_what_one_process_gives(self, config: ManyConfig, tmp_path: Path) -> None:
        quiet = Console(quiet=True)
        alone = adapt_many(replace(config, out=str(tmp_path / "alone")), quiet)
        together = adapt_many(replace(config, serial=False), quiet)
        for one, other in zip(alone, together, strict=True):
            del one["seconds"], other["seconds"]
            assert one == other
