"""Prepares recordings: reads, checks and repairs them in parallel, and writes shards and their index.

Each recording is one Ray Data task, and its errors are rows, so one bad file does not stop the others.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from forebrain.errors import ConfigError, ForebrainError, RecordingError, ShardError, StorageError
from forebrain.sessions.repair import repair
from forebrain.sessions.report import RecordingReport
from forebrain.sessions.resample import bin_events, resample
from forebrain.sessions.session import Session
from forebrain.shards.index import INDEX_NAME, Index, IndexRow, SessionEntry, Source
from forebrain.shards.options import PrepareConfig
from forebrain.shards.readable import readable
from forebrain.shards.recordings import name_of, open_any, sha256_of
from forebrain.shards.writer import write_session
from forebrain_registry.storage import PARTIAL, Folder

OpenRecording = Callable[[str], list[Session]]
Row = dict[str, Any]
RunEach = Callable[[Callable[[Row], Row], list[Row]], Iterable[Row]]


@dataclass(frozen=True)
class PrepareResult:
    """What became of the recordings.

    Attributes:
        sessions: entries of the usable sessions, sorted by id.
        num_skipped: how many of them were there already, from the same recording and options.
        failures: one message for each recording or session that cannot be used.
    """

    sessions: tuple[SessionEntry, ...]
    num_skipped: int
    failures: tuple[str, ...]


def map_here(function: Callable[[Row], Row], items: list[Row]) -> Iterator[Row]:
    """Applies `function` to each item in this process, one after the other."""
    return map(function, items)


def map_with_ray(function: Callable[[Row], Row], items: list[Row]) -> Iterator[Row]:
    """Applies `function` to each item as a Ray Data task; results come as they are done."""
    if not items:
        return
    import ray.data

    from forebrain.ray_runtime import start_ray

    start_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # JSON text, because Arrow would have to guess the type of an empty list.
    rows = [{"item": json.dumps(item)} for item in items]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for row in dataset.map(functools.partial(_on_json, function)).iter_rows():
        yield json.loads(row["result"])


def _on_json(function: Callable[[Row], Row], row: Row) -> Row:
    return {"result": json.dumps(function(json.loads(row["item"])))}


def prepare(
    recordings: Sequence[str],
    out: str,
    config: PrepareConfig,
    open_recording: OpenRecording = open_any,
    run_each: RunEach = map_with_ray,
    progress: Callable[[str], None] = lambda line: None,
) -> PrepareResult:
    """Adds recordings to the set of shards at `out`, which is made if there is none.

    Sessions that are there already, from the same bytes with the same options, are left as they are; a
    run that was killed is continued by running it again. The index is written last. One prepare at a time
    may write to an address.

    Args:
        recordings: addresses of single recordings (`recordings.find_all` finds them).
        out: a folder, or any fsspec address such as s3://bucket/folder.
        open_recording: address -> sessions.
        run_each: applies a function to each item, in any order, anywhere.
        progress: is told a line for each recording done.

    Raises:
        ConfigError: `out` holds shards that were prepared with other options.
        RecordingError: not one session is usable; each failure is named.
        StorageError: `out` does not answer, refuses access, or is full; no index is written.
    """
    storage = Folder(out)
    _refuse_other_options(storage, config)
    done = _complete_entries(storage, config)

    identified = list(
        run_each(functools.partial(_identify, open_recording, _by_source(done)), _items(recordings))
    )
    identified.sort(key=lambda row: row["position"])
    work, failures = _share_out(identified, done)
    skipped = {session_id for row in work for session_id in row["done"]}
    progress(f"{len(recordings)} recordings, {len(skipped)} sessions already prepared")

    usable = set(skipped)
    todo = [row for row in work if row["wanted"]]
    for number, row in enumerate(
        run_each(functools.partial(_prepare_one, open_recording, storage.uri, config), todo), 1
    ):
        if "stopped" in row:
            raise StorageError(f"{row['stopped']} Prepared sessions are kept: running it again goes on.")
        failures += row["failures"]
        usable.update(row["prepared"])
        progress(f"[{number}/{len(todo)}] {row['recording']}: {', '.join(row['lines'])}")

    entries = _complete_entries(storage, config)
    prepared = tuple(entries[session_id] for session_id in sorted(usable & entries.keys()))
    if not prepared:
        raise RecordingError(f"none of {len(recordings)} recordings can be used:\n" + "\n".join(failures))
    _sweep(storage, entries)
    _write_index(storage, config, entries)
    return PrepareResult(prepared, len(skipped), tuple(failures))


def clean(session: Session, config: PrepareConfig) -> tuple[Session, RecordingReport]:
    """Repair and the optional steps in time, in the order they are applied to every session.

    Raises:
        RecordingError: nothing usable remains, or the session's rate does not allow the resampling.
    """
    session, report = repair(session)
    if config.event_rate_hz is not None and "event_matrix" in report.kinds():
        session, finding = bin_events(session, config.event_rate_hz)
        report = report.and_also([finding])
    if config.resample_hz is not None:
        session, finding = resample(session, config.resample_hz)
        report = report.and_also([finding])
    return session, report


def _items(recordings: Sequence[str]) -> list[Row]:
    return [{"position": position, "recording": recording} for position, recording in enumerate(recordings)]


def _identify(open_recording: OpenRecording, ids_of: dict[str, list[str]], item: Row) -> Row:
    """Which sessions a recording holds; it is not opened where all of them are known to be done."""
    recording = item["recording"]
    try:
        sha256 = sha256_of(recording)
        ids = ids_of.get(sha256) or [session.id for session in open_recording(recording)]
    except (ForebrainError, OSError) as error:
        return {**item, "failure": _named(recording, error)}
    return {**item, "sha256": sha256, "ids": ids}


def _prepare_one(open_recording: OpenRecording, out: str, config: PrepareConfig, item: Row) -> Row:
    """Cleans and writes the wanted sessions of one recording; it may have changed since it was identified."""
    recording = item["recording"]
    storage = Folder(out)
    prepared: list[str] = []
    lines: list[str] = []
    failures: list[str] = []
    result = {"recording": recording, "prepared": prepared, "lines": lines, "failures": failures}
    try:
        sessions = open_recording(recording)
    except (ForebrainError, OSError) as error:
        failures.append(_named(recording, error))
        lines.append("cannot be used")
        return result
    source = Source(name_of(recording), item["sha256"], len(sessions))
    for session in sessions:
        if session.id not in item["wanted"]:
            continue
        try:
            cleaned, report = clean(session, config)
            entry = write_session(cleaned, report, source, storage, config)
        except StorageError as error:  # no fault of the recording, and the next would meet it too
            return {**result, "stopped": str(error)}
        except (ForebrainError, OSError) as error:
            failures.append(_named(recording, error, out))
            lines.append(f"{session.id} cannot be used")
        else:
            prepared.append(entry.id)
            lines.append(f"{entry.id} {entry.num_frames} frames x {entry.num_units} units")
    return result


def _named(recording: str, error: ForebrainError | OSError, out: str | None = None) -> str:
    """What to tell about an unusable recording: which one, what is wrong, what would help.

    Args:
        out: where it was being written to, if it was.
    """
    if isinstance(error, OSError):
        reason = error.strerror or error
        if out is not None:
            return (
                f"{recording}: cannot be prepared ({reason}). Check that the recording is still there, and "
                f"that {out} may be written and has room; then run prepare again."
            )
        return f"{recording}: cannot be read ({reason}). Check that it is there, whole, and may be read."
    text = str(error)
    return text if recording in text else f"{recording}: {text}"


def _share_out(identified: list[Row], done: dict[str, SessionEntry]) -> tuple[list[Row], list[str]]:
    """Decides which recording gives which session, and which of them are done."""
    work, failures = [], []
    owner: dict[str, str] = {}
    for row in identified:
        if "failure" in row:
            failures.append(row["failure"])
            continue
        wanted: list[str] = []
        already: list[str] = []
        for session_id in row["ids"]:
            if session_id in owner:
                failures.append(
                    f"{row['recording']}: session {session_id} was already found in {owner[session_id]}; "
                    "only that one is used. If they differ, give one another session name in a sidecar file."
                )
                continue
            owner[session_id] = row["recording"]
            is_done = session_id in done and done[session_id].source.sha256 == row["sha256"]
            (already if is_done else wanted).append(session_id)
        work.append(
            {"recording": row["recording"], "sha256": row["sha256"], "wanted": wanted, "done": already}
        )
    return work, failures


def _refuse_other_options(storage: Folder, config: PrepareConfig) -> None:
    try:
        index = Index.from_bytes(storage.read(INDEX_NAME), storage.uri)
    except FileNotFoundError:
        return
    for name, value in asdict(config).items():
        if index.options.get(name) != value:
            raise ConfigError(
                f"{storage.uri} holds shards prepared with {name} = {index.options.get(name)}, and {value} "
                "was asked for. All sessions of a set share their options: choose another folder, "
                "or the same options."
            )


def _complete_entries(storage: Folder, config: PrepareConfig) -> dict[str, SessionEntry]:
    """Entries by id of the sessions that are whole and were prepared with these options."""
    files = storage.sizes("sessions") | storage.sizes("shards")
    names = [name for name in files if name.startswith("sessions/") and name.endswith(".json")]
    with readable(storage.uri, "sessions/"):
        found = storage.read_all(names)
    entries = []
    for name, data in found.items():
        with suppress(ShardError):  # a damaged entry is none: its session is prepared again
            entries.append(SessionEntry.from_bytes(data, name))
    return {
        entry.id: entry
        for entry in entries
        if entry.options_sha256 == config.sha256
        and entry.arrays_name in files
        and all(files.get(shard.name) == shard.size for shard in entry.shards)
    }


def _by_source(entries: dict[str, SessionEntry]) -> dict[str, list[str]]:
    """Recording sha256 -> its sessions, for recordings all of whose sessions are done."""
    found: dict[str, list[SessionEntry]] = {}
    for entry in entries.values():
        found.setdefault(entry.source.sha256, []).append(entry)
    return {
        sha256: sorted(entry.id for entry in group)
        for sha256, group in found.items()
        if len(group) == group[0].source.num_sessions
    }


def _sweep(storage: Folder, entries: dict[str, SessionEntry]) -> None:
    """Removes what killed runs and longer, older versions of a session left behind."""
    listed = {shard.name for entry in entries.values() for shard in entry.shards}
    keys = {entry.key for entry in entries.values()}
    for name in [*storage.sizes("shards"), *storage.sizes("sessions"), *storage.names()]:
        shard = re.fullmatch(r"shards/(.+)-\d{5}\.tar", name)
        is_partial = re.fullmatch(
            rf"(shards/.+\.tar|sessions/.+\.(json|safetensors)|index\.json)\.\w+{re.escape(PARTIAL)}", name
        )
        if is_partial or (shard and shard[1] in keys and name not in listed):
            storage.remove(name)


def _write_index(storage: Folder, config: PrepareConfig, entries: dict[str, SessionEntry]) -> None:
    rows = []
    for session_id in sorted(entries):
        entry = entries[session_id]
        sha256 = hashlib.sha256(entry.to_bytes()).hexdigest()
        rows.append(IndexRow(session_id, entry.key, sha256, tuple(shard.size for shard in entry.shards)))
    index = Index(config.max_window, config.page_bytes, asdict(config), tuple(rows))
    storage.write(INDEX_NAME, index.to_bytes())
