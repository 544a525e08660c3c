"""What a study keeps, so that the same command goes on where it was stopped, with the same recordings.

study.json    which sessions these are, and the hash of what each was read from
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from forebrain.errors import CheckpointError, ConfigError
from forebrain.sealed import sealed, unsealed
from forebrain_registry.storage import Folder

ASKED = "study.json"
_log = logging.getLogger(__name__)


def claim(out: Folder, contents: Mapping[str, str]) -> None:
    """Makes a folder that of a study of these recordings, before any work.

    Args:
        out: the study's folder.
        contents: of each session, the hash of its recording (`recordings.sha256_of`).

    Raises:
        ConfigError: it holds a study of other recordings, or one of these has changed since.
        CheckpointError: what it says of them is damaged.
    """
    asked = sealed({"sessions": dict(sorted(contents.items()))})
    with contextlib.suppress(FileExistsError):
        return out.create(ASKED, asked)
    try:
        before = unsealed(out.read(ASKED))["sessions"]
        is_unhashed = isinstance(before, list)  # of an earlier version, taken at its word
        if is_unhashed:
            before = {name: contents.get(name) for name in before}
        other = sorted(set(before) ^ set(contents))
        changed = [name for name in contents if name in before and before[name] != contents[name]]
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{out.uri_of(ASKED)}: damaged ({error!r:.200}). Give another --out; or remove it, if the "
            "recordings are those of the study."
        ) from error
    if other:
        raise ConfigError(
            f"{out.uri} holds a study of other recordings ({_some(other)}); give the same ones, or another "
            "--out."
        )
    if changed:
        raise ConfigError(
            f"{out.uri} holds a study of these recordings as they were before {_some(changed)}, or a sidecar "
            "file, changed. Give another --out."
        )
    if is_unhashed:
        out.write(ASKED, asked)


def write_step(folder: Folder, name: str, step: Mapping[str, Any]) -> None:
    """Keeps what a step came to, so that it is not done again; `read_step` sees where it changed since."""
    folder.write(name, sealed(step, allow_nan=True))  # a score may be undefined


def read_step(folder: Folder, name: str, of: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What a step left.

    Args:
        folder, name: where.
        of: some of what it must hold, such as its session: a file may have been copied to another's name.

    Returns:
        None where the step was not done, or what it left is damaged: then it is done again.
    """
    try:
        step = unsealed(folder.read(name))
        for key, value in (of or {}).items():
            if step.get(key) != value:
                raise ValueError(f"its {key} is {step.get(key)!r:.100}; expected {value!r}")
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s: damaged (%s); it is done again.", folder.uri_of(name), error)
        return None
    return step


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + " ..." * (len(names) > 4)
