"""Prepares recordings: reads, checks and repairs them in parallel, and writes shards and their index.

Each recording is one Ray task, and its errors are rows, so one bad file does not stop the others.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from forebrain.alone import alone
from forebrain.errors import ConfigError, ForebrainError, RecordingError, ShardError, StorageError
from forebrain.sessions.finding import printable
from forebrain.sessions.repair import repair
from forebrain.sessions.report import RecordingReport
from forebrain.sessions.resample import bin_events, resample
from forebrain.sessions.session import FILES_NAME, FOLDERS_NAME, Session, twins
from forebrain.shards.index import ENTRIES_NAME, INDEX_NAME, Index, IndexRow, SessionEntry, Source
from forebrain.shards.options import PrepareConfig
from forebrain.shards.readable import readable
from forebrain.shards.reader import sizes_of_shards
from forebrain.shards.recordings import has_changed, name_of, open_any, path_names_of, sha256_of
from forebrain.shards.writer import write_session
from forebrain_registry.lines import composed, some
from forebrain_registry.storage import PARTIAL, Folder, carrying_anchors

OpenRecording = Callable[[str], list[Session]]
Row = dict[str, Any]
# So that a worker finds its next task when it ends one.
TASKS_A_CPU = 2
# What a set may hold: sessions of other recordings too; those of the recordings given and no others; or what
# a model was trained on, to which nothing is added and from which nothing is taken.
Holding = Literal["others too", "these alone", "as trained"]
RunEach = Callable[[Callable[[Row], Row], list[Row]], Iterable[Row]]


@dataclass(frozen=True)
class PrepareResult:
    """The outcome of preparing recordings.

    Attributes:
        sessions: entries of the usable sessions, sorted by id.
        others: entries of the sessions of the set that are of none of the recordings given.
        num_skipped: how many of `sessions` were there already, from the same recording and options.
        failures: one message for each recording or session that cannot be used.
    """

    sessions: tuple[SessionEntry, ...]
    others: tuple[SessionEntry, ...]
    num_skipped: int
    failures: tuple[str, ...]


def map_here(function: Callable[[Row], Row], items: list[Row]) -> Iterator[Row]:
    """Applies `function` to each item in this process, one after the other."""
    return map(function, items)


def map_with_ray(function: Callable[[Row], Row], items: list[Row]) -> Iterator[Row]:
    """Applies `function` to each item as a Ray task; results come as they are done.

    No more tasks wait in Ray than keep its CPUs busy. Whoever stops asking ends those that run.
    """
    if not items:
        return
    import ray

    from forebrain.ray_runtime import start_ray

    start_ray()
    task = ray.remote(num_cpus=1)(_called)
    waiting, held = iter(items), carrying_anchors(function)
    running: list[Any] = []
    try:
        while True:
            num_cpus = int(ray.cluster_resources().get("CPU", 1))
            for item in itertools.islice(waiting, max(0, TASKS_A_CPU * num_cpus - len(running))):
                running.append(task.remote(held, item))
            if not running:
                return
            done, running = ray.wait(running)
            yield from ray.get(done)
    finally:
        for each in running:
            with suppress(Exception):  # Ray may be gone
                ray.cancel(each, force=True)


def _called(function: Callable[[Row], Row], item: Row) -> Row:
    return function(item)


def prepare(
    recordings: Sequence[str],
    out: str,
    config: PrepareConfig,
    open_recording: OpenRecording = open_any,
    run_each: RunEach = map_with_ray,
    progress: Callable[[str], None] = lambda line: None,
    holding: Holding = "others too",
) -> PrepareResult:
    """Prepares recordings into the set of shards at `out`, which is made if there is none.

    Sessions that are there already, from the same bytes with the same options, are left as they are; a
    run that was killed is continued by running it again. The index is written last. Of several prepares that
    add to one address, one works at a time; the others wait for it. One recording is in a set once: a session
    of another name that holds the numbers of one of these recordings, and is of none of them, is removed.

    Args:
        recordings: addresses of single recordings (`recordings.find_all` finds them).
        out: a folder, or any fsspec address such as s3://bucket/folder.
        open_recording: address -> sessions.
        run_each: applies a function to each item, in any order, anywhere.
        progress: is told a line for each recording done.
        holding: what else the set may hold. `as trained` takes recordings by their content, whatever folder
            they have been moved to.

    Raises:
        ConfigError: `out` holds shards that were prepared with other options.
        RecordingError: not one session is usable; each failure is named.
        StorageError: `out` does not answer, refuses access, or is full; no index is written.
    """
    storage = Folder(out)
    with alone(storage, progress):
        return _prepare(recordings, storage, config, open_recording, run_each, progress, holding)


def _prepare(
    recordings: Sequence[str],
    storage: Folder,
    config: PrepareConfig,
    open_recording: OpenRecording,
    run_each: RunEach,
    progress: Callable[[str], None],
    holding: Holding,
) -> PrepareResult:
    """The work of `prepare`, in a folder that nothing else is written to meanwhile."""
    index = _same_options_index(storage, config)
    indexed = {} if index is None else {row.entry_sha256: row.id for row in index.sessions}
    done = _complete_entries(storage, config, indexed)

    identified = list(
        run_each(functools.partial(_identify, open_recording, _by_source(done, holding)), _items(recordings))
    )
    identified.sort(key=lambda row: row["position"])
    work, failures = _share_out(identified, done)
    skipped = {session_id for row in work for session_id in row["done"]}
    progress(f"{len(recordings)} recordings, {len(skipped)} sessions already prepared")
    if earlier := sum(done[session_id].entry.options_sha256 != config.sha256 for session_id in skipped):
        progress(f"{earlier} of them by an earlier version, and left as they are")

    usable = set(skipped)
    todo = [row for row in work if row["wanted"]]
    for number, row in enumerate(
        run_each(functools.partial(_prepare_one, open_recording, storage.uri, config), todo), 1
    ):
        if "stopped" in row:
            raise StorageError(f"{row['stopped']} Prepared sessions are kept: running it again goes on.")
        failures += row["failures"]
        usable.update(row["prepared"])
        progress(f"[{number}/{len(todo)}] {printable(row['recording'])}: {', '.join(row['lines'])}")

    stored = _complete_entries(storage, config, indexed)
    _remove_other_spellings(storage, stored, usable)
    usable_now = usable & stored.keys()
    prepared = tuple(stored[session_id].entry for session_id in sorted(usable_now))
    if usable and not prepared:
        raise StorageError(
            f"{storage.uri}: what was written there is not found again. Choose an address of plain letters, "
            "digits and dashes, and check the store with `forebrain doctor`."
        )
    if not prepared:
        raise RecordingError(f"none of {len(recordings)} recordings can be used:", *failures)
    asked = {composed(session_id) for row in work for session_id in row["wanted"]}
    left = sorted(set(indexed.values()) - stored.keys()) if holding != "these alone" else []
    failures += [
        f"session {session_id} of {storage.uri} is damaged or incomplete and is left out of the set now; "
        "prepare its recording again."
        for session_id in left
        if composed(session_id) not in asked
    ]
    failures += [
        f"session {session_id} was prepared and is not whole any more in {storage.uri}; something else "
        "removed a part. Prepare its recording again."
        for session_id in sorted(usable - stored.keys())
    ]
    gone = {} if holding == "as trained" else _gone(stored, work, usable_now, holding, progress)
    stored = {session_id: each for session_id, each in stored.items() if session_id not in gone}
    others = tuple(stored[session_id].entry for session_id in sorted(stored.keys() - usable_now))
    if others and holding == "others too":
        names = some([entry.id for entry in others])
        progress(f"{len(others)} more sessions of the set are of none of these recordings: {names}.")
    for line in twins((session_id, stored[session_id].entry.numbers) for session_id in sorted(stored)):
        progress(line)
    _sweep(storage, stored)
    _write_index(storage, config, stored)
    for each in gone.values():  # now that the index does not name them any more
        _remove(storage, each.entry)
    return PrepareResult(prepared, others, len(skipped), tuple(failures))


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


def _identify(open_recording: OpenRecording, done: dict[str, _Done], item: Row) -> Row:
    """Which sessions a recording holds; it is not opened where all of them are known to be done, under the
    names that its path gives them now."""
    recording = item["recording"]
    try:
        sha256 = sha256_of(recording)
        known = done.get(sha256)
        if known is not None and (known.named is None or known.named == path_names_of(recording)):
            ids = known.ids
        else:
            ids = [session.id for session in open_recording(recording)]
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
    if any(map(_is_named_by_path, (session.metadata for session in sessions))):
        source = replace(source, named=path_names_of(recording))
    written: list[SessionEntry] = []
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
            continue
        written.append(entry)
    if written and has_changed(recording, item["sha256"]):
        for entry in written:
            storage.remove(entry.name)
        failures.append(
            f"{printable(recording)}: changed while it was prepared; prepare it again when it is finished."
        )
        lines.append("changed meanwhile")
        return result
    prepared += [entry.id for entry in written]
    lines += [f"{entry.id} {entry.num_frames} frames x {entry.num_units} units" for entry in written]
    return result


def _named(recording: str, error: ForebrainError | OSError, out: str | None = None) -> str:
    """The message about an unusable recording: which one, what is wrong, what would help.

    Args:
        out: where it was being written to, if it was.
    """
    recording = printable(recording)
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


def _share_out(identified: list[Row], done: dict[str, _Stored]) -> tuple[list[Row], list[str]]:
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
            if (name := composed(session_id)) in owner:
                failures.append(
                    f"{row['recording']}: session {session_id} was already found in {owner[name]}; "
                    "only that one is used. If they differ, give one another session name in a sidecar file."
                )
                continue
            owner[name] = row["recording"]
            is_done = session_id in done and done[session_id].entry.source.sha256 == row["sha256"]
            (already if is_done else wanted).append(session_id)
        work.append(
            {"recording": row["recording"], "sha256": row["sha256"], "wanted": wanted, "done": already}
        )
    return work, failures


@dataclass(frozen=True)
class _Stored:
    """An entry of a session that is whole, and its bytes."""

    entry: SessionEntry
    data: bytes


def _same_options_index(storage: Folder, config: PrepareConfig) -> Index | None:
    """The index of what is there already; None if there is none.

    Raises:
        ConfigError: it was prepared with other options.
        ShardError: it is damaged, or of a format that is not read here; nothing is added to it.
    """
    try:
        index = Index.from_bytes(storage.read(INDEX_NAME), storage.uri)
    except FileNotFoundError:
        return None
    for name, value in asdict(config).items():
        if index.options.get(name) != value:
            raise ConfigError(
                f"{storage.uri} holds shards prepared with {name} = {index.options.get(name)}, and {value} "
                "was asked for. All sessions of a set share their options: choose another folder, "
                "or the same options."
            )
    return index


def _complete_entries(
    storage: Folder, config: PrepareConfig, indexed: Mapping[str, str]
) -> dict[str, _Stored]:
    """Entries by id of the sessions that are whole and were prepared with these options.

    Args:
        indexed: sha256 of the entries that the index of the set names; they stay, whatever prepared them.
    """
    files = storage.sizes("sessions") | sizes_of_shards(storage)
    names = [name for name in files if name.startswith("sessions/") and name.endswith(".json")]
    with readable(storage.uri, "sessions/"):
        found = storage.read_all(names)
    complete = {}
    for name, data in found.items():
        try:
            entry = SessionEntry.from_bytes(data, name)
        except ShardError:  # a damaged entry is none: its session is prepared again
            continue
        is_known = entry.options_sha256 in config.known_sha256 or hashlib.sha256(data).hexdigest() in indexed
        size = files.get(entry.arrays_name, 0)
        has_arrays = size == entry.arrays_size if entry.arrays_size else size > 0
        is_whole = has_arrays and all(files.get(shard.name) == shard.size for shard in entry.shards)
        if is_known and is_whole:
            complete[entry.id] = _Stored(entry, data)
    return complete


@dataclass(frozen=True)
class _Done:
    """A recording all of whose sessions are done.

    Attributes:
        ids: of its sessions.
        named: what its path has to tell (`path_names_of`) for them to have these names; None for anything.
    """

    ids: list[str]
    named: str | None


def _is_named_by_path(metadata: Mapping[str, str]) -> bool:
    """Whether a session has one of its names from the folder or file that it lies in."""
    told = metadata.get("identity_from", "")
    return FOLDERS_NAME in told or FILES_NAME in told


def _by_source(stored: dict[str, _Stored], holding: Holding) -> dict[str, _Done]:
    """Recording sha256 -> its sessions, for recordings all of whose sessions are done."""
    found: dict[str, list[SessionEntry]] = {}
    for each in stored.values():
        found.setdefault(each.entry.source.sha256, []).append(each.entry)
    return {
        sha256: _Done(
            sorted(entry.id for entry in group),
            group[0].source.named
            if holding != "as trained" and any(_is_named_by_path(entry.metadata) for entry in group)
            else None,
        )
        for sha256, group in found.items()
        if len(group) == group[0].source.num_sessions
    }


def _gone(
    stored: dict[str, _Stored],
    work: list[Row],
    usable: Collection[str],
    holding: Holding,
    progress: Callable[[str], None],
) -> dict[str, _Stored]:
    """What is not to stay in the set, by id: a recording under the name that it had before, and where the set
    holds no others, all of other recordings; a line says which.

    Args:
        work: the recordings given, as `_share_out` gives them.
        usable: ids of their sessions.
    """
    now: dict[str, str] = {}  # sessions by what may tell that one is the same recording
    for session_id in sorted(usable):
        entry = stored[session_id].entry
        now |= dict.fromkeys((entry.source.sha256, entry.arrays_sha256, entry.content_sha256), session_id)
    asked = {composed(session_id) for row in work for session_id in (*row["wanted"], *row["done"])}
    gone = {}
    others = []
    for session_id in sorted(stored.keys() - usable):
        entry = stored[session_id].entry
        hashes = [entry.content_sha256, entry.arrays_sha256]
        if composed(session_id) not in asked:
            hashes.append(entry.source.sha256)
        other = next((now[each] for each in hashes if each in now), None)
        if other is not None:
            progress(f"{session_id} is {other} now: the same recording; the set does not hold it twice.")
        elif holding == "these alone":
            others.append(session_id)
        else:
            continue
        gone[session_id] = stored[session_id]
    if others:
        progress(f"{len(others)} sessions of other recordings are no part of the set now: {some(others)}.")
    return gone


def _remove(storage: Folder, entry: SessionEntry) -> None:
    for name in (entry.name, entry.arrays_name, *(shard.name for shard in entry.shards)):
        storage.remove(name)


def _remove_other_spellings(storage: Folder, stored: dict[str, _Stored], usable: Collection[str]) -> None:
    """Removes what an earlier version prepared of a usable session under another spelling of its name: it has
    other files, which the session's own do not replace."""
    own = {composed(session_id): session_id for session_id in usable if session_id in stored}
    for session_id in [each for each in stored if own.get(composed(each), each) != each]:
        _remove(storage, stored.pop(session_id).entry)


def _sweep(storage: Folder, stored: dict[str, _Stored]) -> None:
    """Removes what killed runs and longer, older versions of a session left behind.

    Of sessions that are not whole only what has no name yet is removed: what they lack may be brought back.
    """
    listed = {shard.name for each in stored.values() for shard in each.entry.shards}
    keys = {each.entry.key for each in stored.values()}
    of_session = re.compile(r"(?:shards|sessions)/(?:[^/]+/)?([^/]+?)(?:-\d{5}\.tar|\.json|\.safetensors)")
    partial = re.compile(rf"(.+)\.\w+{re.escape(PARTIAL)}")
    for name in [*sizes_of_shards(storage), *storage.sizes("sessions")]:
        begun = partial.fullmatch(name)
        of = of_session.fullmatch(begun[1] if begun else name)
        is_older = name.endswith(".tar") and of is not None and of[1] in keys and name not in listed
        if is_older or (begun and of):
            storage.remove(name)


def _write_index(storage: Folder, config: PrepareConfig, stored: dict[str, _Stored]) -> None:
    """Writes the file of all entries, and then the index, which makes them the set."""
    in_order = [stored[session_id] for session_id in sorted(stored)]
    rows = tuple(
        IndexRow(
            each.entry.id,
            each.entry.key,
            hashlib.sha256(each.data).hexdigest(),
            tuple(shard.size for shard in each.entry.shards),
        )
        for each in in_order
    )
    storage.write(ENTRIES_NAME, b"".join(each.data + b"\n" for each in in_order))
    index = Index(config.max_window, config.page_bytes, asdict(config), rows)
    storage.write(INDEX_NAME, index.to_bytes())
