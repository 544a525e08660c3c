"""Long pieces of work are followed in lines, short ones in silence."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from forebrain.console import Follower, Table


def test_a_line_every_few_seconds_says_how_far_it_is_and_how_long_it_will_take() -> None:
    now, out = 0.0, io.StringIO()
    follow = Follower(Console(file=out, width=140), every_s=5, clock=lambda: now)
    for step in range(4):
        follow("soon over: step", step, 3)
        now += 1
    for step in range(20, 121):  # 20 had been done before
        follow("long: step", step, 120, "loss 0.5  ")
        now += 1
    lines = out.getvalue().splitlines()
    assert lines[0] == "long: step  21/120  loss 0.5  1:39 left"
    assert lines[1] == "long: step  26/120  loss 0.5  1:34 left"
    assert len(lines) == 20 and lines[-1] == "long: step 116/120  loss 0.5  0:04 left"


def test_work_that_is_done_again_is_followed_once_it_is_new() -> None:
    now, out = 0.0, io.StringIO()
    follow = Follower(Console(file=out, width=140), every_s=5, clock=lambda: now)
    for step in (50, 20, 50, 60):  # a lost worker's steps are done again
        follow("step", step, 100)
        now += 10
    assert out.getvalue() == "step  60/100  2:00 left\n"


def printed(table: Table, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, markup=False, soft_wrap=True).print(table)
    return out.getvalue().splitlines()


def by_species() -> Table:
    table = Table(
        "species", "forecaster", "sessions", "score", "low", "high", "R²", "correlation", "MSE", "MAE",
        title="test: by species", keys=2,
    )  # fmt: skip
    for species in ("celegans", "zebrafish"):
        for forecaster in ("POCO", "linear"):
            table.add_row(
                species, forecaster, "2", "0.396", "-0.334", "0.481", "0.12", "0.663", "0.41", "0.5"
            )
    return table


@pytest.mark.parametrize("width", [80, 96, 100])
def test_a_table_breaks_no_word_and_stays_within_the_console(width: int) -> None:
    table = by_species()
    lines = printed(table, width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split() if not set(word) <= {"─"}}
    assert words == {word for row in (table.title, *table.columns) for word in row.split()} | {
        word for row in table.rows for cell in row for word in cell.split()
    }


def test_columns_without_room_stand_below_beside_the_names_of_their_rows() -> None:
    def headings(width: int) -> list[list[str]]:
        return [line.split() for line in printed(by_species(), width) if "forecaster" in line]

    first = ["species", "forecaster", "sessions", "score", "low", "high", "R²", "correlation", "MSE"]
    assert headings(96) == [[*first, "MAE"]]
    assert headings(80) == [first, ["species", "forecaster", "MAE"]]
    assert len(headings(50)) == 3


def test_text_wraps_between_words_and_long_names_behind_a_slash() -> None:
    table = Table("name", "what it is", "frames", left=[1])
    table.add_row("lab/celegans_kato2015/worm1", "calcium of a worm's head in a chip " * 3, "3021")
    lines = printed(table, 62)
    assert max(map(len, lines)) <= 62 and lines[0].split() == ["name", "what", "it", "is", "frames"]
    assert lines[2].startswith("lab/celegans_kato2015/worm1  calcium of a worm's head") and "3021" in lines[2]
    table = Table("session", "score")
    table.add_row("a_long_name_of_a_data_set/animal7/2014-03-21", "0.396")
    assert [line.split() for line in printed(table, 34)[2:-1]] == [
        ["a_long_name_of_a_data_set/", "0.396"],
        ["animal7/2014-03-21"],
    ]
    with pytest.raises(ValueError, match="1 cells; expected 2"):
        table.add_row("x")
