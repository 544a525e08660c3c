"""The command: what scripts call, what it prints, how it fails, what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from registry_storm import metadata, weights

from forebrain_registry import Metric
from forebrain_registry.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FOREBRAIN_REGISTRY", str(tmp_path / "registry"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights(0))
    meta = metadata(summary="Worms [of] Kato", tags=("worm",), metrics=(Metric("score", 0.25, 0.2, 0.3),))
    (folder / "metadata.json").write_text(json.dumps(asdict(meta)), "utf-8-sig")  # as Windows' editors do
    return folder


def test_every_command_does_its_work_and_prints_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> Any:
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    digest = run("publish", "worm", str(folder), "--alias", "champion")["digest"]
    assert run("publish", "worm", str(folder))["version"] == 1  # it is there already
    (folder / "model.safetensors").write_bytes(weights(1))
    assert run("publish", "worm", str(folder))["version"] == 2
    assert run("deprecate", "worm@2", "--reason", "worse")["deprecated"] == "worse"
    [row] = run("list")
    assert (row["name"], row["version"], row["versions"], row["aliases"]) == ("worm", 1, 2, ["champion"])
    assert [row["deprecated"] for row in run("list", "worm")] == [None, "worse"]
    assert [row["name"] for row in run("search", "kato")] == ["worm"] and run("search", "mouse") == []
    shown = run("show", "worm@champion")
    assert shown["digest"] == digest and shown["metadata"]["metrics"][0]["high"] == 0.3
    pulled = run("pull", "worm", "--out", str(tmp_path / "out"))
    assert sorted(path.name for path in Path(pulled["folder"]).iterdir()) == [
        "README.md",
        "hub.yaml",
        "model.safetensors",
        "version.json",
    ]
    assert run("pull", "worm", "--offline")["version"] == 1
    assert run("alias", "worm@2", "champion", "--expect", "1")["version"] == 2
    assert run("alias", "worm", "champion", "--remove")["version"] is None
    assert run("copy", "worm@1", str(tmp_path / "copy"))["digest"] == digest
    assert run("verify", "--registry", str(tmp_path / "copy"))["versions"] == 1
    assert run("verify", "worm@1")["problems"] == []
    assert run("gc")["removed"] == []
    assert run("index")["records"] == 8  # 2 versions, the notes of their numbers, 3 moves, a deprecation


def test_without_json_there_are_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "worm", str(folder)]) == 0
    assert main(["list"]) == main(["list", "worm"]) == main(["show", "worm"]) == main(["verify"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("worm@1 sha256:") and "Worms [of] Kato" in out and "no problems" in out


def test_errors_are_one_line_and_status_1(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["publish", "zebrafish", str(folder)]) == 0
    capsys.readouterr()
    (tmp_path / "bad.json").write_text('{"licence": 3}')
    (tmp_path / "bad.yaml").write_text("a: [")
    for arguments in (
        ["pull", "zebrafich"],
        ["pull", "zebrafish", "--offline", "--interfaces"],
        ["publish", "x", str(folder), "--metadata", str(tmp_path / "bad.json")],
        ["publish", "x", str(folder), "--metadata", str(tmp_path / "bad.yaml")],
        ["publish", "x", str(tmp_path / "absent")],
        ["list", "--registry", "nowhere://x"],
        ["alias", "zebrafish", "champion", "--expect", "4"],
        ["verify", "zebrafish@1", "--issuer", "https://accounts.google.com"],
        ["list", "--registry", "~no-such-user/models"],
        ["list", "--registry", "https://["],
        ["list", "--registry", f"https://{'a' * 64}.org"],
        ["list", "--registry", "https://127.0.0.1:1/\u00e9"],
        ["publish", "x", str(folder), "--interfaces", "/proc/self/mem/none"],
    ):
        assert main(arguments) == 1, arguments
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error
    blob = next((tmp_path / "registry/blobs").rglob("*/[0-9a-f]*" + "?" * 50))
    blob.write_bytes(b"")
    assert main(["verify"]) == 1 and "problem: zebrafish@1" in capsys.readouterr().out
    monkeypatch.delenv("FOREBRAIN_REGISTRY")
    for arguments in (["list"], ["nonsense"], [], ["deprecate", "x@1"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2


def test_a_command_that_is_given_again_does_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        (folder / "model.safetensors").write_bytes(weights(seed))
        assert main(["publish", "worm", str(folder)]) == 0
    capsys.readouterr()
    for arguments, said in (
        (["--reason", "wrong"], "worm@2 is deprecated\n"),
        (["--reason", "wrong"], "worm@2 is deprecated already\n"),
        (["--reason", "wrong units"], "worm@2 is deprecated\n"),
        (["--undo"], "worm@2 is no longer deprecated\n"),
        (["--undo"], "worm@2 is not deprecated\n"),
    ):
        assert main(["deprecate", "worm", *arguments]) == 0
        assert capsys.readouterr().out == said
    assert main(["alias", "worm@1", "champoin", "--remove"]) == 1
    assert "worm has no alias 'champoin'" in capsys.readouterr().err


def test_an_alias_that_fails_leaves_one_version_and_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "worm", str(folder)]) == 0
    damaged = tmp_path / "registry/models/worm/aliases/champion/00000001.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    for _ in range(2):
        assert main(["publish", "worm", str(folder), "--alias", "champion"]) == 1
        error = capsys.readouterr().err
        assert "worm@1 is published, but without its alias" in error and "alias worm@1 champion" in error
    damaged.unlink()
    assert main(["publish", "worm", str(folder), "--alias", "champion", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1


def test_metadata_in_yaml_are_what_was_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metadata.yaml"
    text = "licence: MIT\npreprocessing: {}\nconfig: {seed: 010, at: 12:30:00, day: 2026-01-31, width: 64}\n"
    path.write_text(text, "utf-8")
    assert main(["publish", "worm", str(folder), "--metadata", str(path), "--json"]) == 0
    assert main(["show", "worm", "--json"]) == 0
    shown = capsys.readouterr().out.partition("}\n{")[2]
    config = json.loads("{" + shown)["metadata"]["config"]
    assert config == {"seed": "010", "at": "12:30:00", "day": "2026-01-31", "width": 64}
    for wrong in (text + "licence: secret\n", text.replace("MIT", "caf\xe9")):
        path.write_text(wrong, "latin-1")
        assert main(["publish", "worm", str(folder), "--metadata", str(path)]) == 1
        error = capsys.readouterr().err
        assert str(path) in error and ("'licence' twice" in error or "utf-8" in error)


def test_a_digest_in_the_cache_needs_no_registry(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "worm", str(folder), "--json"]) == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    assert main(["pull", "worm"]) == 0
    there = capsys.readouterr().out
    (tmp_path / "registry").rename(tmp_path / "away")
    assert main(["pull", f"worm@{digest}"]) == 0
    assert capsys.readouterr() == (there, "")
    assert main(["show", f"worm@{digest}", "--json"]) == 0
    out, error = capsys.readouterr()
    shown = json.loads(out)
    assert (shown["digest"], shown["summary"]) == (digest, "Worms [of] Kato")
    # What only a registry can tell is not known, which is something else than none.
    assert shown["aliases"] is shown["deprecated"] is shown["signatures"] is None
    assert "Shown is what the cache knows" in error
    for reference in ("worm", "worm@1", f"worm@{digest[:20]}", f"fish@{digest}"):
        assert main(["show", reference]) == 1
    assert main(["show", f"worm@{digest}"]) == 0


def test_a_digest_pulled_for_the_first_time_is_said_to_be_deprecated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "worm", str(folder), "--json"]) == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    assert main(["deprecate", "worm@1", "--reason", "wrong units"]) == 0
    assert main(["pull", f"worm@{digest}"]) == 0
    assert capsys.readouterr().err == "worm@1 is deprecated: wrong units\n"


def test_an_alias_that_is_set_to_what_is_deprecated_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "worm", str(folder)]) == main(["deprecate", "worm@1", "--reason", "worse"]) == 0
    capsys.readouterr()
    assert main(["alias", "worm@1", "champion"]) == 0
    assert capsys.readouterr().err == "worm@1 is deprecated: worse\n"


def test_the_score_that_lists_show_is_that_of_the_test_part(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Metric("score", 0.25)
    others = (Metric("score", 0.5, split="validation"), Metric("score", 0.75, dataset="kato"))
    for metrics in ((*others, shown), others):
        (folder / "metadata.json").write_text(json.dumps(asdict(metadata(metrics=metrics))))
        assert main(["publish", "worm", str(folder)]) == 0
    capsys.readouterr()
    assert main(["list", "worm", "--json"]) == 0
    assert [row["score"] for row in json.loads(capsys.readouterr().out)] == [0.25, None]
    assert main(["list", "worm"]) == main(["show", "worm@1"]) == 0
    out = capsys.readouterr().out
    assert "test score" in out.splitlines()[1] and "test score: 0.25" in out


def test_what_is_shipped_is_taken_only_where_a_registry_holds_nothing_of_a_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    package, own = str(tmp_path / "package"), str(tmp_path / "registry")
    for name in ("fish", "worm"):
        assert main(["publish", name, str(folder), "--registry", package]) == 0
    digest = json.loads(_out(capsys, "show", "fish", "--registry", package, "--json"))["digest"]
    for seed in (1, 2):
        (folder / "model.safetensors").write_bytes(weights(seed))
        assert main(["publish", "fish", str(folder), "--registry", own]) == 0

    def refused(*arguments: str, match: str) -> None:
        assert main(arguments, shipped=package) == 1
        out, error = capsys.readouterr()
        assert match in out + error and not caplog.records and package not in out + error

    capsys.readouterr()
    (tmp_path / "registry/models/fish/versions/00000001.json").unlink()
    for command in ("pull", "show", "verify"):
        refused(command, "fish@1", match="fish has no version 1")
    refused("pull", "fish@1", "--offline", match="not in the cache")
    refused("verify", "fish", match="fish: version 1 is lost")
    assert main(["deprecate", "fish@2", "--reason", "broken"], shipped=package) == 0
    capsys.readouterr()
    for command in ("pull", "show"):
        refused(command, "fish", match="every version of fish is deprecated")
    # What is named by its digest is the same wherever it lies.
    assert str(tmp_path / "cache") in _out(capsys, "pull", f"fish@{digest}", shipped=package)
    (tmp_path / "registry/models/fish/versions/00000002.json").unlink()
    refused("show", "fish", match="every version of fish is lost")
    refused("list", "fish", match="every version of fish is lost")
    refused("verify", "fish", match="fish: version 2 is lost")
    refused("verify", "worm", match="no model 'worm'")
    refused("pull", "worm", "--registry", str(tmp_path / "not-mounted"), match="there is no registry")

    for command in ("pull", "show"):
        assert main([command, "worm"], shipped=package) == 0
        said = [record.getMessage() for record in caplog.records]
        assert said == [f"{own}: holds nothing of the name worm; the one in {package} is taken."]
        caplog.clear()
    assert package in _out(capsys, "list", "--json", "--registry", "package://forebrain", shipped=package)
    assert "fish@3" in _out(capsys, "copy", "fish", own, "--registry", "package://forebrain", shipped=package)


def _out(capsys: pytest.CaptureFixture[str], *arguments: str, shipped: str | None = None) -> str:
    capsys.readouterr()
    assert main(arguments, shipped=shipped) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("prog", ["forebrain-registry", "forebrain registry"])
def test_help_names_the_program_and_fits_a_screen(
    prog: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for command in ([], ["publish"], ["pull"], ["verify"], ["gc"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"], prog)
        text = capsys.readouterr().out
        assert text.startswith(" ".join(["usage:", prog, *command]))
        assert max(map(len, text.splitlines())) <= 100


def test_listing_a_folder_imports_nothing_heavy(folder: Path) -> None:
    """What it costs to start is what it imports; times are in docs/registry.md."""
    assert main(["publish", "worm", str(folder)]) == 0
    code = (
        "import sys; from forebrain_registry.cli import main; main(['list']);"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "registry")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    heavy = {
        "torch",
        "ray",
        "forebrain",
        "numpy",
        "fsspec",
        "s3fs",
        "yaml",
        "filelock",
        "asyncio",
        "urllib3",
        "ssl",
    }
    assert not heavy & set(eval(done.stdout.splitlines()[-1]))


def test_an_alias_that_is_none_publishes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "worm", str(folder), "--alias", "No Alias"]) == 1
    assert "not an alias" in capsys.readouterr().err
    assert main(["list"]) == 1 and "there is no registry" in capsys.readouterr().err


def test_where_no_registry_is_every_command_says_so_and_makes_none(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other/models/x").mkdir(parents=True)
    (tmp_path / "other/models/x/00000001.json").write_text("{}")  # none of ours
    for place in (tmp_path / "mistyped", tmp_path / "other", folder):
        before = sorted(tmp_path.rglob("*"))
        for command in (["list"], ["search", "worm"], ["verify"], ["gc"], ["index"], ["show", "worm"]):
            assert main([*command, "--registry", str(place)], shipped=str(tmp_path / "absent")) == 1
            out, error = capsys.readouterr()
            assert not out and str(place) in error and "here is no registry" in error
        assert sorted(tmp_path.rglob("*")) == before
    # One whose publishers were killed before the first version is a registry, and lists nothing.
    blob = tmp_path / f"begun/blobs/sha256/ab/{'ab' * 32}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"")
    for command in (["list", "--json"], ["verify"]):
        assert main([*command, "--registry", str(tmp_path / "begun")]) == 0


def test_an_interrupt_or_a_reader_that_left_gives_no_traceback(folder: Path) -> None:
    code = (
        "import sys; from forebrain_registry import cli\n"
        "def stop(options): raise KeyboardInterrupt\n"
        "if 'show' in sys.argv: cli._show = stop\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    assert main(["publish", "worm", str(folder)]) == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "registry")}
    command = [sys.executable, "-c", code]
    done = subprocess.run([*command, "show", "worm"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    reading, writing = os.pipe()
    os.close(reading)
    left = subprocess.run([*command, "list"], stdout=writing, stderr=subprocess.PIPE, env=environment)
    os.close(writing)
    assert (left.returncode, left.stderr) == (1, b"")
