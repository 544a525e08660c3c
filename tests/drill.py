"""Has a command meet a fault at each thing that it does in a folder, and looks at what comes of it.

    python tests/drill.py publish killed [every N-th]
    python tests/drill.py publish@s3 lost          # at each request to the store at AWS_ENDPOINT_URL

Each trial begins with a copy of one folder. The command is killed, or refused, or stopped while the same or
another is given, as it is about to open, make, rename, link or remove the k-th file or folder, or to look at
the k-th; in a store each request counts. Then it is given again. What lies there in the end must be what an
undisturbed one leaves (or two in either order), and an end without an error must have left that at once. What
differs between two undisturbed ones (times, names of processes) is not compared. Prints a line for each fault
that shows, and exits with 1 if there are any.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

Fault = Literal["killed", "stopped", "unreadable", "unwritable", "full", "lost"]
Work = Callable[[], int]
Observed = dict[str, Any]  # by file, and by key in a file of JSON
CHANGES = {f"os.{name}" for name in ("rename", "remove", "rmdir", "mkdir", "link", "symlink", "truncate")}
LOOKS = {"os.listdir", "os.scandir", "stat"}
REQUESTS = ("Put", "Delete", "Copy", "Create", "Upload", "Complete")  # that change something, begin so
BUCKET, PREFIX = "forebrain", f"drill-{os.getpid()}"
LIMIT_S = 120.0  # of one command
VOLATILE = re.compile(r"[0-9]+\.[\w-]+\.[0-9]+\.[0-9]+|[0-9a-f]{8,}|[0-9]{9,}")
RUN = (
    "--workers 0 --model.name mlp --model.context 12 --model.horizon 4 --model.width 16 --training.steps 8 "
    "--training.batch_size 8 --training.threads 1 --training.checkpoint_every 2 --training.validate_every 4 "
    "--evaluation.windows_per_session 8"
)
PUBLISH = "publish --run run --name m --registry reg"


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command, what is done before it, and what it leaves that no two times is the same.

    Attributes:
        command: that meets faults: a command line of `forebrain`, or a function.
        before: likewise, in an empty folder with recordings.
        ignored: pattern of the files and keys that are not compared.
        other: given while the command is stopped; the same once more where there is none.
        in_store: what commands write lies in a store, and requests to it meet the faults.
    """

    command: str | Work
    before: tuple[str | Work, ...] = ()
    ignored: str = "$^"
    other: str | Work | None = None
    in_store: bool = False


def _forecast_live() -> int:
    """A rig that sends again what its forecaster has no state of; forecasts are kept in forecasts/."""
    from rich.console import Console

    from forebrain.commands.live import serve
    from forebrain.errors import ForebrainError
    from forebrain.realtime.messages import Frame

    frames = np.load("more/fish5.npz")["traces"][:40]
    kept = Path("forecasts")
    kept.mkdir(exist_ok=True)

    class Rig:
        def __init__(self, live: Any) -> None:
            self.live = live

        def receive(self, timeout_s: float) -> Frame | None:
            index = self.live.arrivals.index
            index = 0 if index is None else int(index) + 1
            if index < len(frames):
                return Frame(frames[index], index, index / 5)
            os.kill(os.getpid(), signal.SIGTERM)
            return None

        def is_behind(self) -> bool:
            return False

        def send(self, forecast: Any) -> None:
            np.save(kept / f"{int(forecast.index)}.npy", forecast.values)

        def refuse(self, error: Exception) -> None:
            raise error

        def close(self) -> None:
            pass

    serve._port = lambda config, live: (Rig(live), "here")  # type: ignore[assignment, return-value]
    config = serve.Config(
        adapted="ad", registry="reg", state="state/file", record="record/file", state_every_s=0.0, threads=1
    )
    try:
        return serve.run(config, Console())
    except ForebrainError as error:
        print(f"error: {error}")
        return 1


def _forget_models() -> int:
    """What an interrupted publisher leaves, ten days later: blobs, and no model of them."""
    shutil.rmtree("reg/models")
    for path in Path("reg").rglob("*"):
        os.utime(path, (time.time() - 10 * 86400,) * 2)
    return 0


# Which older checkpoints are kept besides depends on where a run was begun again; its scores do not.
_OF_RUNS = (
    r"^(store/)?run/checkpoints/|tensorboard|attempts|metrics\.jsonl$|result\.json:.*(ledger|seconds|attempts)|"
    "code_version"
)
_TRAINED = f"pretrain --data recs --out run {RUN}"
_OTHER_RUN = f"pretrain --data recs --out run2 {RUN} --seed 7"
_GC = "registry gc --registry reg"
_ADAPT = "adapt --model m@1 --registry reg --recording more/fish5.npz --out ad --fit.steps 6"
SCENARIOS: Mapping[str, Scenario] = {
    "prepare": Scenario("prepare --recording recs --out set --workers 0"),
    "prepare-more": Scenario(
        "prepare --recording more --out set --workers 0", ("prepare --recording recs --out set --workers 0",)
    ),
    "pretrain": Scenario(_TRAINED, ignored=_OF_RUNS),
    "evaluate": Scenario("evaluate --run run --full", (_TRAINED,), _OF_RUNS),
    "publish": Scenario(PUBLISH, (_TRAINED,)),
    "copy": Scenario("registry copy m@1 reg2 --registry reg", (_TRAINED, PUBLISH)),
    "pull": Scenario("registry pull m@1 --registry reg --out pulled", (_TRAINED, PUBLISH)),
    "alias": Scenario("registry alias m@1 good --registry reg", (_TRAINED, PUBLISH), "aliases/good/.*~"),
    "adapt": Scenario(_ADAPT, (_TRAINED, PUBLISH), "code_version"),
    "forecast": Scenario(
        "forecast --adapted ad --recording more/fish5.npz --registry reg --out f.csv --overwrite",
        (_TRAINED, PUBLISH, _ADAPT),
    ),
    "rivals": Scenario("study rivals --recording recs --out rivals", ignored=r"code_version|report\.md"),
    "publish-and-evaluate": Scenario(PUBLISH, (_TRAINED,), _OF_RUNS, "evaluate --run run --full"),
    "evaluate-and-publish": Scenario("evaluate --run run --full", (_TRAINED,), _OF_RUNS, PUBLISH),
    "publish-and-another": Scenario(
        PUBLISH, (_TRAINED, _OTHER_RUN), other="publish --run run2 --name m --registry reg"
    ),
    "publish-and-gc": Scenario(PUBLISH, (_TRAINED, PUBLISH, _forget_models), other=_GC),
    "copy-and-gc": Scenario(
        "registry copy m@1 reg --registry reg2",
        (_TRAINED, PUBLISH, "registry copy m@1 reg2 --registry reg", _forget_models),
        other=_GC,
    ),
    "alias-and-publish": Scenario(
        "registry alias m@1 good --registry reg",
        (_TRAINED, _OTHER_RUN, PUBLISH),
        "aliases/good/.*~",
        "publish --run run2 --name m --registry reg",
    ),
    "prepare-and-more": Scenario(
        "prepare --recording recs --out set --workers 0",
        other="prepare --recording more --out set --workers 0",
    ),
    "pretrain-and-other": Scenario(_TRAINED, ignored=_OF_RUNS, other=f"{_TRAINED} --seed 7 --model.width 8"),
    "pretrain-and-prepare": Scenario(
        f"pretrain --data set --out run {RUN}",
        ("prepare --recording recs --out set --workers 0",),
        _OF_RUNS,
        "prepare --recording more --out set --workers 0",
    ),
    "adapt-and-other": Scenario(
        _ADAPT, (_TRAINED, PUBLISH), "code_version", _ADAPT.replace("fish5", "fish6")
    ),
    "adapt-and-forecast": Scenario(
        _ADAPT,
        (_TRAINED, PUBLISH),
        "code_version",
        "forecast --adapted ad --recording more/fish5.npz --registry reg --out f.csv --overwrite",
    ),
    "rivals-and-other": Scenario(
        "study rivals --recording recs --out rivals",
        ignored=r"code_version|report\.md",
        other="study rivals --recording more --out rivals",
    ),
    "live": Scenario(_forecast_live, (_TRAINED, PUBLISH, _ADAPT), "^state/|^record/file$"),
}


def scenario_of(name: str) -> Scenario:
    """By its name; NAME@s3 is the same in a store."""
    name, _, place = name.partition("@")
    scenario = SCENARIOS[name]
    if not place:
        return scenario

    def there(command: Any) -> Any:
        return re.sub(r"(?<= )(set|run2?|reg2?)(?= |$)", rf"s3://{BUCKET}/{PREFIX}/\1", command)

    commands = {key: there(getattr(scenario, key)) for key in ("command", "other") if getattr(scenario, key)}
    return dataclasses.replace(
        scenario, **commands, before=tuple(there(each) for each in scenario.before), in_store=True
    )


class _Store:
    """The objects below PREFIX, each as a file."""

    def __init__(self) -> None:
        import botocore.session

        self._client = botocore.session.get_session().create_client("s3")

    def fetch(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for key in self._keys():
            path = folder / key.removeprefix(f"{PREFIX}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def fill(self, folder: Path) -> None:
        """It holds what the folder holds, which is removed."""
        for key in self._keys():
            self._client.delete_object(Bucket=BUCKET, Key=key)
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{PREFIX}/{path.relative_to(folder)}"
                self._client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        shutil.rmtree(folder, ignore_errors=True)

    def _keys(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{PREFIX}/")
        return [each["Key"] for page in pages for each in page.get("Contents", ())]


class _Injector:
    """Counts what a process does below a folder, or asks of a store, and brings a fault at one of these.

    Args:
        root: the folder; None for a store.
        fault: what comes; None to count alone.
        at: the number of the operation, from 1.
    """

    def __init__(self, root: Path | None, fault: Fault | None, at: int) -> None:
        self.root, self.fault, self.at = None if root is None else str(root), fault, at
        self.operations: list[str] = []
        self.is_on = self._is_busy = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on or self._is_busy or self.root is None or not (names := self._names(event, args)):
            return
        self._is_busy = True
        try:
            paths = [os.path.abspath(os.fsdecode(name)) for name in names]  # noqa: PTH100
        finally:
            self._is_busy = False
        kept = f"{self.root}/forecasts"
        if all(path != self.root and not path.startswith(f"{self.root}/") for path in paths) or any(
            path.startswith(kept) for path in paths
        ):
            return
        if self._meets(" ".join([event, *(path.removeprefix(self.root) for path in paths)])):
            self._bring(paths[0])

    def requested(self, name: str, place: str) -> bool:
        """A request to a store is to be sent; whether its answer is lost."""
        if not self.is_on or name.startswith(REQUESTS) == (self.fault == "unreadable"):
            return False
        if not self._meets(f"{name} {place}"):
            return False
        if self.fault in ("unreadable", "unwritable", "full"):
            from botocore.exceptions import ClientError

            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "as drilled"}}, name)
        if self.fault != "lost":
            self._bring(place)
        return True

    def _meets(self, operation: str) -> bool:
        self.operations.append(operation)
        number = len(self.operations)
        return number == self.at or (self.fault == "full" and number > self.at > 0)

    def _names(self, event: str, args: tuple[Any, ...]) -> list[Any]:
        named = [arg for arg in args if isinstance(arg, str | bytes | os.PathLike)]
        if event == "open":
            is_change = bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            named = [] if isinstance(args[0], int) else args[:1]  # a descriptor, then the mode
        elif event in CHANGES or event in LOOKS:
            is_change = event in CHANGES
        else:
            return []
        return named if is_change != (self.fault == "unreadable") else []

    def _bring(self, path: str) -> None:
        if self.fault in ("killed", "stopped"):
            os.kill(os.getpid(), signal.SIGKILL if self.fault == "killed" else signal.SIGSTOP)
        else:
            number = errno.ENOSPC if self.fault == "full" else errno.EIO
            raise OSError(number, os.strerror(number), path)


def _child(root: Path, command: str | Work, injector: _Injector, log: Path) -> None:
    """The process of a command; does not return."""
    status = 99
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(root)
        sys.addaudithook(injector)
        stat = os.stat

        def looked_at(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
            injector("stat", (path,))  # which is no event of Python's
            return stat(path, *args, **kwargs)

        if injector.root is None:
            _follow_requests(injector)
        elif injector.fault == "unreadable":
            os.stat = looked_at
        injector.is_on = True
        status = _done(command)
        injector.is_on = False
        log.with_suffix(".operations").write_text("\n".join(injector.operations))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _follow_requests(injector: _Injector) -> None:
    from aiobotocore.client import AioBaseClient
    from botocore.exceptions import ConnectionClosedError

    call = AioBaseClient._make_api_call

    async def called(client: Any, name: str, parameters: Mapping[str, Any]) -> Any:
        is_lost = injector.requested(name, str(parameters.get("Key") or parameters.get("Prefix")))
        answer = await call(client, name, parameters)
        if is_lost:
            raise ConnectionClosedError(endpoint_url="as drilled")
        return answer

    AioBaseClient._make_api_call = called


def _begin(
    root: Path,
    command: str | Work,
    log: Path,
    fault: Fault | None = None,
    at: int = 0,
    in_store: bool = False,
) -> int:
    process = os.fork()
    if process == 0:
        _child(root, command, _Injector(None if in_store else root, fault, at), log)
    return process


def _end(process: int, options: int = 0, limit_s: float = LIMIT_S) -> int | None:
    """The exit status of a process, less than 0 for a signal that ended it or, with WUNTRACED, stopped it;
    None where it has not ended in time."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG | options)
        if found:
            return -os.WSTOPSIG(status) if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def _done(command: str | Work) -> int:
    if not isinstance(command, str):
        return command()
    from forebrain.commands import main

    return main(shlex.split(command))


def observe(root: Path) -> Observed:
    """What lies in a folder: hashes of files, values of those that are JSON, frames of a live record; nothing
    of a killed command's, which is named so, nor who held a folder, which the next who does takes away."""
    found: Observed = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not path.is_file() or name.startswith(".") or re.search(r"\.partial|/probe-|/held-", name):
            continue
        if name == "record/file":
            found["frames"] = _frames(path)
        name, number = VOLATILE.sub("#", name), 1
        while name in found:
            name, number = f"{name.split('~')[0]}~{number}", number + 1
        data = path.read_bytes()
        found[name] = hashlib.sha256(data).hexdigest()
        if path.suffix == ".json":
            found[name] = ""
            found |= {f"{name}:{key}": value for key, value in _flat(json.loads(data))}
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in data.splitlines()]
            found |= {
                f"{name}:{row['kind']} {row['step']}": row.get("loss", row.get("score")) for row in rows
            }
    return found


def _frames(path: Path) -> list[str]:
    """Hashes of the frames of a live record, each once: a rig sends some again after a kill."""
    import forebrain as fb

    return sorted({hashlib.sha256(row.tobytes()).hexdigest() for row in fb.read(path).traces})


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _flat(item, f"{key}.{name}")
    else:
        yield key, value


def differences(before: Observed, after: Observed, but: Collection[str], ignored: str) -> list[str]:
    """Keys of what differs, but some."""
    return [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in but and not re.search(ignored, key)
    ]


def drill(scenario: Scenario, fault: Fault, folder: Path, every: int = 1) -> Iterator[str]:
    """Yields a line with how many operations there are, then one for each fault that shows.

    Args:
        folder: empty, for work.
        every: the first operation meets the fault, and each so many later.
    """
    root, begun, log, second = (folder / name for name in ("root", "begun", "log", "second"))
    os.environ |= {"HOME": str(root), "XDG_CACHE_HOME": str(root / ".cache")}
    root.mkdir()
    _save_recordings(root)
    store = _Store() if scenario.in_store else None
    for command in scenario.before:
        if _end(_begin(root, command, log)) != 0:
            raise RuntimeError(f"{command}: {log.read_text()}")
    if store is not None:
        store.fetch(root / "store")
    root.rename(begun)

    def run(fault: Fault | None = None, at: int = 0, command: str | Work = scenario.command) -> int:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(begun, root)
        if store is not None:
            store.fill(root / "store")
        return _begin(root, command, log, fault, at, scenario.in_store)

    def seen_now() -> Observed:
        if store is not None:
            store.fetch(root / "store")
        return observe(root)

    undisturbed, took_s = [], 0.0
    for _ in range(2):
        began = time.monotonic()
        # Counted as the fault would count, which never comes.
        if _end(run(fault, -1)) != 0:
            raise RuntimeError(f"{scenario.command}: {log.read_text()}")
        if scenario.other is not None:
            _end(_begin(root, scenario.other, second))
        undisturbed.append(seen_now())
        took_s = time.monotonic() - began
    varies = differences(*undisturbed, but=(), ignored="$^")
    operations = log.with_suffix(".operations").read_text().splitlines()
    if scenario.other is not None:
        _end(run(command=scenario.other))
        _end(_begin(root, scenario.command, log))
        undisturbed.append(seen_now())
    yield f"{len(operations)} operations"

    def differing() -> list[str]:
        found = seen_now()
        return min((differences(each, found, varies, scenario.ignored) for each in undisturbed), key=len)

    for at in range(1, len(operations) + 1, every):
        first, seen = run(fault, at), []
        if fault == "stopped":
            _end(first, os.WUNTRACED)
            other = _begin(root, scenario.other or scenario.command, second)
            other_status = _end(other, limit_s=2 * took_s + 1)
            os.kill(first, signal.SIGCONT)
            statuses = [_end(first), _end(other) if other_status is None else other_status]
        else:
            statuses = [_end(first)]
        if set(statuses) == {0} and "cannot be" not in log.read_text():
            seen += differing()
        again = _end(_begin(root, scenario.command, folder / "again"))
        if fault == "stopped" and scenario.other is not None:
            _end(_begin(root, scenario.other, folder / "again"))
        seen += differing()
        # A live state is written as often as its thread finds time to, so that the fault may never come.
        allowed = {"killed": (-signal.SIGKILL, 0), "lost": (0,)}.get(fault, (0, 1, 2))
        if seen or again not in (0, 1, 2) or any(each not in allowed for each in statuses):
            told = log.read_text()[-300:]
            yield f"{at}: {operations[at - 1]}: {statuses}, then {again}: {seen[:5]}: {told!r}"
        with contextlib.suppress(ProcessLookupError):  # of one that hangs
            os.killpg(first, signal.SIGKILL)


def _save_recordings(root: Path) -> None:
    for folder, numbers in (("recs", (0, 1)), ("more", (5, 6))):
        (root / folder).mkdir()
        for number in numbers:
            noise = np.random.default_rng(number).standard_normal((400, 12), dtype=np.float32)
            traces = noise.cumsum(axis=0) - 0.9 * np.roll(noise.cumsum(axis=0), 1, axis=0)
            facts = {
                "fs": 5.0,
                "species": "zebrafish",
                "subject": f"fish{number}",
                "session": "1",
                "source": "lab",
            }
            np.savez(root / folder / f"fish{number}.npz", traces=traces.astype(np.float32), **facts)


def _import_all() -> None:
    """Once, for all that are forked."""
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in (
        "prepare",
        "pretrain",
        "evaluate",
        "publish",
        "adapt",
        "forecast",
        "registry",
        "study.rivals",
    ):
        importlib.import_module(f"forebrain.commands.{name}")
    from forebrain import plotting

    plotting._STYLE.update({"figure.dpi": 30, "figure.constrained_layout.use": False})


def main(name: str, fault: Fault, every: str = "1") -> int:
    _import_all()
    with tempfile.TemporaryDirectory() as folder:
        number, *shown = drill(scenario_of(name), fault, Path(folder).resolve(), int(every))
    print(f"{name}, {fault}: {number}", *shown, sep="\n")
    return int(bool(shown))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))  # type: ignore[arg-type]
