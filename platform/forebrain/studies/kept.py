"""What a study keeps, so that the same command goes on where it was stopped, with the same recordings.

study.json    which study it is, of which sessions, and the hash of what each was read from
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from forebrain.errors import CheckpointError, ConfigError
from forebrain.out_folder import STUDY as ASKED
from forebrain.out_folder import require_own
from forebrain.sealed import plain, sealed, unsealed
from forebrain.sessions.session import Session
from forebrain.shards.recordings import has_changed, open_any, sha256_of
from forebrain.training.versions import code_version
from forebrain_registry.lines import some
from forebrain_registry.storage import Folder

RESULTS = "results.json"  # of studies that have a `report.StudyReport`
_log = logging.getLogger(__name__)


def contents_of(read: Iterable[tuple[Session, str]]) -> dict[str, str]:
    """The hash of each session's recording, by the session's id.

    Args:
        read: sessions, each with the address of its recording.

    Raises:
        ConfigError: two of them have one name.
    """
    contents: dict[str, str] = {}
    owner: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for session, address in read:
        if session.id in owner:
            raise ConfigError(
                f"{owner[session.id]} and {address} are both session {session.id}. Leave one out, or name "
                "each one's session in a sidecar file."
            )
        owner[session.id] = address
        if address not in hashes:
            hashes[address] = sha256_of(address)
        contents[session.id] = hashes[address]
    return contents


def opened(recordings: Sequence[str]) -> tuple[list[tuple[Session, str]], dict[str, str]]:
    """The sessions of a study's recordings, each with its recording's address; and `contents_of` them, which
    is what was opened: hashes are formed before and after.

    Raises:
        ConfigError: two sessions have one name, or a recording changes meanwhile.
    """
    before = {address: sha256_of(address) for address in recordings}
    read = [(session, address) for address in recordings for session in open_any(address)]
    for address, sha256 in before.items():
        require_unchanged(address, sha256)
    return read, contents_of(read)


def require_unchanged(address: str, sha256: str) -> None:
    """Raises ConfigError if a recording is no longer what the study began with: what was read of it may be
    either."""
    if has_changed(address, sha256):
        raise changed(address)


def changed(address: str) -> ConfigError:
    """The error of what is no longer what it was when its hash was formed."""
    return ConfigError(
        f"{address} changed while it was read, and its score was not kept. Put back what it was, and the "
        "same command goes on; or give another --out."
    )


def claim(
    out: Folder, contents: Mapping[str, str], study: str, settings: Mapping[str, Any] | None = None
) -> None:
    """Makes a folder that of a study of these recordings, before any work.

    Args:
        out: the study's folder.
        contents: of each session, the hash of its recording (`recordings.sha256_of`).
        study: which study it is.
        settings: what its results depend on, of a study whose steps do not say it of themselves.

    Raises:
        ConfigError: it holds other work, another study, or one of other recordings or settings, or one of
            these recordings has changed since.
        CheckpointError: what it says of them is damaged.
    """
    require_own(out, ASKED)
    settings = plain(settings or {})
    said = {"study": study, "sessions": dict(sorted(contents.items())), "settings": settings}
    asked = sealed(said)
    with contextlib.suppress(FileExistsError):
        return out.create(ASKED, asked)
    try:
        record = unsealed(out.read(ASKED))
        before = record["sessions"]
        is_unhashed = isinstance(before, list)  # of an earlier version, taken at its word
        if is_unhashed:
            before = {name: contents.get(name) for name in before}
        other = sorted(set(before) ^ set(contents))
        changed = [name for name in contents if name in before and before[name] != contents[name]]
        known = record.get("settings", settings)  # of an earlier version they are not known
        differ = [
            f"{key} was {known.get(key, 'not kept')}" for key in settings if known.get(key) != settings[key]
        ]
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{out.uri_of(ASKED)}: damaged ({error!r:.200}). Give another --out; or remove it, if the "
            "recordings are those of the study."
        ) from error
    if record.get("study", study) != study:  # of an earlier version, which did not say
        raise ConfigError(f"{out.uri} holds study {record['study']}; give another --out for study {study}.")
    if other:
        raise ConfigError(
            f"{out.uri} holds a study of other recordings ({some(other)}); give the same ones, or another "
            "--out."
        )
    if changed:
        raise ConfigError(
            f"{out.uri} holds a study of these recordings as they were before {some(changed)}, or a sidecar "
            "file, changed or was renamed. Give back what it was, or another --out."
        )
    if differ:
        raise ConfigError(
            f"{out.uri} holds study {study} with other settings ({', '.join(differ)}); give the same "
            "ones, or another --out."
        )
    if settings and "settings" not in record:
        _log.warning(
            "%s: an earlier version began this study and did not keep its settings; they are taken to have "
            "been %s.",
            out.uri_of(ASKED),
            ", ".join(f"{key} {value}" for key, value in settings.items()),
        )
    if record != said:  # an earlier version kept less
        out.write(ASKED, asked)


def claim_for_run(out: Folder, run: str, sessions: Sequence[str], study: str, is_within: bool) -> None:
    """Makes a folder that of a study of one run, whose results replace those of that run and no others.

    Args:
        out: the study's folder.
        run: what names the run: the same wherever it lies and however far it has come.
        sessions: ids of its sessions.
        study: which study it is.
        is_within: the folder is in the run's own, so that what is there is of this run, whatever names it.

    Raises:
        ConfigError: it holds other work, or a study of another run or of one that is not known.
        CheckpointError: what it says of itself is damaged.
    """
    require_own(out, ASKED)
    try:
        record = unsealed(out.read(ASKED))
        before = record.get("study", "another"), record.get("run")
    except FileNotFoundError:
        if out.exists(RESULTS) and not is_within:
            raise ConfigError(
                f"{out.uri} holds results ({RESULTS}) of a run that an earlier version did not name; give "
                "another --out, or remove them."
            ) from None
        out.create(ASKED, sealed({"study": study, "run": run, "sessions": list(sessions)}))
        return
    except ValueError as error:
        raise CheckpointError(
            f"{out.uri_of(ASKED)}: damaged ({error!r:.200}). Give another --out; or remove it, and what else "
            "is there."
        ) from error
    if before[0] != study:
        raise ConfigError(f"{out.uri} holds study {before[0]}; give another --out for study {study}.")
    if before[1] != run and not is_within:
        raise ConfigError(f"{out.uri} holds study {study} of another run ({before[1]}); give another --out.")


def write_step(folder: Folder, name: str, step: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps what a step came to, and the version that did it, so that it is not done again.

    Returns:
        What `read_step` gives: a score that is undefined is None.
    """
    kept: dict[str, Any] = plain({**step, "code_version": code_version()})
    folder.write(name, sealed(kept))
    return kept


def read_step(
    folder: Folder, name: str, use: Callable[[dict[str, Any]], object], of: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """What a step left.

    Args:
        folder, name: where.
        use: does with it what is done with all steps: one of an earlier version has no seal, and may hold
            anything.
        of: some of what it must hold, such as its session: a file may have been copied to another's name.

    Returns:
        None where the step was not done, or what it left is damaged: then it is done again.
    """
    try:
        step = unsealed(folder.read(name))
        for key, value in (of or {}).items():
            if step[key] != value:
                raise ValueError(f"its {key} is {step[key]!r:.100}; expected {value!r}")
        use(step)
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        what = error if type(error) is ValueError else repr(error)
        _log.warning("%s: damaged (%s); it is done again.", folder.uri_of(name), what)
        return None
    return {key: plain(value) for key, value in step.items()}  # of an earlier version, which kept NaN
