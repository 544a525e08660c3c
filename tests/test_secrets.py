"""Secrets come from the environment, and stay there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import s3fs
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector

from forebrain.sessions.session import Session

ROOT = Path(__file__).parent.parent
CANARY = "canary-that-must-not-sing"
TINY = [
    "--workers", "0", "--model.width", "16", "--model.num_heads", "2", "--model.head_width", "16",
    "--model.film_width", "32", "--training.batch_size", "8", "--training.steps", "2",
    "--training.validate_every", "2", "--evaluation.windows_per_session", "4",
]  # fmt: skip


def test_nothing_that_a_run_or_a_publication_writes_or_says_holds_a_secret(
    s3_bucket: str, tmp_path: Path, walk: Callable[..., Session]
) -> None:
    walk(1).save(tmp_path / "one.npz")
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    for folder in (home, scratch):
        folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'registry'}",
        "HOME": str(home), "TMPDIR": str(scratch), "FOREBRAIN_CACHE": str(home / "cache"),
        "RAY_AUTH_TOKEN": CANARY, "HF_TOKEN": CANARY,
        "FOREBRAIN_REGISTRY": f"{s3_bucket}/secrets/registry",
    }  # fmt: skip
    said = []

    def call(*arguments: str, **changed: str) -> int:
        done = subprocess.run(
            [sys.executable, *arguments], env={**environment, **changed}, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        said.append(done.stdout)
        return done.returncode

    out = f"{s3_bucket}/secrets/run"
    train = ["jobs/pretrain.py", "--data", str(tmp_path / "one.npz"), "--out", out, *TINY]
    assert call(*train) == 0, said[-1].decode()
    assert call("jobs/publish.py", "--run", out, "--name", "worms") == 0, said[-1].decode()
    # Wrong credentials are an error, which does not show them.
    examine = ["-m", "forebrain", "doctor", "--storage", out]
    assert call(*examine, AWS_SECRET_ACCESS_KEY=f"{CANARY}-wrong") == 1

    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    written = {
        name: files.cat_file(name) for name in files.find(f"{s3_bucket.removeprefix('s3://')}/secrets")
    }
    assert any(name.endswith("result.json") for name in written)
    assert any("/versions/" in name for name in written)
    left = [path for folder in (home, scratch) for path in folder.rglob("*") if path.is_file()]
    everything = written | {str(path): path.read_bytes() for path in left} | dict(enumerate(said))
    secrets = [CANARY, os.environ["AWS_SECRET_ACCESS_KEY"]]
    assert [name for name, data in everything.items() for secret in secrets if secret.encode() in data] == []


def secrets_in(text: str) -> list[str]:
    """Kinds of secrets that a text holds, by the patterns of detect-secrets; an address is none."""
    detectors = [
        detector()
        for detector in get_mapping_from_secret_type_to_class().values()
        if issubclass(detector, RegexBasedDetector) and detector.__name__ != "IPPublicDetector"
    ]
    # Its own scan goes line by line, which takes six seconds here.
    return [
        detector.secret_type
        for detector in detectors
        if any(pattern.search(text) for pattern in detector.denylist)
    ]


def test_the_repository_holds_no_secret() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    found = {
        str(path): kinds
        for path in paths
        if path.is_file() and (kinds := secrets_in(path.read_text(errors="replace")))
    }
    assert found == {}


def test_a_secret_in_the_repository_would_be_found() -> None:
    assert secrets_in(f'AWS = "AKIA{"Q" * 16}"') == ["AWS Access Key"]
    assert secrets_in("-----BEGIN RSA " + "PRIVATE KEY-----\n") == ["Private Key"]
    assert secrets_in("password = os.environ['PASSWORD']") == []
