from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import rich.console

from forebrain.errors import ConfigError
from forebrain.evaluation.tables import Table, all_tables, by_session, overview
from forebrain.scoring.evaluate import Evaluation, evaluate, fit_baselines
from forebrain.scoring.window_source import ArrayWindows

C, H = 12, 4


@pytest.fixture(scope="module")
def source(walk) -> ArrayWindows:
    sessions = [walk(0), walk(1, species="mouse", dataset="other"), walk(2, num_frames=60)]
    return ArrayWindows(sessions, "chronological", C, H)


@pytest.fixture(scope="module")
def evaluation(source: ArrayWindows) -> Evaluation:
    forecasters = {"model": lambda session, context: 0.8 * context[:, -H:], **fit_baselines(source)}
    return evaluate(forecasters, source, "test")


def _plain_text(table: Table) -> str:
    console = rich.console.Console(file=io.StringIO(), width=160, color_system=None)
    console.print(table.to_rich())
    return console.file.getvalue()


def test_every_table_shows_every_baseline(evaluation) -> None:
    for table in all_tables(evaluation):
        for text in (_plain_text(table), table.to_markdown(), table.to_csv()):
            for name in ("model", "copy", "mean", "linear"):
                assert name in text, (table.name, name)


def test_no_table_without_all_baselines(source) -> None:
    bare = evaluate({"model": lambda session, context: context[:, -H:]}, source, "test")
    with pytest.raises(ConfigError, match="baselines copy, mean, linear are missing"):
        all_tables(bare)


def test_the_overview_is_the_summary(evaluation) -> None:
    table = overview(evaluation)
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["model", "copy", "mean", "linear"]
    for name, row in rows.items():
        summary = evaluation.summary(name)
        expected = (summary.value("score"), *summary.bounds("score"))
        np.testing.assert_array_equal(row[:3], expected)
    assert "mean over 2 sessions" in table.title


def test_sessions_without_windows_keep_their_row(evaluation) -> None:
    rows = {row[0]: row for row in by_session(evaluation).rows}
    assert rows["lab/animal2/one"][3:] == ("0 of 0", None, None, None, None)
    assert "–" in by_session(evaluation).to_markdown()


def test_csv_keeps_full_precision(evaluation) -> None:
    table = overview(evaluation)
    read = list(csv.reader(io.StringIO(table.to_csv())))
    assert tuple(read[0]) == table.columns
    assert float(read[1][1]) == table.rows[0][1]


def test_markdown_columns_align_in_the_source() -> None:
    table = Table("t", "T", ("name", "x"), (("a|b", 1.0), ("long name [x]", None)))
    lines = table.to_markdown().splitlines()[2:]
    assert lines == [
        "| name          |     x |",
        "| ------------- | ----: |",
        "| a\\|b          | 1.000 |",
        "| long name [x] |     – |",
    ]
    assert "long name [x]" in _plain_text(table)  # Not taken for markup.


def test_a_data_set_without_any_window_still_gives_tables(walk) -> None:
    source = ArrayWindows([walk(0, num_frames=60)], "chronological", C, H)
    forecasters = {"model": lambda session, context: context[:, -H:], **fit_baselines(source)}
    for table in all_tables(evaluate(forecasters, source, "test")):
        assert _plain_text(table) and table.to_markdown() and table.to_csv()
