"""Records, names and indexes from strangers: a clear error, and nothing written outside the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_storm import metadata, weights

from forebrain_registry import InvalidError, Reference, Registry, RegistryError, publish, pull, strict_json
from forebrain_registry.records import Version, check_path

ATTACKS = [
    *("../evil.json", "/etc/evil.json", "a/../../evil.json", "C:/evil.json", "a\\..\\evil.json", "./a.json"),
    *(".ssh/a.json", "a//b.json", "a/./b.json", "nul.json", "a\x00.json", "x.py", "x.pkl", "", "é.json"),
]


@pytest.fixture
def record(registry: Registry) -> dict[str, Any]:
    return json.loads(publish(registry, "worm", {"model.safetensors": weights(0)}, metadata()).content)


def _replace(registry: Registry, record: Any) -> None:
    content = record if isinstance(record, bytes) else json.dumps(record).encode()
    (Path(registry.uri) / "models/worm/versions/00000001.json").write_bytes(content)


@pytest.mark.parametrize("path", ATTACKS)
def test_paths_that_lead_elsewhere_are_refused(
    registry: Registry, record: dict[str, Any], path: str, tmp_path: Path
) -> None:
    record["files"][0]["path"] = path
    _replace(registry, record)
    before = {file for file in tmp_path.rglob("*") if "registry" not in file.parts}
    with pytest.raises(InvalidError, match=r"not a path|not taken|not allowed"):
        pull(registry, "worm")
    assert {file for file in tmp_path.rglob("*") if "registry" not in file.parts} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="forebrain-model-2"), "Update forebrain"),
        (lambda r: r.update(more=1), "unknown key 'more'"),
        (lambda r: r.pop("id"), "'id' is missing"),
        (lambda r: r["files"][0].update(size_bytes=2**60), "at most"),
        (lambda r: r["files"][0].update(size_bytes=-1), "at most"),
        (lambda r: r["files"][0].update(size_bytes=True), "expected a whole number, found true or false"),
        (lambda r: r["files"][0].update(sha256="../" * 20), "not a SHA-256"),
        (lambda r: r["files"].append(r["files"][0]), "would be one file"),
        (lambda r: r.update(name="fish"), "is a record of 'fish'"),
        (lambda r: r.update(files=[]), "no model.safetensors"),
        (lambda r: r["metadata"].update(summary="\x1b]0;owned\x07"), r"U\+001B"),
        (lambda r: r["metadata"].update(summary="\ud800"), r"U\+D800"),
    ],
)
def test_records_that_are_not_what_they_should_be_are_refused(
    registry: Registry, record: dict[str, Any], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(record)
    _replace(registry, record)
    with pytest.raises(InvalidError, match=message):
        pull(registry, "worm")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"format": "forebrain-model-1", "format": "forebrain-model-1"}',
        b'{"format": NaN}',
        b'{"format": 1e999}',
        b'{"x": ' + b"9" * 10_000 + b"}",
        b"[" + b"[]," * 6_000_000 + b"[]]",
        b"\xff\xfe",
        b"",
        b"null",
    ],
    ids=["deep", "deeper than allowed", "twice", "nan", "inf", "huge", "many", "not utf-8", "empty", "null"],
)
def test_documents_that_play_tricks_are_refused(
    registry: Registry, record: dict[str, Any], content: bytes
) -> None:
    _replace(registry, content)
    with pytest.raises(InvalidError):
        registry.resolve("worm")


def test_a_record_too_large_is_not_read(
    registry: Registry, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebrain_registry.registry.MAX_RECORD_BYTES", 100)
    with pytest.raises(RegistryError, match="over 100 bytes"):
        registry.resolve("worm")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_to_a_record_is_a_clear_error_or_harmless(data: st.DataObject) -> None:
    """Puts anything in any place of a record: what is accepted names safe paths, and can be written again."""
    record: Any = {
        "format": "forebrain-model-1",
        "name": "worm",
        "id": "0",
        "created": "2026-01-31T12:00:00Z",
        "files": [{"path": "model.safetensors", "size_bytes": 1, "sha256": "0" * 64}],
        "interfaces": [],
        "metadata": {
            "licence": "MIT",
            "config": {},
            "preprocessing": {},
            "metrics": [{"name": "score", "value": 1}],
        },
    }
    place = record
    while isinstance(place, (dict, list)) and place:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()) or not isinstance(place[key], (dict, list)):
            place[key] = data.draw(JSON | st.sampled_from(ATTACKS))
            break
        place = place[key]
    try:
        version = Version.parse(json.dumps(record).encode(), 1, "fuzz")
    except InvalidError as error:
        assert str(error).startswith("fuzz")
        return
    root = Path("/cache")
    for stored in version.blobs:
        assert root in (root / stored.path).resolve().parents
        assert stored.size_bytes >= 0
    again = Version.parse(strict_json.dump(version.record), 1, "again")
    assert again.record == version.record


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_json_of_ours_or_an_error(content: bytes) -> None:
    try:
        value = strict_json.parse(content, "fuzz")
    except InvalidError:
        return
    assert strict_json.parse(json.dumps(value).encode(), "again") == value


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[a-z./@:\\-]{1,40}", fullmatch=True))
def test_any_text_is_a_safe_reference_and_path_or_an_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
        assert str(reference) == text and "/" not in text and ".." not in text.split("@")[-1][:2]
    except InvalidError:
        pass
    try:
        path = check_path(text)
    except InvalidError:
        return
    assert Path("/cache") in (Path("/cache") / path).resolve().parents
    assert not any(part.startswith(".") for part in path.split("/"))


def test_an_index_names_only_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forebrain_registry.web import WebStore

    for name in (
        "../../etc/passwd",
        "models/../../x/versions/00000001.json",
        "http://evil/x",
        "models/a/versions/1.json",
    ):
        entry = {"name": name, "size_bytes": 1, "sha256": "0" * 64}
        index = json.dumps({"format": "forebrain-registry-index-1", "files": [entry]}).encode()
        monkeypatch.setattr(WebStore, "chunks", lambda *arguments, index=index: iter([index]))
        with pytest.raises(InvalidError, match="not the name of a record"):
            Registry("https://example.org/models").names()


def test_digits_of_other_scripts_are_no_numbers(registry: Registry, record: dict[str, Any]) -> None:
    folder = Path(registry.uri) / "models/worm/versions"
    (folder / "\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0662.json").write_bytes(b"{}")
    assert registry.listing("worm").versions == [1]
    assert registry.resolve("worm").number == 1


def test_an_error_is_short_whatever_it_is_about(registry: Registry, record: dict[str, Any]) -> None:
    _replace(registry, record | {"k" * 10**6: 1})
    with pytest.raises(InvalidError) as caught:
        registry.resolve("worm")
    assert len(str(caught.value)) < 1000
