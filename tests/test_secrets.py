"""Secrets come from the environment, and stay there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import s3fs
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

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
    home, scratch, model = (tmp_path / name for name in ("home", "scratch", "model"))
    for folder in (home, scratch, model):
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
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    (weights,) = files.glob(f"{out.removeprefix('s3://')}/checkpoints/*/backbone.safetensors")
    (model / "model.safetensors").write_bytes(files.cat_file(weights))
    (model / "metadata.json").write_text(
        json.dumps({"licence": "CC0-1.0", "config": {}, "preprocessing": {}})
    )
    assert call("-m", "forebrain_registry.cli", "publish", "worms", str(model)) == 0, said[-1].decode()
    # Wrong credentials are an error, which does not show them.
    assert call(*train, AWS_SECRET_ACCESS_KEY=f"{CANARY}-wrong") == 1
    assert call("-m", "forebrain.cli", "doctor", "--storage", out) == 0

    written = {
        name: files.cat_file(name) for name in files.find(f"{s3_bucket.removeprefix('s3://')}/secrets")
    }
    assert any(name.endswith("result.json") for name in written)
    assert any("/versions/" in name for name in written)
    left = [path for folder in (home, scratch) for path in folder.rglob("*") if path.is_file()]
    everything = written | {str(path): path.read_bytes() for path in left} | dict(enumerate(said))
    secrets = [CANARY, os.environ["AWS_SECRET_ACCESS_KEY"]]
    assert [name for name, data in everything.items() for secret in secrets if secret.encode() in data] == []


def test_the_repository_holds_no_secret() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    detectors = [each.__name__ for each in get_mapping_from_secret_type_to_class().values()]
    # Hashes of files are as random as keys, an address is no secret, and neither is the word.
    others = ("Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector", "KeywordDetector")
    used = [{"name": name} for name in detectors if name not in others]
    with transient_settings({"plugins_used": used}):
        found = [
            f"{name}:{secret.line_number}: {secret.type}"
            for name in listed.stdout.splitlines()
            if (ROOT / name).is_file()
            for secret in scan_file(str(ROOT / name))
        ]
    assert found == [], "not a secret? End the line with `pragma: allowlist secret`"


def test_a_secret_in_the_repository_would_be_found(tmp_path: Path) -> None:
    key = "-----BEGIN RSA " + "PRIVATE KEY-----\n"
    (tmp_path / "one.py").write_text(f'AWS = "AKIA{"Q" * 16}"\n')
    (tmp_path / "two.pem").write_text(key)
    with transient_settings({"plugins_used": [{"name": "AWSKeyDetector"}, {"name": "PrivateKeyDetector"}]}):
        for path in tmp_path.iterdir():
            assert list(scan_file(str(path)))
