"""Versions of what results depend on."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import forebrain

_PACKAGES = ("forebrain", "torch", "ray", "deepspeed", "webdataset", "numpy", "safetensors")


@functools.cache
def _installed() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"code": _hash_of_code()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed, by name; `code` is a hash of forebrain's own
    modules, since its version is the same from one release to the next."""
    return dict(_installed())


@functools.cache
def code_version() -> str:
    """The version of forebrain, the hash of its modules, and the commit that they are of where they lie in a
    checkout of their own. As it was when this was first asked: files may change under a process."""
    known = versions()
    version = f"forebrain {known.get('forebrain', 'of no known version')}, code {known['code']}"
    package = Path(forebrain.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(package), *arguments], capture_output=True)
        return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""

    try:
        # Installed into another project's checkout, the commit would be that project's.
        if not git("ls-files", "__init__.py"):
            return version
        changed = " with changes" if git("status", "--porcelain", "--untracked-files=no", ".") else ""
        return f"{version}, commit {git('log', '-1', '--format=%H', '.')}{changed}"
    except OSError:
        return version


def _hash_of_code() -> str:
    package = Path(forebrain.__file__).parent
    found = hashlib.sha256()
    for path in sorted(package.rglob("[!.]*.py")):
        if not path.is_file():
            continue
        found.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]
