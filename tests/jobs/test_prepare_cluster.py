"""Ray Data prepares in parallel what one process prepares alone, and the job shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from forebrain.commands import main
from forebrain.errors import RecordingError
from forebrain.ray_runtime import start_ray
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet

pytest.importorskip("ray")
SMALL = PrepareConfig(max_window=20)


@pytest.fixture(scope="module", autouse=True)
def embedded_ray() -> Iterator[None]:
    import ray

    start_ray(num_cpus=2)
    yield
    ray.shutdown()


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_parallel_preparation_gives_the_bytes_of_one_process(save_session, tmp_path):
    def open_saved(path: str) -> list[Session]:  # local, so that workers need not import this file
        if path.endswith("bad.npz"):
            raise RecordingError(f"{path}: not a recording.")
        return [Session.load(path)]

    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"x")
    flat = save_session("flat.npz", traces=np.ones((50, 3), np.float32))
    recordings = [*(save_session(f"{name}.npz") for name in "abc"), str(bad), flat]
    lines: list[str] = []
    one = prepare(recordings, str(tmp_path / "ray"), SMALL, open_saved, progress=lines.append)
    two = prepare(recordings, str(tmp_path / "alone"), SMALL, open_saved, run_each=map_here)
    assert one == two
    assert len(one.failures) == 2
    assert contents(tmp_path / "ray") == contents(tmp_path / "alone")
    assert sum(line.startswith("[") for line in lines) == 4
    assert prepare(recordings, str(tmp_path / "ray"), SMALL, open_saved).num_skipped == 3


def test_the_job_prepares_simulated_sessions_and_ends_with_a_table_and_the_address(tmp_path, capfd):
    out = str(tmp_path / "out")
    assert (
        main(["prepare", "--recordings", "sim://default?seed=0", "--out", out, "--prepare.max_window", "96"])
        == 0
    )
    printed = capfd.readouterr().out.splitlines()
    assert printed[-1] == out
    assert any("sim-mouse/animal2" in line and "3637" in line for line in printed), printed
    shards = ShardSet.open(out)
    assert (len(shards.sessions), shards.max_window) == (8, 96)


def test_the_job_tells_what_was_guessed_and_ends_with_the_absolute_address(
    save_session, tmp_path, capfd, monkeypatch
):
    turned, named = tmp_path / "turned.npy", save_session("named.npz")
    np.save(turned, np.random.default_rng(0).standard_normal((5, 400)))
    config = tmp_path / "config.yaml"
    config.write_text("prepare:\n  max_window: 96\n")
    monkeypatch.chdir(tmp_path)
    assert (
        main(["prepare", "--config", str(config), "--recordings", str(turned), named, "--out", "relative"])
        == 0
    )
    printed = capfd.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / "relative")
    session_id = f"{tmp_path.name}/turned/turned"
    assert f"{session_id}: identity guessed from the file name" in printed
    assert any(line.startswith(f"{session_id}: rows guessed to be units: 5 x 400") for line in printed)
    shards = ShardSet.open(printed[-1])
    assert (len(shards.sessions), shards.max_window) == (2, 96)


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--recordings", "sim://other"], "no such simulated set", 1),
        (["--recordings", "sim://default", "--prepare.max_window", "0"], "max_window is 0", 2),
        (["--recordings", "sim://default", "--prepare.max_windw", "9"], "mean --prepare.max_window?", 2),
        (["--recordings"], "recording", 2),
        ([], "recording", 2),
    ],
)
def test_the_job_fails_with_one_line_where_nothing_can_be_done(tmp_path, capfd, arguments, message, status):
    assert main(["prepare", *arguments, "--out", str(tmp_path / "out")]) == status
    error = capfd.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


def test_the_job_fails_with_one_line_where_nothing_can_be_written(save_session, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert (
        main(["prepare", "--recordings", save_session("a.npz"), "--out", str(tmp_path / "file" / "out")]) == 1
    )
    assert capfd.readouterr().err.startswith("error: ")
