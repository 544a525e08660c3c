"""One command at a time works in the folder of a run, of a study, or of a prepared set, on a disk and in a
store.

held-<n>.json    who works there: created, renewed while the work lasts

A process that was killed leaves its file. On its own machine it is seen to have ended; from elsewhere it has
ended once the file was not renewed for LOST_S. Whoever comes then creates the next number, which one can.

After the work the file is removed from a disk. In a store it stays, and says that the work has ended, until
the next number is taken: a store may do late what it was asked to, and a late request must not find the file
of another command.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import operator
import os
import platform
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from forebrain.errors import StorageError, StudyError
from forebrain.machine import boot_id
from forebrain.sealed import sealed, unsealed
from forebrain_registry.storage import Folder, Stat

RENEW_S = 10.0
LOST_S = 60.0
LOOK_AGAIN_S = 1.0
# Looks at a file that is listed and cannot be found, until that is told; of those who come and go at the same
# time there are a few.
LOOKS = 100
_HELD = re.compile(r"held-([0-9]+)\.json")
_log = logging.getLogger(__name__)
Config = TypeVar("Config")
Given = ParamSpec("Given")
Result = TypeVar("Result")


def alone_in(
    key: str,
) -> Callable[[Callable[Concatenate[Config, Given], Result]], Callable[Concatenate[Config, Given], Result]]:
    """Has a function work `alone` in a folder.

    Args:
        key: of the folder's address in the config that the function is given first, dotted.
    """

    def decorate(
        work: Callable[Concatenate[Config, Given], Result],
    ) -> Callable[Concatenate[Config, Given], Result]:
        @functools.wraps(work)
        def work_alone(config: Config, *args: Given.args, **kwargs: Given.kwargs) -> Result:
            with alone(Folder(operator.attrgetter(key)(config))):
                return work(config, *args, **kwargs)

        return work_alone

    return decorate


@contextlib.contextmanager
def alone(out: Folder, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a folder as long as the block lasts; leaves none that was not there and holds nothing.

    Args:
        waiting: is told once, in a line, that another process holds it, which is then waited for.

    Raises:
        StudyError: another process holds it, and nobody waits. Of one on another machine it is first seen
            whether it is at work, which takes LOST_S at most.
        StorageError: it cannot be written to; or, once the block has ended, another process took it since
            this one seemed to have ended.
    """
    made: list[Path] = []
    if out.is_local:
        root = out.local_path("")
        made = list(itertools.takewhile(lambda each: not each.exists(), (root, *root.parents)))
    out.require_writable()
    own, machine = os.getpid(), _machine()
    about = {"process": own, "host": platform.node(), "machine": machine, "id": uuid.uuid4().hex}
    about["place"] = out.uri
    record = sealed({**about, "born": machine and _born(own)})
    name = _take(out, record, waiting)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(out, name, record, ended), daemon=True)
    renewing.start()
    try:
        with out.anchored_by(name, record):
            out.remove_partial(deep=False)
            yield
        newest = max(_holders(out), default=0)
        if name != f"held-{newest}.json" or not _is_there(out, name, record):
            raise StorageError(
                f"{out.uri}: {name} was removed, or not renewed for {LOST_S:.0f} s, as when this machine "
                "sleeps, the store or disk is away, or the folder was moved, so that another command could "
                "take it. What lies there may be of both, or in part elsewhere: run this one again where the "
                "folder is."
            )
    finally:
        ended.set()
        renewing.join()
        _let_go(out, name, record)
        for folder in made:
            with contextlib.suppress(OSError):  # it holds something now
                folder.rmdir()


def _take(out: Folder, record: bytes, waiting: Callable[[str], None] | None) -> str:
    """Makes the folder this process's; the name of its file."""
    is_told, missing, seen = False, 0, None
    while True:
        before, left = _holders(out), None
        newest = max(before, default=0)
        try:
            if newest and (left := _left_by_ended(out, before[newest])) is None:
                missing += 1
                if missing == LOOKS:
                    raise StorageError(
                        f"{out.uri_of(before[newest])} is listed and cannot be found; remove it if it is a "
                        "link to nothing, or see what has become of its store."
                    )
                time.sleep(LOOK_AGAIN_S / 10)
                continue
        except _HeldError as error:
            if waiting is None and (error.stat is None or seen not in (None, error.stat)):
                raise StudyError(f"{error} Wait until it has ended, or give another --out.") from error
            seen, missing = error.stat, 0
            if not is_told:
                then = f"Whether it still does shows within {LOST_S:.0f} s."
                then = then if waiting is None else "This one waits until it has ended."
                (waiting or _log.warning)(f"{error} {then}")
                is_told = True
            time.sleep(LOOK_AGAIN_S)
            continue
        name = f"held-{newest + 1}.json"
        try:
            out.create(name, record)
        except FileExistsError:  # of another command that came at the same time
            continue
        one_came = _holders(out).keys() - before.keys() != {newest + 1}
        # Others may also have come and gone while this one stood still: numbers begin anew when none is left.
        if one_came or (left is not None and not _is_there(out, before[newest], left)):
            _let_go(out, name, record)
            continue
        for each in before.values():
            out.remove_file(each)
        return name


class _HeldError(Exception):
    """Another process is at work in a folder; or, by the file of which `stat` is known, may be."""

    def __init__(self, text: str, stat: Stat | None = None) -> None:
        super().__init__(text)
        self.stat = stat


def _holders(out: Folder) -> dict[int, str]:
    return {int(found[1]): found[0] for name in out.names() if (found := _HELD.fullmatch(name))}


def _left_by_ended(out: Folder, name: str) -> bytes | None:
    """The content of a file whose writer has ended; None where the file has gone.

    Raises:
        _HeldError: the writer is at work.
    """
    holder: dict[str, Any] = {}
    try:
        content = out.read(name)
        holder = unsealed(content)
    except FileNotFoundError:
        return None
    except ValueError:  # its age tells
        pass
    if holder.get("ended"):
        return content
    process, machine, stat = holder.get("process"), holder.get("machine"), None
    who = f"process {process} on {holder.get('host')}" if holder else name
    is_here = machine is not None and machine == _machine()
    # In a copy of the folder it says nothing of who works there, nor where that was moved; its age does.
    if isinstance(process, int) and is_here and holder.get("place") in (None, out.uri):
        born, known = _born(process), holder.get("born")
        if born is None or (born and known and born != known):
            return content
    else:
        stat = out.stat(name)
        if stat is None:
            return None
        age_s = out.clock_s() - stat.modified_s
        if age_s >= LOST_S:
            return content
        if age_s <= -LOST_S:  # a clock was set back; who is at work writes it anew
            time.sleep(2 * RENEW_S)
            if out.stat(name) == stat:
                return content
        who += f", seen {max(age_s, 0):.0f} s ago, which counts as ended when it was not for {LOST_S:.0f} s"
    raise _HeldError(f"{out.uri}: another command works there ({who}).", stat)


def _let_go(out: Folder, name: str, record: bytes) -> None:
    """Ends the holding of a folder, if the file is still the one that was written."""
    if not _is_there(out, name, record):
        return
    if out.is_local:
        out.remove_file(name)
    else:
        out.write(name, sealed({**unsealed(record), "ended": True}))


def _is_there(out: Folder, name: str, record: bytes) -> bool:
    """Whether a file is still the one that was written."""
    try:
        return out.read(name) == record
    except FileNotFoundError:
        return False


def _renew(out: Folder, name: str, record: bytes, ended: threading.Event) -> None:
    was_there = True
    while not ended.wait(RENEW_S):
        try:
            is_there = _is_there(out, name, record)
            if is_there:
                out.write(name, record)
            elif was_there:  # an error when the work has ended; its disk may be back by then
                _log.warning(
                    "%s: is gone; its disk is, or another command may work in its folder by now.",
                    out.uri_of(name),
                )
            was_there = is_there
        except (StorageError, OSError) as error:
            _log.warning("%s: cannot be renewed (%s).", out.uri_of(name), error)


def _machine() -> str | None:
    """What tells this machine, and what counts processes on it, from all others; None where that is not
    known."""
    if sys.platform == "win32":
        return None
    try:
        return f"{boot_id()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return platform.node()


def _born(process: int) -> str | None:
    """When a process of this machine began, which tells it from those that had its number before: "" where
    that is not known, None where it has ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:  # another user's
        pass
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in ("Z", "X") else fields[18]
