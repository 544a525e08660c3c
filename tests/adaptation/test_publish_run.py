"""A checkpoint of a run becomes a version that tells what it is and not where it was made."""

from __future__ import annotations

import dataclasses
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from rich.console import Console

import forebrain
from forebrain.adaptation import publish as publish_module
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.publish import PublishConfig, publish_run
from forebrain.config import from_values
from forebrain.errors import CheckpointError, ForebrainError
from forebrain.runs.pretrain import pretrain
from forebrain.runs.trained import TrainedModel
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.training import versions as code_versions
from forebrain.training.config import PretrainConfig
from forebrain.training.progress import Progress
from forebrain.training.run_folder import RunFolder
from forebrain.training.versions import versions
from forebrain_registry import Registry, pull, verify
from forebrain_registry.layout import blob_name
from forebrain_registry.storage import Folder
from forebrain_registry.verifying import verify_version

JOBS = Path(__file__).parents[2] / "jobs"
TINY = {
    "model": {"width": 16, "num_heads": 2, "head_width": 16, "film_width": 32},
    "training": {"batch_size": 16, "steps": 6, "validate_every": 3, "checkpoint_every": 3, "threads": 1},
    "evaluation": {"windows_per_session": 8},
    "workers": 0,
}


def make_run(where: str, walk: Callable[..., Session], scratch: Path) -> str:
    """A run on two animals, finished and evaluated, with checkpoints of steps 3 and 6."""
    recordings = []
    for seed in (1, 2):
        recordings.append(str(scratch / f"{seed}.npz"))
        walk(seed, num_frames=600).save(recordings[-1])
    prepare(recordings, f"{where}/data", PrepareConfig(), lambda path: [Session.load(path)], map_here)
    config = from_values(PretrainConfig, {"data": f"{where}/data", "out": f"{where}/run", **TINY})
    return pretrain(config, Console(quiet=True))


@pytest.fixture
def run_job(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a job with a command line; returns its exit status."""

    def run(name: str, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(JOBS / f"{name}.py"), run_name="__main__")
        return int(exit_.value.code or 0)

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, walk: Callable[..., Session]) -> str:
    folder = tmp_path_factory.mktemp("published")
    return make_run(str(folder), walk, folder)


@pytest.fixture
def asked(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishConfig:
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    return PublishConfig(run, "worms", str(tmp_path / "registry"), licence="CC-BY-4.0")


def test_a_version_says_what_it_is(asked: PublishConfig) -> None:
    version, was_there = publish_run(asked)
    assert not was_there
    result = RunFolder(asked.run).read_result()
    metadata = version.metadata
    assert [(s.dataset, s.subject, s.session, s.species, s.rate_hz) for s in metadata.sessions] == [
        ("lab", f"animal{seed}", "one", "celegans", 2.5) for seed in (1, 2)
    ]
    figures = {(metric.name, metric.split): metric for metric in metadata.metrics}
    for part in ("validation", "test"):
        assert figures["score", part].value == result[part]["score"]
        assert [figures["score", part].low, figures["score", part].high] == result[part]["interval"]["score"]
        for name in ("copy", "mean", "linear"):
            assert figures[f"score of {name}", part].value == result[part]["baselines"][name]["score"]
    assert metadata.preprocessing["zscore"]["fitted_on"]["lab/animal1/one"] == [[0, 360]]
    assert metadata.preprocessing["protocol"] == "chronological"
    assert metadata.config["model"]["relative"] is True
    assert metadata.licence == "CC-BY-4.0" and metadata.run_id and metadata.code_version
    assert f"forebrain {forebrain.__version__}, code {versions()['code']}" in metadata.code_version
    assert "celegans" in metadata.summary


def test_a_version_does_not_say_where_it_was_made(asked: PublishConfig) -> None:
    version, _ = publish_run(asked)
    card = pull(Registry(asked.registry), "worms").folder / "README.md"
    assert "](forecasts.png)" in card.read_text() and (card.parent / "forecasts.png").exists()
    for text in (version.content.decode(), card.read_text()):
        for word in (str(Path(asked.run).parent), asked.registry, str(Path.home()), "tmp", "://"):
            assert word not in text, word


def test_a_version_says_of_how_many_of_its_sessions_the_names_were_guessed(
    asked: PublishConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_module, "num_guessed", lambda trained, windows: 2)
    version, _ = publish_run(dataclasses.replace(asked, name="guessed"))
    assert Backbone.from_registry("guessed", asked.registry).guessed == 2
    assert Backbone.from_run(asked.run).guessed == 0
    assert version.metadata.config["guessed_names"] == 2


def test_its_backbone_is_the_runs(asked: PublishConfig) -> None:
    version, _ = publish_run(asked)
    trained = TrainedModel.load(RunFolder(asked.run))
    backbone = Backbone.from_registry("worms@1", asked.registry)
    for name, expected in trained.backbone.named_parameters():
        assert torch.equal(dict(backbone.model.named_parameters())[name], expected), name
    assert backbone.rates_hz == [2.5] and backbone.origin.digest == version.digest
    assert not backbone.model.training and not any(p.requires_grad for p in backbone.model.parameters())

    same = Backbone.from_run(asked.run)
    assert same.description == backbone.description and same.sessions == backbone.sessions
    assert same.origin.weights_sha256 == backbone.origin.weights_sha256
    assert same.start and backbone.start and same.start.save() == backbone.start.save()


def test_interfaces_are_an_artifact_of_their_own(asked: PublishConfig) -> None:
    publish_run(asked)
    pulled = pull(Registry(asked.registry), "worms", interfaces=True)
    tensors = safetensors.torch.load_file(pulled.interfaces / "interfaces.safetensors")
    trained = TrainedModel.load(RunFolder(asked.run))
    assert {name.rpartition(":")[0] for name in tensors} == set(trained.interfaces)
    for name, interface in trained.interfaces.items():
        assert torch.equal(tensors[f"{name}:unit"], interface.unit)
        assert tensors[f"{name}:scale"].shape == (5,)


def test_publishing_a_checkpoint_again_makes_no_second_version(asked: PublishConfig) -> None:
    first, _ = publish_run(asked)
    again, was_there = publish_run(asked)
    assert was_there and again.digest == first.digest
    assert [version.number for version in Registry(asked.registry).versions("worms")] == [1]


def test_publishing_again_notes_the_number_that_a_killed_publisher_could_not(asked: PublishConfig) -> None:
    version, _ = publish_run(asked)
    note = Path(asked.registry) / "models" / version.name / "numbers" / "00000001.json"
    before = note.read_bytes()
    note.unlink()
    assert publish_run(asked)[1] and note.read_bytes() == before


def test_publishing_again_brings_what_was_lost(asked: PublishConfig) -> None:
    first, _ = publish_run(asked)
    registry = Registry(asked.registry)
    for stored in first.blobs:
        registry.store.remove(blob_name(stored.sha256))
    again, was_there = publish_run(asked)
    assert was_there and again.digest == first.digest and verify(registry).problems == []
    # A card of an earlier version of this program cannot be made again.
    card = next(stored for stored in first.blobs if stored.path == "README.md")
    registry.store.remove(blob_name(card.sha256))
    with pytest.MonkeyPatch.context() as later:
        later.setattr("forebrain.adaptation.publish.make_card", lambda *given: "# Another\n")
        version, was_there = publish_run(asked)
    assert (version.number, was_there) == (2, False)
    assert verify_version(registry, version).problems == []


def test_a_licence_or_summary_that_was_wrong_is_published_right(
    asked: PublishConfig, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = publish_run(asked)
    Registry(asked.registry).deprecate("worms", 1, "its licence is wrong")
    assert publish_run(asked) == (first, True) and "worms@1 is deprecated: its licence" in caplog.text
    right = dataclasses.replace(asked, licence="CC-BY-NC-4.0", summary="Now right.")
    version, was_there = publish_run(right)
    assert (version.number, was_there) == (2, False)
    assert (version.metadata.licence, version.metadata.summary) == ("CC-BY-NC-4.0", "Now right.")
    assert publish_run(right) == (version, True)
    assert publish_run(dataclasses.replace(right, licence="not stated", summary=None)) == (version, True)


def test_any_checkpoint_is_published_with_its_own_scores(asked: PublishConfig) -> None:
    best = TrainedModel.load(RunFolder(asked.run)).checkpoint.step
    other = 3 if best == 6 else 6
    first, _ = publish_run(asked)
    version, was_there = publish_run(dataclasses.replace(asked, step=other, parent="worms@1"))
    assert not was_there and version.number == 2 and version.metadata.parent == "worms@1"
    scores = [
        next(m for m in v.metadata.metrics if (m.name, m.split) == ("score", "test"))
        for v in (first, version)
    ]
    assert scores[0].value != scores[1].value and scores[1].low < scores[1].value < scores[1].high
    copies = [[m for m in v.metadata.metrics if m.name == "score of linear"] for v in (first, version)]
    assert copies[0] == copies[1]  # on the windows of the run's own evaluation
    with pytest.raises(ForebrainError, match="no checkpoint of step 7; there are"):
        publish_run(dataclasses.replace(asked, step=7))


def test_a_run_that_has_not_ended_is_published_and_says_so(
    asked: PublishConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(asked.run, tmp_path / "cut")
    (tmp_path / "cut" / "result.json").unlink()
    cut = dataclasses.replace(asked, run=str(tmp_path / "cut"), name="cut")
    TrainedModel.load(RunFolder(cut.run))  # all was trained, and is only not evaluated
    assert "ended" not in caplog.text
    (tmp_path / "cut" / "checkpoints" / "00000006.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "is_out_of", lambda progress, patience: True)
        TrainedModel.load(RunFolder(cut.run))
        assert "ended" not in caplog.text
    for _ in range(2):
        assert Backbone.from_run(cut.run)
    assert caplog.text.count(f"{cut.run}: this run has not ended; it has done 3 of 6 steps. The same") == 1
    version, _ = publish_run(cut)
    card = (pull(Registry(asked.registry), "cut").folder / "README.md").read_text()
    assert version.metadata.summary.endswith("after 3 of 6 steps")
    assert "had not ended when it was published: it had done 3 of 6 steps." in card
    assert publish_run(cut) == (version, True)
    # Once it has ended, another says so.
    finished = dataclasses.replace(cut, run=asked.run, step=3)
    again, was_there = publish_run(finished)
    assert not was_there and "of 6" not in again.metadata.summary
    assert publish_run(finished) == (again, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Worms!"}, "not a model's name"),
        ({"run": "nowhere"}, "holds no run"),
        ({"registry": "https://host/models"}, "can only be read"),
        ({"registry": None}, "which registry"),
    ],
)
def test_what_cannot_be_published_is_one_clear_error(
    asked: PublishConfig, changes: dict, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FOREBRAIN_REGISTRY", raising=False)
    with pytest.raises(ForebrainError, match=words):
        publish_run(dataclasses.replace(asked, **changes))
    assert not list((tmp_path / "registry").rglob("*.json"))


@pytest.mark.parametrize(
    "blocks",
    [{"test": 3}, {"test": []}, {"test": {}}, {"validation": {"score": "high", "interval": 3}}],
)
def test_a_result_of_before_there_were_seals_that_is_damaged_is_one_clear_error(
    asked: PublishConfig, blocks: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = {**(RunFolder(asked.run).read_result() or {}), **blocks}
    monkeypatch.setattr(RunFolder, "read_result", lambda run: result)
    with pytest.raises(CheckpointError, match=r"run/result\.json: damaged .*; remove it"):
        publish_run(asked)
    assert not list((tmp_path / "registry").rglob("*.json"))


def test_data_that_are_not_the_runs_are_refused(asked: PublishConfig, small_shards: str) -> None:
    with pytest.raises(ForebrainError, match="was trained on other data"):
        publish_run(dataclasses.replace(asked, data=small_shards))


def test_runs_and_registries_may_lie_in_an_object_store(
    s3_bucket: str, walk: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    where = f"{s3_bucket}/publishing"
    run = make_run(where, walk, tmp_path)
    version, _ = publish_run(PublishConfig(run, "worms", f"{where}/models"))
    assert Backbone.from_registry("worms", f"{where}/models").origin.digest == version.digest
    text = version.content.decode()
    assert s3_bucket not in text and "secret-of-tester" not in text and "127.0.0.1" not in text


def test_pretraining_publishes_when_asked(
    tmp_path: Path, small_shards: str, run_job: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(yaml.safe_dump({**TINY, "data": small_shards}))
    registry = str(tmp_path / "registry")
    arguments = ["--config", str(tiny), "--out", str(tmp_path / "run"), "--publish"]
    assert run_job("pretrain", *arguments, "no such name", "--registry", registry) == 1
    assert not (tmp_path / "run").exists()  # known before any work
    for _ in range(2):
        assert run_job("pretrain", *arguments, "fish", "--registry", registry) == 0
    assert [version.metadata.licence for version in Registry(registry).versions("fish")] == ["not stated"]
    assert "forebrain adapt --model fish@1" in capsys.readouterr().out
    assert "publish" not in yaml.safe_load(Folder(str(tmp_path / "run")).read("config.yaml"))
    assert run_job("publish", "--run", str(tmp_path / "run"), "--name", "fish", "--registry", registry) == 0
    assert "published already, as fish@1" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 6


def test_a_file_that_an_editor_keeps_beside_a_module_is_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.py").write_text("a = 1")
    monkeypatch.setattr(forebrain, "__file__", str(tmp_path / "__init__.py"))
    before = code_versions._hash_of_code()
    (tmp_path / ".#config.py").symlink_to("me@host.1:9")
    (tmp_path / "gone.py").symlink_to("nowhere")
    assert code_versions._hash_of_code() == before
