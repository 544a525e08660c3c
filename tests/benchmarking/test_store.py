"""Training from a far store is timed on a real one behind a delay, and nothing is left there."""

from __future__ import annotations

import time

import pytest

from forebrain.benchmarking import report, store
from forebrain.errors import ConfigError
from forebrain_registry.storage import Folder

pytest.importorskip("s3fs")


def test_a_store_is_timed_with_and_without_requests_in_flight(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"UNITS": 5, "BATCH": 8, "WARM_UP_TO_NEED": 5}.items():
        monkeypatch.setattr(store, name, value)
    place = f"{s3_bucket}/timed"
    rows = list(store.time_store(place, steps=3, quick=True))
    assert [(row["source"], row["delay_ms"], row["in_flight"]) for row in rows] == [
        ("local disk", 0.0, None),
        ("store", 30.0, 0),
        ("store", 30.0, None),
    ]
    disk, one_by_one, ahead = rows
    assert 0 <= disk["wait_share"] < one_by_one["wait_share"] < 1
    assert one_by_one["reached"] == 0 < ahead["reached"]
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    left = files.find(place.removeprefix("s3://"))
    assert [name for name in left if "." in name] == []  # some servers keep empty folders
    (shown,) = report.tables(rows)
    assert len(shown.rows) == 3 and "as many as needed" in str([row[2] for row in shown.rows])


def test_the_first_byte_comes_late_and_the_rest_at_once(s3_bucket: str) -> None:
    folder = Folder(f"{s3_bucket}/late")
    folder.write("a", bytes(300_000))
    with store._delayed(store._upstream(), 0.2):
        late = Folder(f"{s3_bucket}/late")
        late.read("a")
        began = time.perf_counter()
        assert late.read_range("a", 10, 200_000) == bytes(199_990)
        assert 0.2 <= time.perf_counter() - began < 2


def test_a_store_behind_no_plain_http_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example.org")
    monkeypatch.setattr(store, "_train", lambda *given: {"median_ms": 1.0, "wait_share": 0.0, "reached": 0})
    with pytest.raises(ConfigError, match=r"expected the http:// address of a store"):
        list(store.time_store("s3://bucket/place", quick=True))
