"""Unit embeddings: structure that is there is found, noise is not, and missing labels are an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from forebrain.alone import alone
from forebrain.errors import ConfigError, StudyError
from forebrain.studies import embeddings
from forebrain.studies.embeddings import (
    SessionUnits,
    analyse_embeddings,
    check_labels,
    compare_names,
    compare_regions,
    known_name,
    neighbours,
    report_embeddings,
)
from forebrain.studies.kept import claim
from forebrain.studies.report import to_html
from forebrain_registry.storage import Folder

NAMES = tuple(f"AV{letter}" for letter in "ABCDEFGHIJKLMNOP")
REGIONS = tuple("tectum" if number % 2 else "pallium" for number in range(16))


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "NUM_PERMUTATIONS", 99)


def session(number: int, known: np.ndarray, noise: float, **labels: tuple[str | None, ...]) -> SessionUnits:
    rng = np.random.default_rng(number)
    vectors = known + noise * rng.normal(size=known.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nothing = (None,) * len(known)
    return SessionUnits(
        f"worm {number}", vectors, labels.get("names", nothing), labels.get("regions", nothing)
    )


@pytest.fixture
def known() -> np.ndarray:
    """Vectors of 16 units, those of a region alike."""
    rng = np.random.default_rng(9)
    centre = {region: rng.normal(size=12) for region in set(REGIONS)}
    return np.array([centre[region] for region in REGIONS]) + 0.7 * rng.normal(size=(16, 12))


def test_regions_that_lie_together_are_found_within_and_across_sessions(known: np.ndarray) -> None:
    tests = compare_regions([session(number, known, 0.5, regions=REGIONS) for number in range(3)])
    assert [test.pairs for test in tests] == ["within sessions", "across sessions"]
    for test in tests:
        assert test.within < test.between and test.p == pytest.approx(0.01)
    assert tests[0].num_within == 3 * 2 * 28 and tests[0].num_between == 3 * 64


def test_noise_has_no_regions(known: np.ndarray) -> None:
    noise = np.random.default_rng(5).normal(size=known.shape)
    for test in compare_regions([session(number, noise, 1.0, regions=REGIONS) for number in range(2)]):
        assert test.p > 0.05


def test_the_same_name_is_found_in_another_animal(known: np.ndarray) -> None:
    names = [NAMES, NAMES[:12] + (None,) * 4]
    test = compare_names([session(number, known, 0.05, names=own) for number, own in enumerate(names)])
    assert test is not None
    assert test.num_queries == 24 and test.first > 0.9 and test.rank < 0.02
    assert test.p == pytest.approx(0.01) and test.chance_first == pytest.approx(1 / 14, abs=0.04)


def test_unrelated_animals_share_names_by_chance_only(known: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    test = compare_names([session(n, rng.normal(size=known.shape), 0.0, names=NAMES) for n in range(3)])
    assert test is not None and test.p > 0.05 and test.rank == pytest.approx(0.5, abs=0.1)


def test_neighbours_are_listed_by_name_nearest_first(known: np.ndarray) -> None:
    sessions = [session(number, known, 0.01, names=NAMES) for number in range(2)]
    stranger = session(2, known[::-1], 0.01, names=(NAMES[0],) + (None,) * 14 + ("only here",))
    table = neighbours([*sessions, stranger])
    assert [row[0] for row in table.rows[:-1]] == sorted(NAMES[1:])
    for name, pairs, rank, nearest, most_often in table.rows[:-1]:
        assert (pairs, rank, nearest, most_often) == (2, 0.0, 1.0, f"{name} 2")
    # The first unit of the stranger is another than those of its name.
    name, pairs, rank, nearest, most_often = table.rows[-1]
    assert (name, pairs) == (NAMES[0], 6) and rank > 0 and 0 < nearest < 1


def test_units_without_labels_are_a_clear_error(known: np.ndarray) -> None:
    one_region = ("tectum",) * 16
    for labels in ({}, {"regions": one_region}):
        with pytest.raises(ConfigError, match=r"no session has units in two or more regions.*worm 0"):
            check_labels([session(number, known, 0.1, **labels) for number in range(2)])
    check_labels([session(number, known, 0.1, names=NAMES) for number in range(2)])


@pytest.mark.parametrize(
    ("name", "is_known"),
    [("AVAL", True), ("glomerulus_17", True), ("unit7", False), ("C03", False), ("44", False), ("", False)],
)
def test_names_that_a_program_gave_identify_nobody(name: str, is_known: bool) -> None:
    assert (known_name(name) is not None) == is_known


def test_a_folder_where_another_command_works_gets_no_report(
    known: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [session(number, known, 0.3, regions=REGIONS) for number in range(2)]
    for name in ("RunFolder", "TrainedModel", "open_windows"):
        monkeypatch.setattr(embeddings, name, MagicMock())
    monkeypatch.setattr(embeddings, "units_of", lambda *given: sessions)
    monkeypatch.setattr(embeddings, "run_id", lambda trained: "a-b-step4")
    out = Folder(tmp_path / "out")
    with alone(out):
        with pytest.raises(StudyError, match="another command works there"):
            analyse_embeddings("run", out.uri, "typed")
        assert out.names() == ["held-1.json"]
    analyse_embeddings("run", out.uri, "typed")
    assert "report.html" in out.names() and "held-1.json" not in out.names()


def test_embeddings_of_another_run_are_not_mixed_with_those_that_are_there(
    known: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: dict[str, Any] = {"regions": REGIONS}
    run = "a-b-step4"
    for name in ("TrainedModel", "open_windows"):
        monkeypatch.setattr(embeddings, name, MagicMock())
    monkeypatch.setattr(
        embeddings, "units_of", lambda *given: [session(number, known, 0.3, **labels) for number in range(2)]
    )
    monkeypatch.setattr(embeddings, "run_id", lambda trained: run)
    out = Folder(tmp_path / "out")
    analyse_embeddings(str(tmp_path / "run"), out.uri, "typed")
    before = {name: out.read(name) for name in out.names()}
    assert "regions.csv" in before
    run = "a-b-step8"  # the same run went on
    analyse_embeddings(str(tmp_path / "run"), out.uri, "typed")
    run, labels = "c-d-step4", {"names": NAMES}
    with pytest.raises(ConfigError, match=r"embeddings of another run \(a-b\); give another --out"):
        analyse_embeddings(str(tmp_path / "run"), out.uri, "typed")
    assert {name: out.read(name) for name in out.names()} == before

    out.remove("study.json")  # as an earlier version left it
    with pytest.raises(ConfigError, match="of a run that an earlier version did not name"):
        analyse_embeddings(str(tmp_path / "run"), out.uri, "typed")
    analyse_embeddings(str(tmp_path), out.uri, "typed")  # in the run's own folder it is of that run
    with pytest.raises(ConfigError, match="holds study embeddings; give another --out for study rivals"):
        claim(out, {}, "rivals")


def test_the_report_shows_what_was_found(known: np.ndarray) -> None:
    sessions = [session(number, known, 0.3, names=NAMES, regions=REGIONS) for number in range(2)]
    report = report_embeddings(sessions, "python jobs/embeddings.py --run r")
    assert {picture.name for picture in report.pictures} == {"by_session", "by_region", "by_name"}
    page = to_html(report)
    assert "units of one region lie nearer" in page and "AVA" in page and page.count("<img") == 3
    assert "http" not in page  # nothing outside the page
