"""Configs: from YAML and the command line, errors that name the key, before any work starts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from forebrain.benchmarking.chaos import ChaosConfig
from forebrain.config import from_values, parse
from forebrain.errors import CheckpointError, ConfigError
from forebrain.models.baselines.linear import DLinearConfig, NLinearConfig
from forebrain.models.baselines.mlp import MlpConfig
from forebrain.scoring.protocol_defaults import DEFAULTS
from forebrain.scoring.protocols import PROTOCOLS
from forebrain.studies.scaling import ScaleConfig
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.run_folder import RunFolder
from forebrain.training.strategies.deepspeed_config import read_options

GIVEN = ["--data", "shards", "--out", "run"]


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("training:\n  steps: 7\n  batch_size: 3\nseed: 5\n")
    config = parse(PretrainConfig, [*GIVEN, "--config", str(file), "--training.steps", "9"])
    assert (config.training.steps, config.training.batch_size, config.seed) == (9, 3, 5)
    assert config.model.width == 128


def test_a_list_takes_the_words_up_to_the_next_option() -> None:
    config = parse(PretrainConfig, [*GIVEN, "--holdout.subjects", "lab/a", "lab/b", "--seed", "3"])
    assert (config.holdout.subjects, config.seed) == (["lab/a", "lab/b"], 3)
    for given in ("x/*", '["x/*"]'):
        assert parse(PretrainConfig, [*GIVEN, "--holdout.sessions", given]).holdout.sessions == ["x/*"]


def test_the_models_name_chooses_its_options(tmp_path: Path) -> None:
    chosen = parse(PretrainConfig, [*GIVEN, "--model.name", "mlp", "--model.width", "8"])
    assert chosen.model == MlpConfig(width=8)
    assert type(chosen) is PretrainConfig and type(chosen.model) is MlpConfig
    assert pickle.loads(pickle.dumps(chosen)) == chosen
    assert from_values(PretrainConfig, json.loads(json.dumps(dataclasses.asdict(chosen)))) == chosen

    file = tmp_path / "config.yaml"
    file.write_text("model:\n  name: dlinear\n  kernel: 7\n")
    assert parse(PretrainConfig, [*GIVEN, f"--config={file}"]).model == DLinearConfig(kernel=7)
    with pytest.raises(ConfigError, match="kernel"):  # an option of the file's model, not of the one chosen
        parse(PretrainConfig, [*GIVEN, "--config", str(file), "--model.name", "mlp"])


def test_a_size_names_defaults_that_other_options_override(tmp_path: Path) -> None:
    small = parse(PretrainConfig, [*GIVEN, "--model.size", "small"])
    assert (small.model.width, small.model.film_width, small.model.num_latents) == (32, 128, 8)
    assert parse(PretrainConfig, [*GIVEN, "--model.size", "published"]) == parse(PretrainConfig, GIVEN)
    # Also where a value is given that is the default of no size.
    wide = parse(PretrainConfig, [*GIVEN, "--model.width", "128", "--model.size", "small"])
    assert (wide.model.width, wide.model.film_width) == (128, 128)
    file = tmp_path / "config.yaml"
    file.write_text("model: {size: tiny}\n")
    of_file = parse(PretrainConfig, [*GIVEN, "--config", str(file), "--model.film_width", "9"])
    assert (of_file.model.width, of_file.model.film_width) == (16, 9)
    values = {"data": "d", "out": "o", "model": {"size": "medium"}}
    assert from_values(PretrainConfig, values).model.film_width == 512
    # What a run keeps is the sizes themselves, whatever they will be called later.
    kept = dataclasses.asdict(small)
    assert "size" not in kept["model"] and from_values(PretrainConfig, kept) == small


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.size", "huge"], "model.size is 'huge'; expected one of tiny, small, medium, published"),
        (["--model.size", "small", "--model.name", "mlp"], "--model.size"),
        (["--model.size", "small", "--model.name", "poyo"], "--model.size"),
    ],
)
def test_a_size_that_a_model_does_not_have_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(PretrainConfig, [*GIVEN, *words])


def test_what_was_read_before_leaves_nothing_in_what_is_read_now() -> None:
    values = {"data": "a", "out": "b", "model": {"width": 16}, "holdout": {"subjects": ["lab/b"]}}
    first = from_values(PretrainConfig, values)
    assert first.holdout.subjects is not None
    first.holdout.subjects.append("lab/a")
    assert from_values(PretrainConfig, {**values, "model": {"name": "mlp"}}).model == MlpConfig()
    assert from_values(PretrainConfig, {"data": "c", "out": "d"}) == PretrainConfig("c", "d")
    with pytest.raises(ConfigError, match="stepz"):
        from_values(PretrainConfig, {**values, "training": {"stepz": 3}})
    again = from_values(PretrainConfig, values)
    assert again.holdout.subjects == ["lab/b"] and again.model == first.model


def test_a_slot_within_a_config_within_a_config_is_chosen_too() -> None:
    arguments = ["--pretrain.data", "a", "--pretrain.out", "b", "--pretrain.model.name", "nlinear"]
    config = parse(ChaosConfig, arguments)
    assert config.pretrain == PretrainConfig("a", "b", model=NLinearConfig())
    assert type(config.pretrain) is PretrainConfig


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--training.stepz", "5"], ["--training.stepz", "Did you mean --training.steps"]),
        (["--training.steps", "0"], ["training.steps is 0", "1 or more"]),
        (["--training.steps", "many"], ["training.steps", "many"]),
        (["--protocol", "random"], ["protocol", "chronological", "random"]),
        (["--training.learning_rate", "-1"], ["training.learning_rate is -1"]),
        (["--model.token_length", "7"], ["model.token_length is 7", "48"]),
        (["--workers", "-1"], ["workers is -1"]),
        (["--model.name", "pocoo"], ["model.name is 'pocoo'", "poco", "mlp"]),
        (["--model.name", "mlp", "--model.num_latents", "4"], ["--model.num_latents"]),
        (["--workers", "0", "--use_gpu", "true"], ["use_gpu is True", "workers is 0"]),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(arguments: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(PretrainConfig, [*GIVEN, *arguments])
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_key_in_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("training:\n  batch_siz: 3\n")
    with pytest.raises(ConfigError, match="batch_siz"):
        parse(PretrainConfig, [*GIVEN, "--config", str(file)])


ASKED = """
import dataclasses, sys
from forebrain.config import one_of, parse

@dataclasses.dataclass(frozen=True)
class Training:
    label: str = ""
    rate: float = 1.0

@dataclasses.dataclass(frozen=True)
class Small:
    name: str = "small"

@dataclasses.dataclass(frozen=True)
class Large:
    name: str = "large"
    width: int = 1

@dataclasses.dataclass(frozen=True)
class Config:
    data: str
    training: Training = Training()
    model: Small = dataclasses.field(
        default_factory=Small, metadata=one_of({"small": Small, "large": Large})
    )

sys.stdout.reconfigure(errors="backslashreplace")
found = parse(Config, sys.argv[1:])
print(ascii((found.data, found.training.label, found.training.rate, found.model)))
"""


def test_files_are_utf8_in_a_terminal_that_is_not(tmp_path: Path) -> None:
    def asked(*words: str, given: bytes = b"") -> bytes:
        done = subprocess.run(
            [sys.executable, "-c", ASKED, *words],
            input=given, env=environment, cwd=tmp_path, capture_output=True, check=True,
        )  # fmt: skip
        return done.stdout

    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    Path(tmp_path, "sub").mkdir()
    Path(tmp_path, "sub", "mine.yaml").write_text("---\ndata: Mäuse🐭\nmodel: large.yaml\n", "utf-8-sig")
    Path(tmp_path, "sub", "large.yaml").write_text("name: large  # für später\nwidth: 8\n", "utf-8")
    Path(tmp_path, "few.yaml").write_text("label: jährlich\nrate: 1e-3\n", "utf-8")
    expected = ascii(("Mäuse🐭", "jährlich", 1e-3))[:-1].encode() + b", Large(name='large', width=8))\n"
    assert asked("--config", "sub/mine.yaml", "--training", "few.yaml") == expected
    # What --print_config prints is such a file.
    printed = asked("--training=few.yaml", "--config=sub/mine.yaml", "--print_config")
    assert "jährlich".encode() in printed and asked("--config", "-", given=printed) == expected


def test_options_of_deepspeed_are_json_in_utf8(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"comms_logger": {"enabled": true}}', "utf-8-sig")
    assert read_options(str(file)) == {"comms_logger": {"enabled": True}}
    file.write_bytes(b'{"comms_logger": {"prof_ops": ["\xe4"]}}')
    with pytest.raises(ConfigError, match=r"mine.json.*not valid JSON"):
        read_options(str(file))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("out: M\xfc\n".encode("latin-1"), "cannot be read as YAML saved as UTF-8"),
        ("seed: 1\n".encode("utf-16"), "cannot be read as YAML saved as UTF-8"),
        (b"data: [\n", "cannot be read as YAML"),
        (b"- data\n", "holds no options"),
        (b"seed: 1\nseed: 2\n", "cannot be read .*it has 'seed' twice"),
        (b"training: {steps: 1}\ntraining.steps: 2\n", "has training.steps twice"),
        (b"training: {steps: 1, steps: 2}\n", "cannot be read .*it has 'steps' twice"),
    ],
)
def test_a_file_that_is_no_config_is_named_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    for given in (["--config", str(file)], [f"--config={file}"]):
        with pytest.raises(ConfigError, match=f"^{file}: {words}"):
            parse(PretrainConfig, [*GIVEN, *given])


@pytest.mark.parametrize(("written", "seed"), [("010", 10), ("1_000", 1000)])
def test_a_number_in_a_file_is_the_decimal_one_that_it_is_as_an_option(
    tmp_path: Path, written: str, seed: int
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"seed: {written}\n")
    for given in (["--config", str(file)], ["--seed", written]):
        assert parse(PretrainConfig, [*GIVEN, *given]).seed == seed


@pytest.mark.parametrize("written", ["1:30", "0b11", "0x10", "0o17", "1:30.5"])
def test_a_number_that_is_not_decimal_is_an_error_in_a_file_and_as_an_option(
    tmp_path: Path, written: str
) -> None:
    file = tmp_path / "mine.yaml"
    for option, words in (("seed", "a whole number"), ("training.learning_rate", "a number")):
        file.write_text(f"{option}: {written}\n")
        for given in (["--config", str(file)], [f"--{option}", written]):
            with pytest.raises(ConfigError, match=rf"^{option} is {written}; expected {words}"):
                parse(PretrainConfig, [*GIVEN, *given])
    with pytest.raises(ConfigError, match=f"seed.*{written}"):
        from_values(PretrainConfig, {"data": "a", "out": "b", "seed": written})
    sizes = ["--pretrain.data", "a", "--pretrain.out", "b", "--axis", "units", "--sizes"]
    assert parse(ScaleConfig, [*sizes, "[010, 1_000]"]).sizes == [10, 1000]
    with pytest.raises(ConfigError, match=f"sizes is {written}"):
        parse(ScaleConfig, [*sizes, f"[010, {written}]"])


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ConfigError, match="out"):
        from_values(PretrainConfig, {"data": "shards"})


def test_the_protocol_decides_what_the_user_does_not() -> None:
    published = TrainingConfig().resolved("poco")
    assert (published.learning_rate, published.schedule, published.warmup_steps) == (3e-4, "constant", 0)
    assert published.amsgrad and published.joint_clip and published.move_unread_interfaces
    own = TrainingConfig(learning_rate=0.01, amsgrad=True).resolved("chronological")
    assert own.learning_rate == 0.01 and own.amsgrad and not own.joint_clip


def test_every_protocol_has_defaults_for_all_that_is_left_to_it(make_config) -> None:
    assert set(DEFAULTS) == set(PROTOCOLS)
    for protocol in PROTOCOLS:
        training = TrainingConfig(steps=200).resolved(protocol)
        left = {item.name for item in dataclasses.fields(training) if getattr(training, item.name) is None}
        assert left <= {"units_per_window", "split_above", "patience", "threads", "deepspeed"}
        assert training.warmup_steps == (0 if protocol == "poco" else 10)
        assert make_config(protocol=protocol).resolved_model().relative is (protocol != "poco")


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    training = TrainingConfig(steps=100, learning_rate=1.0, warmup_steps=10).resolved("chronological")
    rates = [training.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[10]) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert all(after <= before for before, after in itertools.pairwise(rates[10:]))


def test_how_often_a_run_is_saved_and_what_computes_it_are_no_part_of_its_identity(make_config) -> None:
    other = make_config("elsewhere", workers=3, training={"checkpoint_every": 99, "keep_checkpoints": 5})
    assert other.identity() == make_config().identity()
    assert make_config(training={"batch_size": 16}).identity() != make_config().identity()


def test_the_subset_is_part_of_a_runs_identity_and_runs_from_before_it_go_on(make_config) -> None:
    plain, part = make_config(), make_config(subset={"sessions": 2})
    run = RunFolder(plain.out)
    run.claim(part)
    with pytest.raises(CheckpointError, match=r"subset\.sessions was 2 and is now None"):
        run.check_config(plain)
    run.check_config(part)
    older = dataclasses.asdict(plain)
    del older["subset"], older["evaluation"]["exact"]
    run.folder.write("config.yaml", yaml.safe_dump(older).encode())
    run.check_config(plain)
    with pytest.raises(CheckpointError, match=r"subset\.sessions was None and is now 2"):
        run.check_config(part)
