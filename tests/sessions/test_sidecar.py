from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.readers import open_recording
from forebrain.sessions.sidecar import Sidecar, parse_sidecar, sidecar_files, sidecar_of


def parse(folder: Path, text: str, name: str = "session.yaml") -> Sidecar:
    (folder / name).write_text(text)
    return parse_sidecar(folder / name)


def test_all_kinds_of_values_are_read(tmp_path: Path) -> None:
    text = (
        "rate_hz: 3\nspecies: mouse\nframes_axis: 1\ncolumns: [a, 2]\nsegment_frames: [10, 20]\nbin_s: 0.1\n"
    )
    expected = Sidecar(
        rate_hz=3.0, species="mouse", frames_axis=1, columns=("a", "2"), segment_frames=(10, 20), bin_s=0.1
    )
    assert parse(tmp_path, text) == expected
    assert parse(tmp_path, "") == Sidecar()
    assert parse(tmp_path, '{"rate_hz": 3}', "session.json") == Sidecar(rate_hz=3.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rate: 3", "unknown key rate; allowed are .*rate_hz"),
        ("rate_hz: fast", "rate_hz is 'fast'; expected a positive number"),
        ("rate_hz: -1", "expected a positive number"),
        ("rate_hz: .nan", "expected a positive number"),
        ("bin_s: true", "expected a positive number"),
        ("frames_axis: 2", "expected 0 or 1"),
        ("columns: a", "expected a list of column names"),
        ("segment_frames: 2.5", "expected a number of frames"),
        ("segment_frames: [10, 0]", "expected a number of frames"),
        ("species: [mouse]", "expected text"),
        ("- a\n- b", "expected keys and values"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_mistakes_name_the_key_and_what_is_allowed(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecordingError, match=words) as caught:
        parse(tmp_path, text)
    assert "session.yaml" in str(caught.value)


def test_a_folders_own_sidecar_goes_before_its_neighbour(tmp_path: Path) -> None:
    recording = tmp_path / "plane0"
    recording.mkdir()
    parse(tmp_path, "rate_hz: 1\nspecies: mouse\nsubject: m")
    parse(recording, "rate_hz: 2\nsubject: n")
    (tmp_path / "plane0.session.yaml").write_text("subject: o")
    found = sidecar_of(recording)
    assert (found.rate_hz, found.species, found.subject) == (2.0, "mouse", "o")


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_a_sidecar_is_found_with_and_without_the_recordings_own_suffix(tmp_path: Path, suffix: str) -> None:
    recording = tmp_path / "x.npy"
    (tmp_path / f"x.session.{suffix}").write_text('{"rate_hz": 1, "subject": "m"}')
    assert sidecar_of(recording) == Sidecar(rate_hz=1.0, subject="m")
    (tmp_path / f"x.npy.session.{suffix}").write_text('{"rate_hz": 2}')
    assert sidecar_of(recording) == Sidecar(rate_hz=2.0, subject="m")
    (tmp_path / f"session.{suffix}").write_text('{"subject": "n", "species": "mouse"}')
    assert sidecar_of(recording) == Sidecar(rate_hz=2.0, subject="m", species="mouse")
    (tmp_path / f"y.session.{suffix}").write_text("of another recording")
    assert [path.name for path in sidecar_files(recording)] == [
        f"x.npy.session.{suffix}",
        f"x.session.{suffix}",
        f"session.{suffix}",
    ]


def test_conditions_name_their_frames(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(100, 3)))
    sidecar = tmp_path / "a.session.yaml"
    sidecar.write_text("rate_hz: 2\nconditions:\n  dots: [[0, 40], [60, 70]]\n  dark: [[40, 60]]\n")
    (session,) = open_recording(str(tmp_path / "a.npy"))
    assert session.condition_ranges == {"dots": [(0, 40), (60, 70)], "dark": [(40, 60)]}
    for wrong, words in (
        ("{dots: [[0, 40]], dark: [[30, 60]]}", "dark .* frames 30 to 60"),
        ("{dots: [[90, 101]]}", "100"),
        ("{dots: [[40, 0]]}", "pairs of frames"),
        ("[dots]", "pairs of frames"),
        ("{dots: 7}", "pairs of frames"),
    ):
        sidecar.write_text(f"conditions: {wrong}\n")
        with pytest.raises(RecordingError, match=words):
            open_recording(str(tmp_path / "a.npy"))


IDENTITIES = [
    "010",
    "8",
    "12:30:00",
    "1_000",
    "on",
    "0x1F",
    "no",
    "1e3",
    "2024-01-01",
    "2024-13-45",
    "null_",
    "1.50",
]


@pytest.mark.parametrize("written", IDENTITIES)
@pytest.mark.parametrize(
    "key", ["subject", "session", "dataset", "species", "variable", "time_column", "note"]
)
def test_names_stay_as_they_are_written(tmp_path: Path, key: str, written: str) -> None:
    assert getattr(parse(tmp_path, f"{key}: {written}\nrate_hz: 10\n"), key) == written
    assert getattr(parse(tmp_path, f"{key}: '{written}'\n"), key) == written
    assert parse(tmp_path, f"columns: [{written}, b]\n").columns == (written, "b")
    assert parse(tmp_path, f"rows:\n  {written}: {written}\n").rows == {written: written}
    assert parse(tmp_path, f"conditions: {{{written}: [[0, 5]]}}\n").conditions == {written: ((0, 5),)}


@pytest.mark.parametrize("written", ["8", "1.50", "1e3"])
def test_numbers_of_json_are_names_as_they_are_written(tmp_path: Path, written: str) -> None:
    assert parse(tmp_path, f'{{"subject": {written}, "rate_hz": 5}}', "session.json").subject == written


@pytest.mark.parametrize("text", ["subject:\n", "subject: null\n", "subject: ~\n"])
def test_a_name_that_is_not_given_stays_open(tmp_path: Path, text: str) -> None:
    assert parse(tmp_path, text).subject is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("axes: [units, rows]", "of units, frames, trials, sessions"),
        ("axes: [units, trials]", "expected units and frames among them"),
        ("axes: [subjects, sessions, units, frames]", "expected either sessions or subjects"),
        ("axes: [units, units, frames]", "each axis once"),
        ("decimal: ;", r"expected \. or ,"),
        ("time_unit: fortnight", "expected s or ms"),
        ("absent_chunks: maybe", "expected zeros or missing"),
        ("header: 1", "expected true or false"),
        ("rows: 2", "expected columns with a value each"),
        ("sampling_rate_hz: 0", "expected a positive number"),
    ],
)
def test_answers_to_questions_are_checked(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        parse(tmp_path, text)


@pytest.mark.parametrize("written", ["010", "1:30", "0x1F", "0b11", "1.2.3", "30,5", "on", "=", "1_000_"])
def test_a_number_is_decimal_or_an_error_and_never_another_number(tmp_path: Path, written: str) -> None:
    for key in ("rate_hz", "bin_s", "segment_frames"):
        try:
            found = getattr(parse(tmp_path, f"{key}: {written}\n"), key)
        except RecordingError as error:
            assert f"{key} is" in str(error)
        else:
            assert found == 1000 and written == "1_000_"


@pytest.mark.parametrize(
    ("written", "number"),
    [("8", 8), ("1_000", 1000), ("1e3", 1000), ("1.5E-1", 0.15), (".5", 0.5), ("+3", 3)],
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, written: str, number: float) -> None:
    assert parse(tmp_path, f"rate_hz: {written}\n").rate_hz == number


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("yaml", "rate_hz: 10\nsubject: a\nsubject: b\n"),
        ("yaml", "inputs: {odour: {unit: a}, odour: {unit: b}}\nsubject: a\n"),
        ("json", '{"rate_hz": 10, "subject": "a", "subject": "b"}'),
    ],
)
def test_of_a_key_that_comes_twice_no_value_is_lost_silently(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / f"a.session.{name}"
    path.write_text(text)
    with pytest.raises(RecordingError, match=rf"{path}: .*it has '(subject|odour)' twice"):
        parse_sidecar(path)


def test_a_sidecar_may_begin_with_the_mark_of_an_editor(tmp_path: Path) -> None:
    for name, text in (("session.yaml", "rate_hz: 5"), ("session.json", '{"rate_hz": 5}')):
        assert parse(tmp_path, f"\ufeff{text}", name).rate_hz == 5
