"""A run folder is one run's: claimed before any work, by one config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forebrain.errors import CheckpointError
from forebrain.training.config import PretrainConfig
from forebrain.training.run_folder import RunFolder

Make = Callable[..., PretrainConfig]


def claim_after_looking(
    first: PretrainConfig, second: PretrainConfig, patch: pytest.MonkeyPatch
) -> RunFolder:
    """Both find the folder empty, then the first claims it, then the second tries to."""
    run, late = RunFolder(first.out), RunFolder(second.out)
    looked = iter([None])
    read = late.read_config
    patch.setattr(late, "read_config", lambda: next(looked, read()))
    assert run.claim(first)
    late.claim(second)
    return run


@pytest.mark.parametrize("place", ["disk", "object store"])
def test_of_two_configs_that_start_in_one_folder_at_once_one_wins(
    make_config: Make, place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_config(seed=1), make_config(seed=2)
    if place == "object store":
        out = f"{request.getfixturevalue('s3_bucket')}/claimed"
        first, second = replace(first, out=out), replace(second, out=out)
    with pytest.raises(CheckpointError, match="seed was 1 and is now 2"):
        claim_after_looking(first, second, monkeypatch)
    assert (RunFolder(first.out).read_config() or {})["seed"] == 1


def test_the_same_run_may_be_started_twice_and_where_it_computes_may_change(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_config(), make_config(workers=2)
    run = claim_after_looking(first, second, monkeypatch)
    assert (run.read_config() or {})["workers"] == 2
    left = "result.json.0123abcd.partial"  # by a killed driver, before the file had its name
    run.folder.write(left, b"x")
    assert not run.claim(first)
    assert left not in run.folder.files()


def test_a_claim_that_is_taken_back_leaves_nothing_unless_the_run_has_begun(make_config: Make) -> None:
    config = make_config()
    run = RunFolder(config.out)
    assert run.claim(config)
    run.folder.write("shards/index.json", b"{}")
    run.release(had_shards=False)
    assert not Path(config.out).exists()
    assert run.claim(config)
    run.attempts.write("0.json", b"{}")  # of another process
    run.release(had_shards=False)
    assert run.read_config() is not None


@pytest.mark.parametrize(
    ("before", "after"), [("0.25", "0.85"), ('{\n "steps"', '[{\n "steps"'), ('"steps"', '"stepz"')]
)
def test_a_result_that_is_not_what_was_written_is_an_error(
    make_config: Make, before: str, after: str
) -> None:
    run = RunFolder(make_config().out)
    run.write_result({"steps": 20, "test": {"score": 0.25}})
    assert run.read_result() == {"steps": 20, "test": {"score": 0.25}}
    text = run.folder.read("result.json").decode()
    run.folder.write("result.json", text.replace(before, after, 1).encode())
    with pytest.raises(CheckpointError, match=r"result\.json: damaged"):
        run.read_result()


def test_a_result_of_before_there_were_seals_whose_config_is_none_is_an_error(make_config: Make) -> None:
    config = make_config()
    run = RunFolder(config.out)
    run.folder.write("result.json", b'{"steps": 20, "config": 3}')
    with pytest.raises(CheckpointError, match=r"result\.json: damaged \(its config is no map\)"):
        run.is_finished(config)
