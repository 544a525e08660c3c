"""The program itself: help that fits a screen, one way of giving options, one set of exit statuses."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import forebrain
import forebrain.commands
from forebrain.commands import SUMMARIES, main, module_of, parse_command, plan
from forebrain.commands._unread import output_may_fail
from forebrain.config import flat, options
from forebrain.errors import ConfigError, ForebrainError, StoppedError
from forebrain.leaving import end_as_usual, end_at_once, end_in_order
from forebrain_registry import cli

ROOT = Path(__file__).parents[2]
COLUMNS, LINES = 100, 48
OWN = [name for name in SUMMARIES if name != "registry"]  # whose options are read by the parser here
# What each command must be given.
LEAST: dict[str, list[str]] = {
    "inspect": ["a.npz"],
    "data get": ["one"],
    "data add": ["one", "--url", "https://h/a", "--sha256", "0", "--licence", "MIT"],
    "prepare": ["--recording", "a.npz", "--out", "o"],
    "pretrain": ["--data", "d", "--out", "o"],
    "evaluate": ["--run", "r"],
    "publish": ["--run", "r", "--name", "n"],
    "adapt": ["--model", "m", "--recording", "a.npz", "--out", "o"],
    "forecast": ["--adapted", "a", "--recording", "a.npz"],
    "effect": ["--adapted", "a", "--recording", "a.npz", "--plan", "plan.csv"],
    "live serve": ["--adapted", "a"],
    "page registry": ["r", "--out", "o"],
    "page runs": ["r", "--out", "o"],
    "page adapted": ["a", "--out", "o"],
    "study ablate": ["--pretrain.data", "d", "--pretrain.out", "o", "--variants", "{a: {seed: 1}}"],
    "study scale": ["--pretrain.data", "d", "--pretrain.out", "o", "--axis", "units", "--sizes", "1"],
    "study embeddings": ["--run", "r"],
    "study leave-one-out": ["--recording", "a", "b", "c", "--out", "o"],
    "study minutes": ["--recording", "a", "b", "c", "--out", "o"],
    "study rivals": ["--recording", "a.npz", "--out", "o"],
    "study intervals": ["--recording", "a.npz", "--out", "o"],
    "study inputs": ["--out", "o"],
    "study population": ["--recording", "a", "b", "c", "--out", "o"],
    "study backbone": ["--name", "n", "--recordings", "one", "--out", "o"],
    "leaks": ["--recording", "a.npz"],
    "chaos": ["--pretrain.data", "d", "--pretrain.out", "o"],
    "parity": ["fixtures"],
    "completion": ["bash"],
}


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["", *OWN, "live", "page", "study", "data"])
def test_help_fits_a_screen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, *name.split(), "--help").splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS, (len(lines), max(map(len, lines)))
    assert lines[0].startswith(f"usage: forebrain {name}".rstrip())
    assert shown(capsys, "help", *name.split()).splitlines() == lines


@pytest.mark.parametrize("name", OWN)
def test_all_help_has_every_option_and_the_short_one_those_that_must_be_given(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = module_of(name)
    every = [option.name for option in flat(options(module.Config))]
    whole, short = shown(capsys, *name.split(), "--help-all"), shown(capsys, *name.split(), "--help")
    positional = getattr(module, "POSITIONAL", None)
    assert [each for each in every if each != positional and f"  --{each}" not in whole] == []
    words = [word for word in LEAST.get(name, []) if word.startswith("--")]
    assert [word for word in words if word not in short] == []
    assert all(len(line) <= COLUMNS for line in whole.splitlines())


def test_help_of_a_group_and_of_a_choice_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    group = shown(capsys, "pretrain", "--help", "training")
    assert "--training.steps N" in group and "--model" not in group
    assert "--model.num_latents" in shown(capsys, "pretrain", "--help", "model")
    assert "--model.num_latents" not in shown(capsys, "pretrain", "--model.name", "mlp", "--help", "model")
    assert main(["pretrain", "--help", "trainin"]) == 2
    assert "Did you mean training?" in capsys.readouterr().err


def test_help_starts_neither_torch_nor_ray_nor_the_parser() -> None:
    code = """
import sys
from forebrain.commands import main
assert main(["--help"]) == main(["live", "--help"]) == main(["--version"]) == 0
print([name for name in ("torch", "ray", "numpy", "rich", "yaml", "jsonargparse") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_it_is_called_by_name_or_as_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "--version") == f"forebrain {forebrain.__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "forebrain", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"forebrain {forebrain.__version__}\n"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["forecats"], "Did you mean forecast?"),
        (["live", "serv"], "Did you mean live serve?"),
        (["study", "leave_one_out"], "Did you mean study leave-one-out?"),
        (
            ["pretrain", "--data", "a", "--out", "b", "--training.stepz", "1"],
            "Did you mean --training.steps?",
        ),
        (["pretrain", "--data", "a", "--out", "b", "--steps", "1"], "Did you mean --training.steps?"),
        (["pretrain", "--data", "a", "--ou", "b"], "Did you mean --out?"),  # nothing may be cut short
        (["pretrain", "--data", "a"], "--out is not given"),
        (["pretrain", "--data", "a", "--out"], "--out stands without a value"),
        (["pretrain", "a", "--out", "b"], "unrecognized arguments: a"),
        (["forecast", "--adapted", "a", "--recording", "b", "c"], "c"),
        (["study", "ablate", "--config", "ablatoin"], "ablatoin"),
        (
            ["prepare", "--recording", "a", "--out", "b", "--workers", "4"],
            "workers is 4; expected 0, or null.",
        ),
        (["plan", "--units", "many"], "units is many; expected a whole number."),
        (["benchmark", "--units", "3", "x"], "expected a list, each of it a whole number, or null."),
        (["live", "replay", "--transport", "tcp"], "expected one of requests, streams, lsl."),
        (["evaluate", "--run", "r", "--full", "maybe"], "full is maybe; expected true or false."),
    ],
)
def test_what_makes_no_sense_is_named_with_what_was_meant(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and meant in err and "--help`" in err and not out


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Has `forebrain data list` raise something."""

    def set_up(error: BaseException) -> None:
        def run(*given: object) -> int:
            raise error

        monkeypatch.setattr(module_of("data list"), "run", run)

    return set_up


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ForebrainError("no such thing"), 1, "error: no such thing"),
        (ConfigError("steps is 0"), 2, "error: steps is 0"),
        (PermissionError(13, "Permission denied", "a"), 1, "error: [Errno 13] Permission denied: 'a'"),
        (StoppedError("SIGTERM", 7), 143, "stopped by SIGTERM after step 7"),
        (KeyboardInterrupt(), 130, "stopped"),
        (ModuleNotFoundError("no", name="ray.data"), 1, "error: this needs the package ray"),
    ],
)
def test_every_command_ends_with_the_same_statuses_and_in_words(
    error: BaseException,
    status: int,
    says: str,
    raising: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    raising(error)
    assert main(["data", "list"]) == status
    assert capsys.readouterr().err.startswith(says)


def test_a_folder_that_was_removed_under_a_command_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch would end the process with a line of its own."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["inspect", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the folder in which this is started cannot be used (No such file")
    assert said.count("\n") == 1 and "`cd`" in said
    assert main(["--help"]) == 0


def test_a_reader_that_has_seen_enough_gives_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "forebrain", "data", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1
    process.stderr.close()


READ_NO_MORE = """
import sys
from forebrain.commands import main, pretrain
def run(config, console):
    for step in range(3):
        console.print(f"step {step}")
        print(f"warning {step}", file=sys.stderr, flush=True)
    open(config.out, "w").write("trained")
    return 0
pretrain.run = run
sys.exit(main(["pretrain", "--data", "recordings", "--out", sys.argv[1]]))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("log", ["full", "closed"])
def test_work_goes_on_where_nobody_can_read_what_it_prints(tmp_path: Path, log: str, unbuffered: str) -> None:
    out, environment = tmp_path / "out", {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", READ_NO_MORE, str(out)]
    if log == "full":
        with open("/dev/full", "w") as full:  # noqa: PTH123
            status = subprocess.run(command, stdout=full, stderr=full, env=environment).returncode
    else:
        reading, writing = os.pipe()
        os.close(reading)
        status = subprocess.run(command, stdout=writing, stderr=writing, env=environment).returncode
        os.close(writing)
    assert status == 0 and out.read_text() == "trained"


def test_what_could_not_be_printed_leaves_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as log, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", log)
        with output_may_fail():
            print("first")
            kept, full = os.dup(log.fileno()), os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, log.fileno())
            print("second")
            os.dup2(kept, log.fileno())
            print("third")
            os.close(kept), os.close(full)
    lines = (tmp_path / "log").read_text().split("\n")
    assert lines == ["first", "", "[what was printed before this could not be written]", "third", ""]


class TestOptions:
    def test_dashes_are_underscores(self) -> None:
        given = ["--training.batch-size", "3", "--min-workers=1", "--workers", "2"]
        config = parse_command("pretrain", [*LEAST["pretrain"], *given])
        assert (config.training.batch_size, config.min_workers) == (3, 1)

    def test_a_list_may_be_given_at_once_in_parts_or_as_yaml(self) -> None:
        for given in (["a", "b"], ["a", "--storage", "b"], ["[a, b]"], ["[a]", "--storage", "b"]):
            assert parse_command("doctor", ["--storage", *given]).storage == ["a", "b"]
        assert parse_command("doctor", ["--storage=a", "--json"]).storage == ["a"]
        for path in ("null.npz", "[1].npz"):  # which begin like YAML
            assert parse_command("inspect", [path]).recording == [path]

    def test_a_tuple_is_given_as_a_list_is(self) -> None:
        option = "--live.quantiles"
        for name in ("live serve", "live soak"):
            for given in (["0.1", "0.9"], ["0.1", option, "0.9"], ["[0.1, 0.9]"]):
                config = parse_command(name, [*LEAST.get(name, []), option, *given])
                assert config.live.quantiles == (0.1, 0.9)
            assert parse_command(name, [*LEAST.get(name, []), option, "0.5"]).live.quantiles == (0.5,)

    def test_a_value_may_begin_like_an_option(self) -> None:
        assert parse_command("publish", [*LEAST["publish"], "--summary=--none"]).summary == "--none"
        assert parse_command("pretrain", [*LEAST["pretrain"], "--max_restarts", "-1"]).max_restarts == -1

    def test_what_is_true_or_false_may_stand_alone(self) -> None:
        for given, value in (([], False), (["--json"], True), (["--json", "false"], False)):
            assert parse_command("doctor", given).json is value
        assert parse_command("pretrain", [*LEAST["pretrain"], "--use_gpu"]).use_gpu is True

    def test_words_before_and_after_options_belong_to_the_positional_one(self) -> None:
        assert parse_command("inspect", ["a", "b"]).recording == ["a", "b"]
        config = parse_command("parity", ["--device", "cuda", "here"])
        assert (config.folder, config.device) == ("here", "cuda")
        with pytest.raises(ConfigError, match="there"):
            parse_command("parity", ["here", "there"])

    @pytest.mark.parametrize("name", [name for name in OWN if getattr(module_of(name), "ALIASES", {})])
    def test_another_name_of_an_option_is_that_option(self, name: str, tmp_path: Path) -> None:
        module = module_of(name)
        for other, whole in module.ALIASES.items():
            option, _, implied = whole.partition(" ")
            (meant,) = (each for each in flat(options(module.Config)) if f"--{each.name}" == option)
            value = implied or given_value(meant.type)
            is_positional = option == f"--{getattr(module, 'POSITIONAL', None)}"
            least = [] if is_positional else without(LEAST.get(name, []), option)
            expected = parse_command(name, [*least, option, value])
            assert parse_command(name, [*least, other, *([] if implied else [value])]) == expected
            if "." not in option:
                file = tmp_path / "asked.yaml"
                file.write_text(yaml.safe_dump({other[2:]: True if implied else yaml.safe_load(value)}))
                assert parse_command(name, [*least, "--config", str(file)]) == expected

    def test_a_study_is_found_by_name_and_a_file_goes_before_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = ["--pretrain.data", "d", "--pretrain.out", "o", "--config"]
        by_name = parse_command("study scale", [*given, "units"])
        for path in ("jobs/studies/units.yaml", "platform/forebrain/studies/definitions/units.yaml"):
            assert parse_command("study scale", [*given, str(ROOT / path)]) == by_name
        monkeypatch.chdir(tmp_path)
        Path("units").write_text("axis: frames\nsizes: [7]\n")
        assert parse_command("study scale", [*given, "units"]).sizes == [7]


def given_value(hint: Any) -> str:
    """A value of a type, as it is given."""
    if "list" in str(hint):
        return "[x]"
    if "int" in str(hint):
        return "3"
    if "float" in str(hint):
        return "0.5"
    return "bf16" if "bf16" in str(hint) else "true" if hint is bool else "x"


def without(words: list[str], option: str) -> list[str]:
    """A command line without an option and its values."""
    kept, skipping = [], False
    for word in words:
        skipping = word == option or (skipping and not word.startswith("--"))
        kept += [] if skipping else [word]
    return kept


class TestRegistry:
    def test_it_is_the_light_client_by_another_name_and_knows_what_comes_with_the_package(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("FOREBRAIN_REGISTRY", raising=False)
        assert main(["registry", "list"]) == 0
        assert "macaque" in capsys.readouterr().out
        blob = tmp_path / f"blobs/sha256/ab/{'ab' * 32}"  # of a registry without a version
        blob.parent.mkdir(parents=True)
        blob.write_bytes(b"")
        assert main(["registry", "list", "--registry", str(tmp_path)]) == 0
        assert "macaque" in capsys.readouterr().out
        monkeypatch.setattr("forebrain.commands.registry.shipped_models", lambda: None)
        for words in (["list"], ["list", "--json"], ["show", "nothing"]):
            given = [*words, "--registry", str(tmp_path)]
            status = main(["registry", *given])
            ours = capsys.readouterr()
            assert (status, ours) == (cli.main(given), capsys.readouterr())

    def test_its_help_says_how_it_was_called(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["registry", "pull", "--help"])
        assert capsys.readouterr().out.startswith("usage: forebrain registry pull ")


def words_of(script: str, *arguments: str) -> list[str]:
    given: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(forebrain.commands, "main", given.append)
        patch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(ROOT / "jobs" / script), run_name="__main__")
    return given[0]


# Command lines from before there was one program, and what each must still ask for.
OLD: list[tuple[str, str, dict[str, object]]] = [
    ("prepare.py", "--recordings a b --out o --prepare.pca 3", {"recording": ["a", "b"], "out": "o"}),
    ("pretrain.py", "--data d --out o --full --workers 0", {"workers": 0}),
    ("pretrain.py", "--data d --out o --publish n --registry r --licence MIT", {"publish": "n"}),
    ("evaluate.py", "--run a b --out o --full --part validation", {"run": ["a", "b"], "full": True}),
    ("publish.py", "--run r --name n --step 4", {"step": 4}),
    ("adapt.py", "--model m --recordings a --out o --serial", {"each": True, "workers": 0}),
    ("adapt.py", "--model m --recordings a b --out o --serial false --steps 3", {"workers": None}),
    ("adaptation_study.py", "--recordings a b c --out o --seeds 1", {"recording": ["a", "b", "c"]}),
    ("ablate.py", f"--config {ROOT}/jobs/studies/ablation.yaml --pretrain.data d --pretrain.out o", {}),
    ("scale.py", f"--config {ROOT}/jobs/studies/units.yaml --pretrain.data d --pretrain.out o", {}),
    ("embeddings.py", "--run r", {"run": "r"}),
    ("leaks.py", "--recordings a --csv t.csv", {"recording": ["a"], "out": "t.csv"}),
    ("plan.py", "--sessions 3 --json p.json", {"sessions": 3, "out": "p.json"}),
    ("benchmark.py", "--json r.json --quick --units 40 --what fit", {"out": "r.json", "units": [40]}),
    ("large_session.py", "--json r.json --units 40", {"what": ["large-session"], "units": [40]}),
    ("chaos.py", "--pretrain.data d --pretrain.out o --json c.json", {"out": "c.json"}),
    ("serve.py", "--adapted a --state s", {"adapted": "a", "state": "s"}),
]


@pytest.mark.parametrize(("script", "line", "expected"), OLD, ids=lambda value: str(value)[:40])
def test_a_job_takes_what_it_took(script: str, line: str, expected: dict[str, object]) -> None:
    name, arguments = forebrain.commands.split(words_of(script, *line.split()))
    config = parse_command(name, arguments)
    assert {key: getattr(config, key) for key in expected} == expected


def test_options_of_old_reach_what_they_were_for() -> None:
    adapt = parse_command("adapt", [*LEAST["adapt"], "--steps", "3", "--learning_rate", "0.1"])
    assert (adapt.fit.steps, adapt.fit.learning_rate) == (3, 0.1)
    large = parse_command("benchmark", ["--units_per_window", "9", "--steps", "3"])
    assert (large.large_session.units_per_window, large.large_session.steps) == (9, 3)
    assert parse_command("live replay", ["--budget-ms", "5"]).budget_ms == 5


def test_every_job_is_tried() -> None:
    assert {script for script, _, _ in OLD} == {path.name for path in (ROOT / "jobs").glob("*.py")}


@pytest.fixture(scope="module")
def bash() -> Iterator[Callable[[str], list[str]]]:
    """What bash offers at the end of a command line."""
    from forebrain.commands.completion import script

    text = script()

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        array = " ".join(f"'{word}'" for word in words)
        code = (
            f"{text}\nCOMP_WORDS=({array}); COMP_CWORD={len(words) - 1}\n_forebrain\n"
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        assert not done.stderr
        return done.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("forebrain pre", ["prepare", "pretrain"]),
        ("forebrain live ", ["serve", "watch", "replay", "soak"]),
        ("forebrain registry pu", ["publish", "pull"]),
        ("forebrain pretrain --training.stea", []),
        ("forebrain pretrain --training.ste", ["--training.steps"]),
        ("forebrain pretrain --model.name my", []),
        ("forebrain pretrain --data x --protocol zap", ["zapbench"]),
        ("forebrain live serve --transport ", ["requests", "streams", "lsl"]),
        ("forebrain completion ", ["bash", "zsh"]),
        ("forebrain adapt --step", ["--steps"]),
        ("forebrain study ablate --config abl", ["ablation"]),
        ("forebrain pretrain --data ", []),  # a path, which bash completes itself
    ],
)
def test_bash_completes_commands_options_and_their_values(
    line: str, offered: list[str], bash: Callable[[str], list[str]]
) -> None:
    assert bash(line) == offered


def test_zsh_takes_the_same_through_its_own_door(capsys: pytest.CaptureFixture[str]) -> None:
    of_bash = shown(capsys, "completion", "bash")
    of_zsh = shown(capsys, "completion", "zsh")
    assert of_zsh.endswith(of_bash) and "bashcompinit\n" in of_zsh.removesuffix(of_bash)


def test_what_is_completed_of_the_registry_is_all_that_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    from forebrain.commands.completion import OF_REGISTRY

    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out.split("COMMAND\n")[1]
    found = {line.split()[0] for line in text.splitlines() if line.startswith("    ") and line[4:5] != " "}
    assert found == set(OF_REGISTRY.split())


class TestOut:
    def test_a_file_that_is_there_is_not_written_over_unless_that_is_asked_for(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "plan.json"
        out.write_text("mine")
        assert main(["plan", "--out", str(out)]) == 2
        assert "--overwrite" in capsys.readouterr().err and out.read_text() == "mine"
        assert main(["plan", "--out", str(out), "--overwrite"]) == 0 and out.read_text().startswith("{")

    def test_a_file_that_another_command_wrote_meanwhile_is_not_written_over(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, calculate = tmp_path / "plan.json", plan.calculate

        def slowly(config: plan.Config) -> dict[str, object]:
            out.write_text("another's")
            return calculate(config)

        monkeypatch.setattr(plan, "calculate", slowly)
        assert main(["plan", "--out", str(out)]) == 2
        assert "exists. Give --overwrite" in capsys.readouterr().err and out.read_text() == "another's"

    def test_what_is_no_file_is_never_replaced(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        assert main(["plan", "--out", str(pipe), "--overwrite"]) == 2
        assert "a folder, device or pipe; expected a file" in capsys.readouterr().err and pipe.is_fifo()

    def test_a_link_is_written_through_and_never_to_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "disk").mkdir()
        link, file = tmp_path / "link.json", tmp_path / "disk" / "plan.json"
        link.symlink_to(file)
        assert main(["plan", "--out", str(link), "--overwrite"]) == 1
        assert "is a link to" in capsys.readouterr().err and not file.exists()
        file.write_text("mine")
        assert main(["plan", "--out", str(link)]) == 2 and "--overwrite" in capsys.readouterr().err
        assert main(["plan", "--out", str(link), "--overwrite"]) == 0
        assert link.is_symlink() and file.read_text().startswith("{")

    @pytest.mark.parametrize(
        "words",
        [
            ["forecast", "--adapted", "nothing", "--recording", "a.npz"],
            ["leaks", "--recording", "nothing.npz"],
            ["evaluate", "--run", "a", "b"],
            ["live", "replay"],
        ],
    )
    def test_it_is_refused_before_any_work(
        self, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        if words[0] in ("evaluate", "live"):
            out.mkdir()
            (out / "comparison.json").write_text("mine")
            (out / "latency.json").write_text("mine")
        else:
            out.write_text("mine")
        assert main([*words, "--out", str(out)]) == 2
        assert "exists. Give --overwrite" in capsys.readouterr().err


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
# A command that sends itself a signal as it runs.
SIGNALLED = """
import os, sys, types
from forebrain import __main__ as program, commands
def run(config, console):
    try:
        os.kill(os.getpid(), {number})
    finally:
        print("put away")
commands.module_of = lambda name: types.SimpleNamespace(run=run)
commands.parse_command = lambda name, given: None
sys.argv = ["forebrain", "inspect", "a.npz"]
sys.exit(program.main())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_before_a_command_is_imported_ends_it_with_a_line(number: int, status: int) -> None:
    ended = python(
        f"import os; from forebrain.leaving import end_at_once; end_at_once(); os.kill(os.getpid(), {number})"
    )
    assert (ended.returncode, ended.stderr) == (status, "stopped\n")


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_to_a_command_puts_away_what_was_begun(number: int, status: int) -> None:
    ended = python(SIGNALLED.format(number=int(number)))
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "put away\n", "stopped\n")


@pytest.mark.parametrize("flush", ["", ", flush=True"])
@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_that_ends_who_reads_the_output_too_leaves_the_status(
    number: int, status: int, flush: str
) -> None:
    """As Ctrl-C does to `forebrain ... | tee log`."""
    code = SIGNALLED.format(number=int(number)).replace('"put away"', f'"put away"{flush}')
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None and command.stderr is not None
    command.stdout.close()
    assert command.wait(timeout=60) == status
    assert command.stderr.read() == b"stopped\n"
    command.stderr.close()


@pytest.mark.parametrize("code", [SIGNALLED.format(number=int(signal.SIGHUP)), ""])
def test_lines_for_a_terminal_that_is_gone_are_no_errors(code: str) -> None:
    code = (
        code or "import os; from forebrain.leaving import end_at_once; end_at_once(); os.kill(os.getpid(), 1)"
    )
    terminal, end = os.openpty()
    ended = subprocess.Popen([sys.executable, "-c", code], stdin=end, stdout=end, stderr=end)
    os.close(end)
    os.close(terminal)
    assert ended.wait(timeout=60) == 129


def test_signals_that_are_ignored_stay_so_and_others_are_as_before() -> None:
    def handlers() -> list[Any]:
        return [signal.getsignal(number) for number, _ in SIGNALS]

    # Ray, once another test has started it here, has a handler of its own.
    others = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = handlers()
    assert main(["--version"]) == 0 and handlers() == before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        end_at_once()
        assert handlers()[0] is signal.SIG_IGN and handlers()[1] is not before[1]
        end_in_order()
        assert handlers()[0] is signal.SIG_IGN
        end_as_usual()
    finally:
        signal.signal(signal.SIGINT, before[0])
        after = handlers()
        for number, handler in others.items():
            signal.signal(number, handler)
    assert after == before
