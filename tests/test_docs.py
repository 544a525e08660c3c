"""What the documentation shows is there: commands and options, files, links and anchors, numbers of the plan.

A command in a block is given to the parser that would read it, which stops before any work.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import itertools
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import forebrain.commands
from forebrain.benchmarking.plan import PlanConfig, calculate
from forebrain.commands import SUMMARIES, module_of, parse_command, split
from forebrain.config import flat, from_values, options
from forebrain.errors import ConfigError
from forebrain.sessions.sidecar import Sidecar
from forebrain.training.config import PretrainConfig
from forebrain_registry import cli as registry

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "cluster" / "README.md",
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "LOG.md"),
]
IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]
# Options of other programs that the pages name by themselves.
FOREIGN = {
    "--help", "--no-wait", "--build-arg", "--runtime-env-json", "--dashboard-host", "--config", "--help-all",
}  # fmt: skip
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Parsed(Exception):  # noqa: N818
    """A command line was read to its end."""


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


def spans(page: Path) -> list[str]:
    """Code within the text."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a piece of shell, as words."""
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=";&|\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for token in [*lexer, ";"]:
        if set(token) <= set(";&|\n") or token in ("do", "done", "then"):
            if words:
                yield words
            words = []
        elif token.startswith("#"):
            words.append("#")
        else:
            words.append(token)


def shown(page: Path) -> Iterator[list[str]]:
    """The commands in a page's blocks; what follows a # on a line is a comment."""
    for text in blocks(page, ""):
        for name, first in re.findall(r"\bfor (\w+) in ([^\s;]+)", text):
            text = text.replace(f"${name}", first).replace(f"${{{name}}}", first)
        with contextlib.suppress(ValueError):  # a table or a tree of folders, not shell
            for words in commands(text):
                for end in ("#", ">"):  # a comment, and where the output goes
                    words = words[: words.index(end)] if end in words else words
                # [--option VALUE] may be left out, and N is any number.
                yield ["1" if word.strip("[]") == "N" else word.strip("[]") for word in words]


def program(words: list[str]) -> str:
    return words[0].removeprefix(".venv/bin/") if words else ""


def check(words: list[str]) -> bool:
    """Raises unless a command can be given like this; returns whether it is one that is known here."""
    name, rest = program(words), words[1:]
    if name == "python" and rest and rest[0].startswith("jobs/"):
        give_to_command(words_of_job(rest[0], rest[1:]))
    elif name == "python" and rest[:2] == ["-m", "forebrain"]:
        give_to_command(rest[2:])
    elif name == "forebrain":
        give_to_command(rest)
    elif name == "forebrain-registry":
        give_to_registry(rest)
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all(word in targets or "=" in word for word in rest), words
    elif name == "ray":
        give_to_ray(rest)
    elif name == "sbatch":
        position = next(place for place, word in enumerate(rest) if word.endswith(".sbatch"))
        assert (ROOT / rest[position]).is_file(), words
        assert check(rest[position + 1 :])
    elif name in ("docker", "kubectl"):
        files = [value for option, value in itertools.pairwise(rest) if option in ("--file", "-f")]
        assert all((ROOT / value).is_file() for value in files), words
        if "--target" in rest:
            target = rest[rest.index("--target") + 1]
            assert f" AS {target}\n" in (ROOT / "cluster" / "Dockerfile").read_text()
    else:
        return False
    return True


def words_of_job(script: str, arguments: list[str]) -> list[str]:
    """What a script of jobs/ gives to the program `forebrain`."""
    given: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(forebrain.commands, "main", given.append)
        patch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return given[0]


def give_to_command(words: list[str]) -> None:
    if words[0] in ("--help", "--version") or words[1:] == ["--help"]:
        return
    name, arguments = split(words)
    if name == "registry":
        give_to_registry(arguments)
    elif "..." in arguments:  # stands for what else must be given
        assert {word for word in arguments if word.startswith("--")} <= options_of_command(name), words
    else:
        parse_command(name, arguments)


def give_to_registry(arguments: list[str]) -> None:
    """Asks for the registry behind the subcommand, which the pages leave out."""

    def parse_args(self: argparse.ArgumentParser, given: Any = None, namespace: Any = None) -> Any:
        unknown = self.parse_known_args(given, namespace)[1]
        assert not unknown, f"unknown: {unknown}"
        raise Parsed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        registry.main([*arguments[:1], "--registry", "r", *arguments[1:]])


def give_to_ray(arguments: list[str]) -> None:
    from ray.scripts.scripts import cli

    command: Any = cli
    while hasattr(command, "commands"):
        assert arguments and arguments[0] in command.commands, f"ray {arguments}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    assert {word.split("=")[0] for word in own if word.startswith("--")} <= options, f"ray {own}"
    command.make_context("ray", list(own), resilient_parsing=True)
    assert all((ROOT / word).is_file() for word in own if word.startswith("cluster/"))
    if own != arguments:
        assert check(arguments[len(own) + 1 :]), arguments


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                found |= options_of(each)
    return found


def options_of_registry() -> set[str]:
    """Every option of the registry's client, its subcommands' too."""
    found: set[str] = set()

    def collect(self: argparse.ArgumentParser, *given: Any, **more: Any) -> Any:
        found.update(options_of(self))
        raise Parsed

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Parsed):
        patch.setattr(argparse.ArgumentParser, "parse_args", collect)
        registry.main([])
    return found


def options_of_command(name: str) -> set[str]:
    module = module_of(name)
    if not hasattr(module, "Config"):
        return options_of_registry()
    named = {f"--{option.name}" for option in flat(options(module.Config))}
    return named | set(getattr(module, "ALIASES", {}))


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    """Every option of every command of the project."""
    found: set[str] = set()
    for name in SUMMARIES:
        found |= options_of_command(name)
    assert {"--training.steps", "--storage", "--alias", "--recordings", "--full"} <= found
    return found


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_in_blocks_are_taken_by_what_they_are_given_to(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in blocks(page, "yaml"):
        (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.chdir(ROOT)
    mine = str(tmp_path / "mine.yaml")
    known = [
        words for words in shown(page) if check([mine if word == "mine.yaml" else word for word in words])
    ]
    names = "benchmarks commands guarantees operating pretraining registry results scale studies README"
    expects_some = {f"{name}.md" for name in names.split()}
    assert known or page.name not in expects_some or page.parent.name == "cluster"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_options_named_in_the_text_exist(page: Path, known_options: set[str]) -> None:
    # What is in capitals stands for something.
    named = {option for span in spans(page) for option in re.findall(r"(?<!\S)\[?(--[a-z][\w.-]*)", span)}
    named = {option for option in named if option.islower()}
    underscored = {option.replace("-", "_") for option in known_options}  # either is taken
    named = {option for option in named if option.replace("-", "_") not in underscored}
    assert named - FOREIGN == set()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_named_in_the_text_exist(page: Path) -> None:
    places = ("platform", "registry", "jobs", "cluster", "tests", "docs")
    for span in spans(page):
        word = span.split()[0].removesuffix(":")
        if word.split("/")[0] in places and "/" in word and not re.search("[A-Z*<{]", word):
            assert (ROOT / word).exists(), f"{page.name}: {word}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "LOG.md"], ids=[*IDS, "docs/LOG.md"])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists() and there.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", there.read_text()), re.MULTILINE)
            assert anchor in [slug(heading) for heading in headings], f"{page.name}: {target}"


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_yaml_in_the_pages_is_a_sidecar_or_the_config_of_a_run(page: Path) -> None:
    for text in blocks(page, "yaml"):
        values = yaml.safe_load(text)
        if "data" in values:
            assert from_values(PretrainConfig, values).out == values["out"]
        else:
            Sidecar(**values)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_in_the_pages_is_python_and_imports_what_exists(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), text
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fb":
                assert hasattr(importlib.import_module("forebrain"), node.attr), f"fb.{node.attr}"


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        found = re.findall(r"\]\(([^)#\s]+)", page.read_text())
        waiting += [(page.parent / target).resolve() for target in found if ":" not in target]
    assert set((ROOT / "docs").glob("*.md")) <= seen


def test_every_command_every_job_and_every_other_name_is_on_the_page_of_commands() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for name in SUMMARIES:
        assert f"`forebrain {name}" in text, f"{name} is not on the page"
        for other in getattr(module_of(name), "ALIASES", {}):
            assert f"`{other}`" in text, f"{other} of {name} is not on the page"
    for script in (ROOT / "jobs").glob("*.py"):
        assert f"`jobs/{script.name}`" in text, f"{script.name} is not on the page"


def test_the_plan_on_the_page_is_what_the_code_calculates(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    assert forebrain.commands.main(["plan"]) == 0
    found = re.search(r"<!-- plan -->\n```\n(.*?)```", page, re.DOTALL)
    assert found is not None
    shown = [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]
    assert found[1].splitlines() == shown, "put the output of `forebrain plan` there"


def test_what_a_terabyte_costs_follows_from_the_benchmarks() -> None:
    measured, page = ((ROOT / "docs" / name).read_text() for name in ("benchmarks.md", "operating.md"))
    found_row = re.search(r"step, (19,200) unit-windows \| ([\d,]+) \|", measured)
    assert found_row is not None
    rows, ms = found_row.groups()
    rows_per_s = int(rows.replace(",", "")) / int(ms.replace(",", "")) * 1000
    rounded = float(f"{rows_per_s:.3g}")
    assert f"{rounded:,.0f} rows a second" in page and f"--rows_per_s {rounded:.0f}" in page
    hours = 2.5e11 * 0.6 / 16 / rows_per_s / 3600
    assert f"{hours:.0f} core hours" in page
    given = PlanConfig(
        sessions=1000, units=10**6, data_bytes=1e12, workers=64, batch_size=512, rows_per_s=rounded
    )
    found = calculate(given)
    assert f"({found['worker_hours_a_pass']:.1f})" in page
    assert f"({found['steps_a_pass'] * 512 / 1e6:.1f} million in a pass)" in page


def test_the_command_of_the_manifest_is_taken() -> None:
    document = yaml.safe_load((ROOT / "cluster" / "kuberay" / "rayjob.yaml").read_text())
    assert check(shlex.split(document["spec"]["entrypoint"]))


@pytest.mark.parametrize(
    "wrong",
    [
        "python jobs/nothing.py", "python jobs/pretrain.py --data a --out b --training.stepz 1",
        ".venv/bin/forebrain forecats", "forebrain-registry publish --wrong", "make prertain",
        "ray job submitt", "ray job submit --workingdir . -- python jobs/prepare.py --recordings a --out b",
        "ray up cluster/azure.yaml", "sbatch cluster/slurm/run.sbatch python jobs/prepare.py --out b",
    ],
)  # fmt: skip
def test_a_command_that_does_not_exist_is_found(wrong: str) -> None:
    refusals = (AssertionError, ConfigError, SystemExit, FileNotFoundError, click.ClickException)
    with pytest.raises(refusals):
        check(shlex.split(wrong))
