"""What `ray job submit --working-dir .` uploads, as Ray itself packs it."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What lies about in a checkout in use.
LITTER = (
    ".venv/lib/big.so", ".venv-audit/bin/pip", "runs/first/result.json", "data/one.npz", ".env",
    "forebrain-17.log", "platform/forebrain/__pycache__/cli.pyc", "forebrain.egg-info/PKG-INFO",
    "dist/forebrain.whl", ".mypy_cache/x.json", ".pytest_cache/x", ".ruff_cache/x", ".hypothesis/x",
)  # fmt: skip


def test_the_code_travels_and_nothing_else_does(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    checkout = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    code = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    for name in code:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    for name in LITTER:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"x" * 100_000)
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True)
    names = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
    assert names == {name for name in code if not name.startswith(("docs/", "tests/"))}
    assert package.stat().st_size < 7.5e6  # 5e6 of them at most are backbones
