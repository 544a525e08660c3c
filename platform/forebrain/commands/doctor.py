"""Looks at this machine, the packages, and the storage and cluster that are named.

Says what is here, and what is missing for which job. The exit status is 1 if something that was asked
about does not work.
"""

# Works with the core packages alone: what is not installed is a finding and not an error, and Ray and torch
# are imported only where they are.

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from rich.console import Console

from forebrain.errors import ConfigError, StorageError
from forebrain.machine import SOCKET_PATH_BYTES, asked_threads, num_cores, takes_sockets
from forebrain.ray_runtime import has_home, quiet_ray, unreachable
from forebrain_registry.lines import one_line
from forebrain_registry.pulling import default_cache
from forebrain_registry.storage import Folder

Area = Literal["machine", "packages", "cluster", "storage", "jobs"]
# ok: as it should be. note: worth knowing. missing: some jobs cannot run. wrong: what was asked about fails.
Verdict = Literal["ok", "note", "missing", "wrong"]

# Jobs, and the packages each needs besides the core's.
JOBS = {
    "forebrain inspect, on every format": (
        "h5py",
        "openpyxl",
        "pandas",
        "pyarrow",
        "pynwb",
        "scipy",
        "xarray",
        "zarr",
    ),
    "forebrain prepare": ("ray",),
    "forebrain prepare --workers 0": (),
    "forebrain pretrain": ("ray",),
    "forebrain pretrain --workers 0": (),
    "forebrain pretrain --training.strategy zero1, zero2, zero3": ("ray", "deepspeed"),
    "forebrain study ablate, study scale": ("ray",),
    "forebrain adapt, forebrain forecast": (),
    "forebrain live, over ZeroMQ": ("msgpack", "pyzmq"),
    "forebrain live, over the Lab Streaming Layer": ("pylsl",),
    "forebrain registry sign, verify of signatures": ("model-signing",),
    "pictures of a run": ("matplotlib",),
    "TensorBoard of a run": ("tensorboard",),
    "s3:// addresses": ("s3fs",),
    "gs:// addresses": ("gcsfs",),
}
GIB = 2**30
LEAST_SHM_BYTES = 2 * GIB
LEAST_OPEN_FILES = 4096  # of Ray's processes
FEW_OPEN_FILES = 256  # a set of shards keeps a quarter of them open
LITTLE_BYTES = 10 * GIB

_SET_CACHE = "Set FOREBRAIN_CACHE to a folder on a disk with room."


@dataclass(frozen=True)
class Config:
    """The places to look at besides this machine.

    Attributes:
        storage: where runs, shards or models are to lie; a small file is written there, read and removed.
        cluster: host:port of a Ray cluster's head, or http://host:port, where jobs are submitted. None:
            RAY_ADDRESS.
        json: print JSON.
    """

    storage: list[str] = field(default_factory=list)
    cluster: str | None = None
    json: bool = False


def run(config: Config, console: Console) -> int:
    """Says one thing after the other as it is found."""
    findings, area = [], ""
    for finding in examine(config.storage, config.cluster or os.environ.get("RAY_ADDRESS")):
        findings.append(finding)
        if config.json:
            continue
        if finding.area != area:
            area = finding.area
            print(area)
        print(f"  {finding.verdict:8}{one_line(finding.text)}", flush=True)
        if finding.mend:
            print(f"          -> {one_line(finding.mend)}")
    if config.json:
        print(json.dumps(as_json(findings), indent=1))
    return 0 if is_well(findings) else 1


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: what it belongs to.
        verdict: how it is.
        text: what was found, in plain words.
        mend: what to do about it; empty where nothing needs doing.
    """

    area: Area
    verdict: Verdict
    text: str
    mend: str = ""


def examine(storage: Sequence[str] = (), cluster: str | None = None) -> Iterator[Finding]:
    """Looks at everything, and says one thing after the other as it is found.

    Args:
        storage: addresses that runs, shards or models are to lie at. A small file is written to each, read
            and removed again.
        cluster: a Ray cluster: `host:port` of its head, or the http address that jobs are submitted to.
    """
    yield from _machine()
    yield from _packages()
    yield from _cluster(cluster)
    for uri in storage:
        yield from _storage(uri)
    yield from _jobs()


def _machine() -> Iterator[Finding]:
    total, free = _memory_bytes()
    memory = f"{total / GIB:.1f} GiB of memory ({free / GIB:.1f} free)" if total else "memory not known"
    python = f"{platform.system()}, Python {platform.python_version()}"
    yield Finding("machine", "ok", f"{_cores()}, {memory}, {python}")
    yield from _gpus()
    yield from _scratch()
    yield _cache()
    yield from _limits()


def _cores() -> str:
    """The cores, in words: as many as may be used, of as many as there are."""
    cores, there, threads = num_cores(), os.cpu_count() or 1, asked_threads()
    words = f"{cores} cores" if cores == there else f"{cores} of {there} cores may be used"
    return words if threads is None else f"{words}, OMP_NUM_THREADS={threads}"


def _scratch() -> Iterator[Finding]:
    """Findings about the folder of temporary files."""
    try:
        scratch = tempfile.gettempdir()
        free = shutil.disk_usage(scratch).free
    except OSError as error:
        yield Finding(
            "machine",
            "missing",
            f"no folder for temporary files can be written to ({error.strerror or error})",
            "Make one that can be, and set TMPDIR to it.",
        )
        return
    little = free < LITTLE_BYTES
    yield Finding(
        "machine",
        "note" if little else "ok",
        f"{free / GIB:.0f} GiB free in {scratch}, for temporary files",
        "Ray and downloads fill it; point TMPDIR at a larger disk." if little else "",
    )
    if not takes_sockets(scratch):
        yield Finding(
            "machine",
            "note",
            f"the path of TMPDIR has {len(os.fsencode(scratch))} bytes, too many for a socket in it "
            f"({SOCKET_PATH_BYTES} in all)",
            "Point TMPDIR at a folder with a short path.",
        )


def _cache() -> Finding:
    """Whether what is downloaded can be kept."""
    try:
        cache = default_cache()
        above = next(each for each in (cache, *cache.parents) if each.exists())
        can_be_kept = os.access(above, os.W_OK | os.X_OK)
        free = shutil.disk_usage(above).free
    except (OSError, StorageError) as error:  # a user without a home
        return Finding("machine", "note", f"nothing downloaded can be kept ({error})", _SET_CACHE)
    if not can_be_kept:
        return Finding(
            "machine", "note", f"nothing downloaded can be kept: {above} cannot be written to", _SET_CACHE
        )
    little = free < LITTLE_BYTES
    return Finding(
        "machine",
        "note" if little else "ok",
        f"{free / GIB:.0f} GiB free in {cache.parent}, for what is downloaded",
        _SET_CACHE if little else "",
    )


def _gpus() -> Iterator[Finding]:
    if not _has("torch"):
        return
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(number)
            yield Finding(
                "machine",
                "ok",
                f"GPU {number}: {gpu.name}, {gpu.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}",
            )
    elif Path("/dev/nvidia0").exists():
        why = "was built without CUDA" if torch.version.cuda is None else "cannot use it"
        yield Finding(
            "machine",
            "missing",
            f"a GPU is here, and torch {torch.__version__} {why}: training would run on the CPU",
            "Install a build of torch for CUDA, and a driver that is new enough for it (nvidia-smi tells).",
        )
    else:
        yield Finding("machine", "note", "no GPU: training on this machine runs on its cores")


def _limits() -> Iterator[Finding]:
    """Findings about what Ray suffers from when there is too little, and open files, which all need."""
    shm = Path("/dev/shm")
    if _has("ray") and shm.is_dir() and (size := shutil.disk_usage(shm).total) < LEAST_SHM_BYTES:
        yield Finding(
            "machine",
            "note",
            f"/dev/shm holds {size / GIB:.2f} GiB: Ray then keeps objects on the disk, which is slow",
            "In a container, mount a memory volume there (docker run --shm-size=4g).",
        )
    with contextlib.suppress(ImportError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = resource.RLIM_INFINITY
        if soft != unlimited and soft < (LEAST_OPEN_FILES if _has("ray") else FEW_OPEN_FILES):
            at_most = "as many as are asked for" if hard == unlimited else f"at most {hard}"
            why = "Ray wants thousands" if _has("ray") else "many shards are then opened again and again"
            yield Finding(
                "machine",
                "note",
                f"a process may open {soft} files ({at_most}); {why}",
                f"ulimit -n {65536 if hard == unlimited else min(65536, hard)}",
            )


def _packages() -> Iterator[Finding]:
    try:
        project = importlib.metadata.metadata("forebrain")
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "packages",
            "note",
            "forebrain runs from a folder and is not installed, so what it requires is not known here",
            "pip install --no-deps --no-build-isolation -e .",
        )
        return
    declared = project.get_all("Requires-Dist") or []
    # Only developers need what tests need.
    extras = set(project.get_all("Provides-Extra") or []) - {"test"}
    for extra in ("", *sorted(extras)):
        name, here = (f"forebrain[{extra}]", f".[{extra}]") if extra else ("forebrain", ".")
        lacking = [problem for text in declared if (problem := _unmet(Requirement(text), extra)) is not None]
        if not lacking:
            yield Finding("packages", "ok", f"all that {name} requires")
        else:
            yield Finding(
                "packages",
                "missing" if extra else "wrong",
                f"{name}: {', '.join(lacking)}",
                f"in the repository: pip install '{here}', or as tested: pip install -r requirements.lock",
            )


def _unmet(requirement: Requirement, extra: str) -> str | None:
    """The fault of a requirement of the core (extra "") or of one extra; None if there is none."""
    marker = requirement.marker
    is_core = marker is None or marker.evaluate({"extra": ""})
    if is_core != (extra == "") or (marker is not None and not marker.evaluate({"extra": extra})):
        return None
    version = _version(requirement.name)
    if version is None:
        return f"{requirement.name} is missing"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, expected {requirement.specifier}"
    return None


def _cluster(address: str | None) -> Iterator[Finding]:
    version = _version("ray") if _has("ray") else None
    if version is None:
        verdict: Verdict = "missing" if address is None else "wrong"
        yield Finding(
            "cluster",
            verdict,
            "Ray is not installed: no cluster can be used",
            "in the repository: pip install '.[cluster]'",
        )
        return
    if not has_home():
        yield Finding(
            "cluster", "wrong", "this user has no home folder, which Ray asks for", "Set HOME to a folder."
        )
        return
    if address is None:
        yield Finding(
            "cluster",
            "ok",
            f"Ray {version}; no cluster is named (--cluster, RAY_ADDRESS), so jobs start one on this machine",
        )
        return
    if unreached := unreachable(address):
        yield Finding(
            "cluster",
            "wrong",
            f"{address}: {unreached}",
            "Check the address, that the cluster runs, and the way to it: a tunnel to the dashboard's port, "
            "or the head's port within the cluster's network.",
        )
        return
    try:
        found = _submission(address) if address.startswith("http") else _nodes(address)
    except Exception as error:  # of many families, and every one means that the cluster cannot be used
        yield Finding(
            "cluster",
            "wrong",
            f"{address}: {' '.join(str(error).split())[:300]}",
            "With token authentication, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as the cluster has it; "
            "Ray and Python must be of the cluster's versions.",
        )
        return
    yield from found


def _submission(address: str) -> list[Finding]:
    """Findings about the address that jobs are submitted to."""
    from ray.job_submission import JobSubmissionClient

    JobSubmissionClient(address)  # asks the cluster for its version, with the token
    return [Finding("cluster", "ok", f"{address}: takes jobs")]


def _nodes(address: str) -> list[Finding]:
    """Findings about a cluster that this process joins."""
    quiet_ray()
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        resources = ray.cluster_resources()
    finally:
        if not was_connected:
            ray.shutdown()
    cores, gpus = (int(resources.get(name, 0)) for name in ("CPU", "GPU"))
    text = (
        f"{address}: {len(nodes)} nodes, {cores} cores, {gpus} GPUs, "
        f"{resources.get('memory', 0) / GIB:.0f} GiB of memory for work"
    )
    if not cores:
        text += "; a cluster that grows starts machines when a job asks for them"
    return [Finding("cluster", "ok", text)]


def _storage(uri: str) -> Iterator[Finding]:
    """Writes, reads and removes a small file, and tries whether a second one of its name is refused."""
    if uri.startswith(("http://", "https://")):
        yield Finding("storage", "note", f"{uri}: a web host, from which models are pulled and nothing else")
        return
    name = f"forebrain-doctor-{uuid.uuid4().hex}"
    try:
        folder = Folder(uri)
        existed = not folder.is_local or folder.local_path("").exists()
        began = time.perf_counter()
        folder.write(name, b"one")
        wrote = time.perf_counter()
        intact = folder.read(name) == b"one" and folder.read_range(name, 1, 3) == b"ne"
        read = time.perf_counter()
        listed = name in folder.names()
        folder.remove(name)
        refused = folder.refuses_second()
        has_links = not folder.is_local or folder.has_hard_links()
        if not existed:
            folder.remove_if_empty()
    except (ConfigError, StorageError, OSError) as error:
        yield Finding("storage", "wrong", str(error), "Nothing can be kept there until this works.")
        return
    if not (intact and listed):
        yield Finding(
            "storage",
            "wrong",
            f"{folder.uri}: what was written is not what is read or listed",
            "Use another store.",
        )
        return
    yield Finding(
        "storage",
        "ok",
        f"{folder.uri}: can be written, read and listed; a small file takes "
        f"{1e3 * (wrote - began):.0f} ms to write, {500 * (read - wrote):.0f} ms to read",
    )
    if refused:
        yield Finding("storage", "ok", f"{folder.uri}: honours conditional writes")
    else:
        yield Finding(
            "storage",
            "wrong",
            f"{folder.uri}: ignores conditional writes (If-None-Match), so two writers overwrite each other: "
            "not for the model registry, and two drivers on one run could lose a checkpoint",
            "Use a folder, AWS S3, SeaweedFS, MinIO or another store that honours them.",
        )
    if folder.is_local:
        yield from _disk(folder, has_links)


def _disk(folder: Folder, has_links: bool) -> Iterator[Finding]:
    """Findings about the disk that a folder lies on."""
    root = folder.local_path("")
    usage = shutil.disk_usage(next(each for each in (root, *root.parents) if each.exists()))
    little = bool(usage.total) and usage.free < LITTLE_BYTES
    room = f"{usage.free / GIB:.0f} of {usage.total / GIB:.0f} GiB free"
    yield Finding(
        "storage",
        "note" if little else "ok",
        f"{folder.uri}: {room if usage.total else 'its disk does not tell how much is free'}",
        "A run keeps three checkpoints, and shards as large as its recordings." if little else "",
    )
    if not has_links:
        yield Finding(
            "storage",
            "note",
            f"{folder.uri}: the disk has no hard links, so writers of one machine are kept apart, and those "
            "of several are not",
            "Let one machine at a time write there, or use another disk or an object store.",
        )


def _jobs() -> Iterator[Finding]:
    for job, packages in JOBS.items():
        lacking = [package for package in packages if not _has(package)]
        if lacking:
            yield Finding(
                "jobs", "missing", f"{job}: without {', '.join(lacking)}", f"pip install {' '.join(lacking)}"
            )
        else:
            yield Finding("jobs", "ok", job)


def _has(package: str) -> bool:
    return _version(package) is not None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> tuple[int, int]:
    """Memory in all and free: the machine's, or the container's where that is less; 0 where nobody says."""
    known = getattr(os, "sysconf_names", {})
    page = os.sysconf("SC_PAGE_SIZE") if "SC_PAGE_SIZE" in known else 0
    total = page * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in known else 0
    free = total
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    limit, used = (_cgroup_bytes(name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None and limit < total:
        total, free = limit, min(free, limit - used)
    return total, free


def _cgroup_bytes(name: str) -> int | None:
    try:
        return int(Path("/sys/fs/cgroup", name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings by area, and whether what was asked about works."""
    areas: dict[str, list[dict[str, str]]] = {}
    for finding in findings:
        row = {"verdict": finding.verdict, "text": finding.text, "mend": finding.mend}
        areas.setdefault(finding.area, []).append(row)
    return {"works": is_well(findings), **areas}


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing that was asked about fails; packages of extras may be missing."""
    return not any(finding.verdict == "wrong" for finding in findings)
