"""What reading the population is worth: a part of it, all of it, and all of it at another time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from forebrain.config import parse
from forebrain.errors import ConfigError
from forebrain.models.base import SessionInput
from forebrain.models.poco import PocoConfig
from forebrain.scoring.baselines import LinearBaseline
from forebrain.scoring.ridge import Features, Head
from forebrain.scoring.stack import Stack
from forebrain.sessions.session import Session
from forebrain.studies.population import (
    SCORED,
    PopulationConfig,
    ReadsSome,
    _rolled,
    study,
    summarise,
    tables_of,
    without_population,
)
from forebrain.training.config import TrainingConfig

QUIET = Console(quiet=True)
SMALL = PocoConfig(
    context=12, horizon=4, token_length=4, width=8, num_latents=2, num_heads=1, head_width=4, film_width=8
)


def test_the_same_model_without_its_encoder() -> None:
    config = without_population(SMALL)
    assert (config.name, config.width, config.film_width, config.context) == ("uico", 8, 8, 12)


def test_what_is_read_is_all_that_matters_of_others() -> None:
    torch.manual_seed(0)
    model = SMALL.build().eval()
    torch.nn.init.normal_(model.forecaster.scale.weight)  # FiLM starts at zero
    interface = model.new_interface(5)
    context = torch.randn(3, 12, 5)
    (whole,) = model.forecast([SessionInput(context, interface)])
    (all_read,) = ReadsSome(model, torch.arange(5)).eval().forecast([SessionInput(context, interface)])
    assert torch.equal(whole, all_read)

    some = ReadsSome(model, torch.tensor([1, 3])).eval()
    (before,) = some.forecast([SessionInput(context, interface)])
    context[..., 0] = torch.randn(3, 12)
    (after,) = some.forecast([SessionInput(context, interface)])
    assert torch.equal(before[..., 1:], after[..., 1:])
    assert not torch.equal(before[..., 0], after[..., 0])  # its own past counts
    context[..., 3] = torch.randn(3, 12)
    (after,) = some.forecast([SessionInput(context, interface)])
    assert not torch.equal(before[..., 1], after[..., 1])


def test_rolled_by_nothing_is_the_stack_itself() -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    torch.manual_seed(0)
    model = SMALL.build().eval()
    torch.nn.init.normal_(model.forecaster.scale.weight)
    interface = model.new_interface(5)
    lags = 4  # changes over 1, 2, 4, 8 frames
    head = Head(
        Features.unbounded(draw(5, 2)),
        draw(12, 4),
        draw(12, 4, 5),
        {"population": draw(2 * (1 + lags), 4, 5)},
    )
    half = np.full(4, 0.5, np.float32)
    stack = Stack(LinearBaseline(draw(12, 4)), half, half, head)
    context, other = draw(3, 12, 5), draw(3, 12, 5)
    with torch.inference_mode():
        (forecast,) = model.forecast([SessionInput(torch.from_numpy(context), interface)])
    expected = stack.forecast(context, forecast.numpy())
    forecaster = _rolled(model, interface, stack)
    np.testing.assert_allclose(
        forecaster(0, np.concatenate([context, context], axis=2)), expected, rtol=1e-4, atol=1e-4
    )
    assert np.abs(forecaster(0, np.concatenate([context, other], axis=2)) - expected).max() > 0.1


def test_a_study_scores_each_animal_once(
    tmp_path: Path, walk: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = [str(tmp_path / f"{seed}.npz") for seed in range(3)]
    for seed, path in enumerate(recordings):
        walk(seed, num_frames=400).save(path)
    recordings.append(str(tmp_path / "short.npz"))
    replace(walk(3, num_frames=60), subject="short").save(recordings[-1])
    config = PopulationConfig(
        recordings, str(tmp_path / "study"), seeds=1, units=(1, 2, 500), model=SMALL,
        pretraining=TrainingConfig(steps=2, batch_size=4, validate_every=2),
    )  # fmt: skip
    result = study(config, QUIET, "forebrain study population")
    assert [row["session"] for row in result["rows"]] == [f"lab/animal{seed}/one" for seed in range(3)]
    for row in result["rows"]:
        assert all(np.isfinite(row[name]) for name in SCORED)
        assert list(row["by_units"]) == ["1", "2", "all"]
    out = Path(config.out)
    report = (out / "population.md").read_text()
    assert "forebrain study population" in report
    assert "- session lab/short/one: too short." in report and result["left_out"]
    assert not list(out.glob("without-lab-short*"))  # no backbone is trained for what cannot be scored
    assert (out / "population.png").read_bytes().startswith(b"\x89PNG")

    # Would fail if anything were done again.
    monkeypatch.setattr("forebrain.studies.population.score_session", None)
    assert study(config, QUIET)["rows"] == result["rows"]
    for other in (replace(config, units=(1,)), replace(config, windows_per_session=7)):
        with pytest.raises(ConfigError, match=r"of another --units or --windows_per_session"):
            study(other, QUIET)
    with pytest.raises(ConfigError, match="expected 3 or more"):
        study(replace(config, recording=recordings[:2]), QUIET)


def test_how_many_units_are_read_is_given_as_a_list() -> None:
    given = ["--recording", "a", "--out", "b", "--units"]
    assert parse(PopulationConfig, [*given, "1", "4"]).units == (1, 4)
    with pytest.raises(ConfigError, match=r"units are \[-1\]; expected"):
        parse(PopulationConfig, [*given, "-1"])
    for name in ("seeds", "windows_per_session"):
        with pytest.raises(ConfigError, match=f"{name} is 0; expected 1 or more"):
            parse(PopulationConfig, [*given, "1", f"--{name}", "0"])


def test_sessions_with_fewer_units_count_with_all_they_have() -> None:
    scores = dict.fromkeys(SCORED, 0.2)
    rows = [
        {
            "session": name, "species": "worm", "seed": 0, "num_units": 50, **scores, "with it": 0.3,
            "by_units": by_units, "worth": [0.1, None, None],
        }
        for name, by_units in (("a", {"1": 0.1, "64": 0.2, "all": 0.3}), ("b", {"1": 0.2, "all": 0.3}))
    ]  # fmt: skip
    result = {"rows": rows, **summarise(rows)}
    (means,) = result["means"]
    assert means["by_units"] == pytest.approx({"1": 0.15, "64": 0.25, "all": 0.3})
    assert means["worth"]["with it"] == pytest.approx([0.1] * 3)
    texts = [table.to_markdown() for table in tables_of(result)]
    assert "+0.100 (+0.100 to +0.100)" in texts[1] and "| +0.100 " in texts[3]
