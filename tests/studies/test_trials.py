"""Trials: what is replaced, what is shared, and what is refused before anything starts."""

from __future__ import annotations

import dataclasses

import pytest

from forebrain.config import from_values
from forebrain.errors import ConfigError
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.studies.ablation import REFERENCE, AblateConfig
from forebrain.studies.relatives import ALONE, relative_trials
from forebrain.studies.scaling import ScaleConfig
from forebrain.studies.trials import Variant, make_trials, slug, with_overrides
from forebrain.training.config import PretrainConfig


def test_an_override_replaces_its_key_and_no_other(base: PretrainConfig) -> None:
    config = with_overrides(base, {"model.width": 32, "training.learning_rate": "1e-3"}, "x")
    assert config.model.width == 32 and config.training.learning_rate == 1e-3
    same = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, width=base.model.width),
        training=dataclasses.replace(config.training, learning_rate=base.training.learning_rate),
    )
    assert same == base


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"model.widht": 32}, "variant 'v' sets model.widht, which is no option"),
        ({"modle.width": 32}, "variant 'v' sets modle.width"),
        ({"model.width": -1}, "variant 'v': .*model.width is -1"),
        ({"seed": 3}, "which all trials of a study share"),
    ],
)
def test_an_impossible_override_names_its_variant(base: PretrainConfig, overrides: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_trials(base, [Variant("v", overrides)], 1)


def test_trials_of_a_seed_differ_in_their_variant_alone(base: PretrainConfig) -> None:
    trials = make_trials(base, [Variant("a", {}), Variant("b", {"model.width": 32})], 2)
    assert [(trial.seed, trial.variant) for trial in trials] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert len({trial.config.out for trial in trials}) == 4
    first, second = (dataclasses.asdict(trial.config) for trial in trials[:2])
    assert [key for key in first if first[key] != second[key]] == ["out", "model"]


def test_variants_of_one_name_are_refused(base: PretrainConfig) -> None:
    with pytest.raises(ConfigError, match="'a b', 'a-b' have the same name"):
        make_trials(base, [Variant("a b", {}), Variant("a-b", {})], 1)


@pytest.mark.parametrize("name", ["model.width=32", "no FiLM", "../up", "a/b", "", ".hidden"])
def test_any_name_is_a_folders(name: str) -> None:
    assert slug(name) and "/" not in slug(name) and not slug(name).startswith(".")


def ablation(small_run: dict, **given: object) -> AblateConfig:
    return from_values(AblateConfig, {"pretrain": small_run, **given})


def test_axes_change_one_thing_at_a_time_and_a_grid_all_together(small_run: dict) -> None:
    axes = {"model.width": [32, 64], "training.weight_decay": [0.0, 0.1]}
    one = ablation(small_run, axes=axes, variants={"both": {"model.width": 32, "seed": 0}})
    assert [variant.name for variant in one.all_variants()] == [
        REFERENCE, "both", "width=32", "width=64", "weight_decay=0.0", "weight_decay=0.1",
    ]  # fmt: skip
    grid = ablation(small_run, axes=axes, grid=True)
    assert [len(variant.overrides) for variant in grid.all_variants()] == [0, 2, 2, 2, 2]


def test_what_equals_the_reference_is_not_run_twice(small_run: dict, base: PretrainConfig) -> None:
    config = ablation(small_run, axes={"model.width": [16, 32]}, num_seeds=2)
    assert [trial.variant for trial in config.trials(base)] == [REFERENCE, "width=32"] * 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "expected something to compare"),
        ({"axes": {"model.width": []}}, "model.width has no values"),
        ({"axes": {"model.width": [32]}, "parallel": 0}, "parallel is 0"),
        ({"axes": {"training.steps": [5]}, "early_stopping": True}, "changes training.steps"),
    ],
)
def test_an_empty_or_unfair_ablation_is_refused(small_run: dict, given: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ablation(small_run, **given)


def scaling(small_run: dict, **given: object) -> ScaleConfig:
    return from_values(ScaleConfig, {"pretrain": small_run, **given})


@pytest.mark.parametrize(
    ("axis", "sizes", "expected"),
    [
        ("frames", [64, 32], [{"subset.frames": 32}, {"subset.frames": 64}]),
        ("fraction", [0.5, 1], [{"subset.fraction": 0.5}, {"subset.fraction": 1.0}]),
        ("sessions", [1, 3], [{"subset.sessions": 1}, {"subset.sessions": 3}]),
        (
            "units",
            [3, 5],
            [{"subset.units": n, "subset.scored_units": 3} for n in (3, 5)],
        ),
        (
            "model",
            [32, 8],
            [
                {"model.width": 8, "model.film_width": 64, "model.num_latents": 1},
                {"model.width": 32, "model.film_width": 256, "model.num_latents": 2},
            ],
        ),
        (
            "context",
            [6, 12],
            [
                {"model.context": 6, "evaluation.longest_context": 12, "model.token_length": 2},
                {"model.context": 12, "evaluation.longest_context": 12, "model.token_length": 4},
            ],
        ),
    ],
)
def test_each_size_changes_its_axis_and_keeps_what_is_scored(
    small_run: dict, base: PretrainConfig, axis: str, sizes: list, expected: list
) -> None:
    config = scaling(small_run, axis=axis, sizes=sizes, num_seeds=1)
    assert [variant.overrides for variant in config.variants(base)] == expected
    assert all(trial.config.evaluation.exact for trial in config.trials(base))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sizes": []}, "sizes is empty"),
        ({"sizes": [2, 2]}, "each size once"),
        ({"sizes": [0.5]}, "whole numbers above 0 for frames"),
        ({"sizes": [-1]}, "whole numbers above 0"),
        ({"sizes": [2], "num_targets": 0}, "num_targets is 0"),
    ],
)
def test_impossible_sizes_are_refused(small_run: dict, given: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        scaling(small_run, **{"axis": "frames", **given})


@pytest.fixture
def two_animals(tmp_path, walk) -> str:
    """Three sessions each of two animals."""
    files = []
    for number in range(6):
        session = dataclasses.replace(
            walk(number, num_frames=200), subject=f"animal{number // 3}", session=f"day{number % 3}"
        )
        session.save(tmp_path / f"{number}.npz")
        files.append(str(tmp_path / f"{number}.npz"))
    prepare(
        files, str(tmp_path / "shards"), PrepareConfig(),
        open_recording=lambda path: [Session.load(path)], run_each=map_here,
    )  # fmt: skip
    return str(tmp_path / "shards")


def test_a_target_is_trained_with_its_own_subject_and_with_as_many_of_others(
    base: PretrainConfig, two_animals: str
) -> None:
    trials = relative_trials(dataclasses.replace(base, data=two_animals), [1, 2], 2, 1)
    assert len(trials) == 2 * 5
    subject = {entry.id: entry.subject for entry in ShardSet.open(two_animals).sessions}
    targets = {trial.target for trial in trials}
    assert len({subject[target] for target in targets if target}) == 2
    for trial in trials:
        include = trial.config.subset.include
        assert include is not None and include[0] == trial.target
        beside = [subject[session] == subject[include[0]] for session in include[1:]]
        if trial.variant == ALONE:
            assert not beside
        else:
            assert len(beside) == int(trial.variant.split()[1])
            assert all(beside) if "same" in trial.variant else not any(beside)


def test_data_without_relatives_is_refused(base: PretrainConfig, two_animals: str) -> None:
    with pytest.raises(ConfigError, match="no session has 3 others of its subject"):
        relative_trials(dataclasses.replace(base, data=two_animals), [3], 2, 1)
    with pytest.raises(ConfigError, match="expected prepared shards"):
        relative_trials(dataclasses.replace(base, data="recordings"), [1], 2, 1)
