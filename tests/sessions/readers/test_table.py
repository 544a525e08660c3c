"""The rules that hold for every format of tables: which columns are units, times, counters, behaviour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from writing import assert_values, read_one

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.repair import repair

WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "a.csv": lambda frame, path: frame.to_csv(path, index=False),
    "a.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "a.xlsx": lambda frame, path: frame.to_excel(path, index=False),
    "a.parquet": lambda frame, path: frame.to_parquet(path),
    "a.feather": lambda frame, path: frame.to_feather(path),
}
NAMES = [f"cell{unit}" for unit in range(6)]


@pytest.fixture(params=list(WRITERS))
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Writes columns into a table of each format."""

    def write(columns: dict[str, Any]) -> Path:
        path = tmp_path / request.param
        WRITERS[request.param](pd.DataFrame(columns), path)
        return path

    return write


def units(values: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(NAMES, values.T, strict=True))


def test_columns_are_units_by_their_names(write: Callable[..., Path], calcium: np.ndarray) -> None:
    session = read_one(write(units(calcium)))
    assert_values(session, calcium)
    assert session.unit_names == tuple(NAMES) and session.rate_hz is None


@pytest.mark.parametrize(
    ("name", "step", "rate_hz"),
    [
        ("Time (s)", 0.05, 20.0),
        ("time_ms", 50.0, 20.0),
        ("Time Stamp (ms)", 50.0, 20.0),
        ("Zeit (s)", 0.05, 20.0),
        ("temps [ms]", 50.0, 20.0),
        ("time (min)", 1 / 1200, 20.0),
        ("timestamp_us", 50_000.0, 20.0),
        ("time", 0.05, 20.0),
    ],
)
def test_the_unit_in_a_columns_name_counts(
    write: Callable[..., Path], calcium: np.ndarray, name: str, step: float, rate_hz: float
) -> None:
    path = write({name: np.arange(200) * step, **units(calcium)})
    for said in ({}, {"time_column": name}):
        session = read_one(path, **said)
        assert_values(session, calcium)
        assert session.rate_hz == pytest.approx(rate_hz, rel=1e-3)
        assert name in session.metadata["rate_from"]


def test_times_without_a_unit_that_make_no_rate_are_asked_about(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    path = write({"time": np.arange(200) * 33.3, **units(calcium)})
    with pytest.raises(RecordingQuestion, match=r"ms \(30\.03 Hz\)"):
        read_one(path)
    assert read_one(path, time_unit="ms").rate_hz == pytest.approx(30.03, rel=1e-4)


def test_times_that_only_count_are_asked_about_unless_they_state_a_unit(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    path = write({"time": np.arange(200), **units(calcium)})
    with pytest.raises(RecordingQuestion, match="only numbers of frames") as caught:
        read_one(path)
    assert caught.value.choices["time_unit"] == ["s"]
    assert read_one(path, time_unit="s").rate_hz == 1
    assert read_one(path, rate_hz=20.0).rate_hz == 20
    assert read_one(write({"time (s)": np.arange(200), **units(calcium)})).rate_hz == 1


@pytest.mark.parametrize("digits", [1, 2])
def test_rounded_times_give_the_rate_and_one_segment(
    write: Callable[..., Path], calcium: np.ndarray, digits: int
) -> None:
    session = read_one(write({"Time (s)": np.round(np.arange(200) / 15, digits), **units(calcium)}))
    assert session.rate_hz == pytest.approx(15, rel=0.01)
    repaired, _ = repair(session)
    assert len(repaired.segments) == 1


def test_times_of_day_and_dates_are_times(tmp_path: Path, calcium: np.ndarray) -> None:
    dates = pd.date_range("2024-01-01 23:59:55", periods=200, freq="100ms")
    pd.DataFrame({"timestamp": dates, **units(calcium)}).to_csv(tmp_path / "a.csv", index=False)
    assert read_one(tmp_path / "a.csv").rate_hz == pytest.approx(10)


def test_what_grows_evenly_is_left_out_whatever_it_is_called(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    path = write({"Bild": np.arange(200), **units(calcium), "q": np.arange(200)[::-1] * 0.1})
    session = read_one(path)
    assert_values(session, calcium)
    assert "Bild, q (clocks or counters, which grow evenly)" in session.metadata["left_out"]


def test_pairs_of_a_counter_and_a_trace_are_the_traces(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    columns: dict[str, Any] = {}
    for unit in range(6):
        columns[f"x{unit:04d}"], columns[f"y{unit:04d}"] = np.arange(200), calcium[:, unit]
    session = read_one(write(columns))
    assert_values(session, calcium)
    assert session.unit_names == tuple(f"y{unit:04d}" for unit in range(6))


def test_behaviour_beside_units_is_input_and_said(write: Callable[..., Path], calcium: np.ndarray) -> None:
    noise = np.random.default_rng(1).random((4, 200))
    beside = {"x": noise[0], "y": noise[1], **units(calcium), "speed": noise[2], "odor": noise[3]}
    path = write(beside)
    session = read_one(path)
    assert_values(session, calcium)
    assert (session.stimulus_names, session.behaviour_names) == (("odor",), ("x", "y", "speed"))
    np.testing.assert_array_equal(session.input_values(["odor"])[:, 0], noise[3].astype(np.float32))
    assert session.metadata["inputs_from"] == "x, y, speed, odor: columns"
    assert read_one(path, columns=("speed", "cell0")).num_units == 2


def test_a_table_of_behaviour_is_refused_and_says_what_it_is(write: Callable[..., Path]) -> None:
    noise = np.random.default_rng(1).random((4, 200))
    with pytest.raises(RecordingError, match=r"no column of units.*qw, qx, qy, qz \(behaviour"):
        read_one(
            write(
                {
                    "Time Stamp (ms)": np.arange(200) * 33,
                    **dict(zip(["qw", "qx", "qy", "qz"], noise, strict=True)),
                }
            )
        )


def test_rows_of_alternating_light_sources_are_asked_about(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    led = np.tile([1, 2, 4, 2], 50)
    path = write(
        {"FrameCounter": np.arange(200), "Timestamp": np.arange(200) / 40, "LedState": led, **units(calcium)}
    )
    with pytest.raises(RecordingQuestion, match="light sources") as caught:
        read_one(path)
    assert {"LedState": "2"} in caught.value.choices["rows"]
    session = read_one(path, rows={"LedState": "2"})
    assert_values(session, calcium[led == 2])
    assert session.rate_hz == pytest.approx(20)


@pytest.mark.parametrize("name", ["zf1_cell_coordinates", "behavior_position", "mouse3_licks", "frame_times"])
def test_a_table_without_names_in_a_file_called_like_something_else_is_asked_about(
    tmp_path: Path, calcium: np.ndarray, name: str
) -> None:
    np.savetxt(tmp_path / f"{name}.csv", calcium, delimiter=",")
    with pytest.raises(RecordingQuestion, match="is called like"):
        read_one(tmp_path / f"{name}.csv")
    assert_values(read_one(tmp_path / f"{name}.csv", columns=("0", "1", "2", "3", "4", "5")), calcium)


@pytest.mark.parametrize("name", ["head_fixed_mouse3", "running_day1", "day2_activity_matrix", "mean_dff"])
def test_what_a_files_name_says_of_the_experiment_says_nothing_of_the_array(
    tmp_path: Path, calcium: np.ndarray, name: str
) -> None:
    np.savetxt(tmp_path / f"{name}.csv", calcium, delimiter=",")
    np.save(tmp_path / f"{name}.npy", calcium)
    assert_values(read_one(tmp_path / f"{name}.csv"), calcium)
    assert_values(read_one(tmp_path / f"{name}.npy"), calcium)


def test_the_means_of_imagej_are_units_and_its_other_measurements_are_not(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    columns: dict[str, Any] = {}
    for unit in range(3):
        mean = calcium[:, unit]
        columns |= {
            f"Area{unit}": mean * 0 + 40,
            f"Mean{unit}": mean,
            f"Min{unit}": mean / 2,
            f"Max{unit}": mean * 2,
        }
    session = read_one(write(columns))
    assert_values(session, calcium[:, :3])
    assert session.unit_names == ("Mean0", "Mean1", "Mean2")


def test_a_tracking_of_body_parts_is_refused_by_its_name(tmp_path: Path, calcium: np.ndarray) -> None:
    names = pd.MultiIndex.from_product(
        [["DLC"], ["nose", "tail"], ["x", "y", "likelihood"]], names=["scorer", "bodyparts", "coords"]
    )
    pd.DataFrame(calcium, columns=names).to_csv(tmp_path / "a.csv")
    with pytest.raises(RecordingError, match="DeepLabCut"):
        read_one(tmp_path / "a.csv")


def test_of_several_rows_of_words_the_last_names_the_columns(tmp_path: Path, calcium: np.ndarray) -> None:
    rows = np.column_stack([np.arange(200) / 20, calcium])
    groups, names = ["---", *["Analog In."] * 6], ["Time(s)", *(f"AIn-{unit} - Dem" for unit in range(6))]
    text = "\n".join(",".join(map(str, row)) for row in [groups, names, *rows.tolist()])
    (tmp_path / "a.csv").write_text(text)
    session = read_one(tmp_path / "a.csv")
    assert_values(session, calcium)
    assert session.unit_names == tuple(names[1:]) and session.rate_hz == pytest.approx(20)


@pytest.mark.parametrize("header", [[0, 2, 3, 7, 8, 11], [3, 7, 12, 40, 41, 45]])
def test_numbers_of_components_above_the_columns_are_names(
    write: Callable[..., Path], calcium: np.ndarray, header: list[int]
) -> None:
    names = [str(number) for number in header]
    session = read_one(write(dict(zip(names, calcium.T, strict=True))))
    assert_values(session, calcium)
    assert session.unit_names == tuple(names)


def test_numbers_above_counts_are_names_and_the_sidecar_may_say_otherwise(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(5, (200, 5))
    np.savetxt(tmp_path / "a.csv", np.vstack([[3, 7, 12, 40, 41], counts]), fmt="%d", delimiter=",")
    session = read_one(tmp_path / "a.csv")
    assert session.unit_names == ("3", "7", "12", "40", "41")
    assert_values(session, counts)
    assert read_one(tmp_path / "a.csv", header=False).num_frames == 201


# Text.


def text_of(values: np.ndarray, delimiter: str, field: Callable[[float], str], header: str = "") -> str:
    rows = [delimiter.join(map(field, row)) for row in values.tolist()]
    return "\n".join([header] * bool(header) + rows) + "\n"


def comma(value: float) -> str:
    return f"{value:.4f}".replace(".", ",")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize(("delimiter", "field"), [(";", comma), ("\t", comma), (",", str), ("\t", str)])
@pytest.mark.parametrize("states_delimiter", [False, True])
def test_european_and_unicode_text_is_read_as_it_was(
    tmp_path: Path,
    calcium: np.ndarray,
    encoding: str,
    delimiter: str,
    field: Callable[[float], str],
    states_delimiter: bool,
) -> None:
    text = text_of(calcium, delimiter, field, delimiter.join(NAMES))
    text = f"sep={delimiter}\n{text}" if states_delimiter else text
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    session = read_one(tmp_path / "a.csv")
    assert_values(session, calcium)
    assert session.unit_names == tuple(NAMES)


def thousands(sign: str) -> Callable[[float], str]:
    return lambda value: f"{round(1000 * value):,}".replace(",", sign)


@pytest.mark.parametrize(("sign", "delimiter"), [(".", ";"), (",", ";"), (".", "\t"), (",", "\t")])
def test_signs_that_may_part_thousands_are_asked_about(
    tmp_path: Path, calcium: np.ndarray, sign: str, delimiter: str
) -> None:
    (tmp_path / "a.csv").write_text(text_of(calcium, delimiter, thousands(sign), delimiter.join(NAMES)))
    with pytest.raises(RecordingQuestion, match="three decimals or be thousands") as caught:
        read_one(tmp_path / "a.csv")
    assert caught.value.choices["decimal"] == [sign, "," if sign == "." else "."]
    session = read_one(tmp_path / "a.csv", decimal="," if sign == "." else ".")
    assert_values(session, np.round(1000 * calcium))


def test_thousands_beside_decimals_are_told(tmp_path: Path, calcium: np.ndarray) -> None:
    def german(value: float) -> str:
        return f"{1000 * value:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")

    (tmp_path / "a.csv").write_text(text_of(calcium, ";", german, ";".join(NAMES)))
    assert_values(read_one(tmp_path / "a.csv"), 1000 * calcium, atol=1e-2)


@pytest.mark.parametrize("delimiter", [",", "\t", " "])
def test_three_decimals_are_decimals(tmp_path: Path, calcium: np.ndarray, delimiter: str) -> None:
    np.savetxt(tmp_path / "a.txt", 100 * np.abs(calcium) + 1, fmt="%.3f", delimiter=delimiter)
    assert_values(read_one(tmp_path / "a.txt"), 100 * np.abs(calcium) + 1, atol=1e-3)
