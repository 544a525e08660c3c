"""The state of a live forecaster, in a small file: killed and started again, it goes on from the next frame.

The file holds the window, the statistics, the counts, the rolling score, the intervals, and the forecasts
and intervals whose targets have not come, and the interface. It is written
whole or not at all, by a thread of its own; the frame's path only copies what is to be written.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from forebrain.errors import CheckpointError
from forebrain.machine import since_boot
from forebrain.realtime.closing import last_write
from forebrain.realtime.forecaster import LiveForecaster, State
from forebrain.sessions.preprocessing import Preprocessing
from forebrain_registry.storage import PARTIAL, Folder, path_here

FORMAT = "forebrain-live-1"
KEEP_S = 1.0  # how long what is not to be undone waits for the disk
_log = logging.getLogger(__name__)


class StateFile:
    """The state file of one forecaster.

    Args:
        path: of the file; its folder is made.
        live: the forecaster, as it was opened: its model and units decide which states fit.
        every_s: at most one write in this time.
        clock: seconds that only run forward.
        now: seconds since 1970, by which a later process tells how old the state is.
        since_boot: which start of the machine this is and the seconds since, by which it tells that too: at
            boot `now` may go on from where it stood, on a machine without a clock that runs meanwhile.
    """

    def __init__(
        self,
        path: str | Path,
        live: LiveForecaster,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        since_boot: Callable[[], tuple[str, float] | None] = since_boot,
    ) -> None:
        self.path = _place(path)
        self._identity, self._adaptation = _identity(live), adaptation_of(live)
        self._every_s, self._clock = every_s, clock
        self._now, self._since_boot = now, since_boot
        self._lock = _which(_lock_beside(self.path))
        self._due = clock()
        self._naming = live.naming  # of the newest state that waits, or was written
        self._waiting: queue.Queue[tuple[State, threading.Event] | None] = queue.Queue(maxsize=1)
        self._writer = threading.Thread(target=self._write_all, name="live-state", daemon=True)
        self._writer.start()

    def restore(self, live: LiveForecaster) -> bool:
        """Puts a forecaster where the file's was. False if there is no file, or it is damaged: then it is set
        aside under another name, with a warning.

        Raises:
            CheckpointError: the file belongs to another model, adaptation, other units or other settings, or
                cannot be read or set aside.
        """
        if not self.path.exists():
            return False
        try:
            with safe_open(self.path, framework="np") as file:
                about = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            # A state of an earlier version has no hash.
            if about.get("sha256") not in (None, _hash_of(arrays, about["state"])):
                raise ValueError("it is not what was written")
            plain = json.loads(about["state"])
            identity = plain.pop("identity")
            adaptation = plain.pop("adaptation", self._adaptation)  # not in one of an earlier version
            away_s = self._age_s(plain.pop("kept_at", -math.inf), plain.pop("since_boot", None))
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            self._set_aside(error)
            return False
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: this state cannot be read ({error}). Check its rights, or name another file."
            ) from error
        if identity != self._identity:
            raise CheckpointError(
                f"{self.path}: this state belongs to another model, other units or other settings. "
                "Name another file, or delete it to start anew."
            )
        if adaptation != self._adaptation:
            raise CheckpointError(
                f"{self.path}: this state belongs to another adaptation to these units, which it would bring "
                "back. Name another file, or delete it to start anew."
            )
        live.restore((arrays, plain), away_s)
        return True

    def _age_s(self, kept_at: float, kept_since_boot: tuple[str, float] | None) -> float:
        """How old a state is, in seconds; infinity where that is not known.

        Args:
            kept_at: when it was kept, in seconds since 1970.
            kept_since_boot: as `since_boot` said then; None where it did not know, or in a state of an
                earlier version.
        """
        age_s = self._now() - kept_at
        if kept_since_boot is not None:
            boot, kept_s = kept_since_boot
            here = self._since_boot()
            if here is None or here[0] != boot:  # nothing tells how long that took
                return math.inf
            age_s = max(age_s, here[1] - kept_s)
        return age_s if age_s >= 0 else math.inf  # a clock that was set back

    def _set_aside(self, error: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        try:
            self.path.replace(aside)
        except OSError as refused:
            raise CheckpointError(
                f"{self.path}: this state cannot be read ({error}), nor set aside ({refused.strerror}). "
                "Delete it to start anew."
            ) from refused
        _log.warning(
            "%s: this state cannot be read (%s); it is now %s, and all starts anew.", self.path, error, aside
        )

    def offer(self, live: LiveForecaster) -> None:
        """Has the state written if it is time, or if values bear other names by now, in place of one that
        waits. Costs a copy of the window."""
        if self._clock() >= self._due or live.naming != self._naming:
            self._put(live)

    def keep(self, live: LiveForecaster) -> None:
        """Has the state written now, and waits for it, so that a kill does not undo what is answered next.
        Of a disk that takes longer than `KEEP_S` a warning says so."""
        if not self._put(live).wait(KEEP_S):
            _log.warning("%s: was not written within %g s, forecasting goes on", self.path, KEEP_S)

    def close(self, live: LiveForecaster) -> None:
        """Writes the last state, and waits for it."""
        with last_write(self.path):
            self._put(live)
            self._waiting.put(None)
            self._writer.join()

    def _put(self, live: LiveForecaster) -> threading.Event:
        """Hands the state to the thread that writes it; set once that is done, or has failed."""
        self._due, self._naming = self._clock() + self._every_s, live.naming
        with contextlib.suppress(queue.Empty):
            self._waiting.get_nowait()
        arrays, plain = live.state()
        is_done = threading.Event()
        kept = {"kept_at": self._now(), "since_boot": self._since_boot()}
        self._waiting.put_nowait(((arrays, {**plain, **kept}), is_done))
        return is_done

    def _write_all(self) -> None:
        folder, said = Folder(self.path.parent), ""
        while (waiting := self._waiting.get()) is not None:
            (arrays, plain), is_done = waiting
            text = json.dumps({**plain, "identity": self._identity, "adaptation": self._adaptation})
            about = {"state": text, "sha256": _hash_of(arrays, text)}
            try:
                self._require_lock()
                folder.write(self.path.name, save(arrays, about))
                said = ""
            except Exception as error:  # forecasts matter more than their state, and `close` waits for this
                if str(error) != said:
                    _log.warning("the state was not saved, forecasting goes on: %s", error)
                said = str(error)
            is_done.set()

    def _require_lock(self) -> None:
        """Raises CheckpointError where the lock of `keeping` lies beside the file no more: another forecaster
        may write there by now, and a folder that was moved or unmounted would be made anew in its place."""
        if _which(_lock_beside(self.path)) != self._lock:
            raise CheckpointError(
                f"{self.path}: its folder or {_lock_beside(self.path).name} was removed, moved or replaced "
                "since this forecaster began. Put it back, or end the forecaster and start it again."
            )


@contextlib.contextmanager
def keeping(path: str | Path) -> Iterator[None]:
    """Keeps other forecasters from a state file, by a lock beside it that a process which dies lets go of.

    Links to it are followed, so that every name of it has that lock. What a killed forecaster has left of a
    state that it was writing is removed.

    Raises:
        CheckpointError: another forecaster keeps its state there.
    """
    path = _place(path)
    lock = FileLock(_lock_beside(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{path}: its folder cannot be made ({error.strerror}). Name another file."
        ) from error
    try:
        lock.acquire(blocking=False)
        for left in path.parent.glob(f"{glob.escape(path.name)}.{8 * '[0-9a-f]'}{PARTIAL}"):
            with contextlib.suppress(OSError):
                left.unlink()
    except Timeout as error:
        raise CheckpointError(
            f"{path}: another forecaster keeps its state there. End it, or name another file."
        ) from error
    except (OSError, NotImplementedError) as error:  # of the disk
        _log.warning("%s: cannot be locked (%s); let no other forecaster use it.", path, error)
    try:
        yield
    finally:
        lock.release()


def _place(path: str | Path) -> Path:
    """Where a state file lies, whatever links lead there: a state that is written replaces none of them.

    Raises:
        CheckpointError: the links lead in a circle, or to what is no file.
    """
    try:
        place = path_here(path).resolve()
        is_file = place.is_file() or not place.exists()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be found ({error}). Name another file.") from error
    if not is_file:  # a pipe would be waited for
        raise CheckpointError(f"{path}: is a folder, device or pipe; expected a file, of another name.")
    return place


def _lock_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _which(path: Path) -> tuple[int, int] | None:
    """Which file has a name now; None if there is none to be found."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _hash_of(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """A hash of all that a state holds."""
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _identity(live: LiveForecaster) -> str:
    """A hash of what a state belongs to: the format, the backbone, the units, and how they are judged."""
    config = live.config
    settings = [
        FORMAT,
        live.num_units,
        live.unit_names,
        config.normalise,
        config.memory,
        config.score_windows,
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, parameter in sorted(live.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    # With running statistics those of the fit play no part.
    is_fitted = config.normalise == "fit"
    fitted = live.preprocessing if is_fitted else Preprocessing.none(live.num_units)
    for array in (fitted.mean, fitted.scale):
        digest.update(array.tobytes())
    return digest.hexdigest()


def adaptation_of(live: LiveForecaster) -> str:
    """A hash of all else that was fitted to the units."""
    opened = live.opened_with
    arrays = {"unit": opened.unit.detach().numpy(), "session": opened.session.detach().numpy()}
    parts = {
        "stack": live.stack,
        "calibration": None if live.intervals is None else live.intervals.calibration,
        "inputs": None if live.inputs is None else live.inputs.stacks,
    }
    for name, part in parts.items():
        if part is not None:
            arrays |= {f"{name}.{key}": array for key, array in part.arrays().items()}
    return _hash_of(arrays, json.dumps(live.input_names))
