"""Signatures by a key: right, wrong, missing, forged, copied."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_storm import metadata, weights

from forebrain_registry import (
    InvalidError,
    NotFoundError,
    Registry,
    RegistryError,
    Version,
    cli,
    copy,
    publish,
    pull,
    verifying,
)
from forebrain_registry.signing import Signer, Verifier, sign, verify_signature

pytest.importorskip("model_signing")


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, tuple[Signer, Verifier]]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = {}
    for who in ("lab", "stranger"):
        key = ec.generate_private_key(ec.SECP256R1())
        private, public = tmp_path / f"{who}.pem", tmp_path / f"{who}.pub"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        made[who] = Signer(private), Verifier(public)
    return made


def test_a_signature_holds_for_one_version_and_one_signer(registry: Registry, keys, tmp_path: Path) -> None:
    (lab, of_lab), (stranger, of_stranger) = keys["lab"], keys["stranger"]
    for seed in (1, 2):
        publish(registry, "worm", {"model.safetensors": weights(seed)}, metadata())
    with pytest.raises(NotFoundError, match="nobody signed"):
        verify_signature(registry, "worm@1", of_lab)
    sign(registry, "worm@1", lab)
    assert verify_signature(registry, "worm@1", of_lab).number == 1
    with pytest.raises(RegistryError, match="none of its 1 signatures is the wanted one"):
        verify_signature(registry, "worm@1", of_stranger)
    # The lab's signature of version 1, laid beside version 2, is not one of version 2.
    registry.add_signature(registry.resolve("worm@2"), registry.signatures(registry.resolve("worm@1"))[0])
    with pytest.raises(RegistryError, match="Signature mismatch"):
        verify_signature(registry, "worm@2", of_lab)
    registry.add_signature(registry.resolve("worm@2"), b'{"verificationMaterial": {}}')
    sign(registry, "worm@2", stranger)
    assert verify_signature(registry, "worm@2", of_stranger).number == 2

    other = Registry(tmp_path / "other")
    assert copy(registry, "worm@2", other).number == 1
    assert verify_signature(other, "worm@1", of_stranger).number == 1
    assert len(registry.signatures(registry.resolve("worm@2"))) == 3


def test_a_signature_that_leaves_files_out_is_none(registry: Registry, keys, tmp_path: Path) -> None:
    import model_signing

    lab, of_lab = keys["lab"]
    for seed in (1, 2):
        publish(registry, "worm", {"model.safetensors": weights(seed), "config.json": b"{}"}, metadata())
    folder = pull(registry, "worm@1", cache=tmp_path / "cache").folder
    others = [path.name for path in folder.iterdir() if path.name != "config.json"]
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=lab.private_key)
    config.set_hashing_config(model_signing.hashing.Config().set_ignored_paths(paths=others)).sign(
        folder, tmp_path / "bundle.json"
    )
    # All that it covers is the same in version 2 as it is in version 1.
    registry.add_signature(registry.resolve("worm@2"), (tmp_path / "bundle.json").read_bytes())
    with pytest.raises(RegistryError, match=r"leaves out version\.json"):
        verify_signature(registry, "worm@2", of_lab)


def test_an_alias_that_moves_while_it_is_verified_is_one_version(
    registry: Registry, keys, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, of_lab = keys["lab"]
    for number in (1, 2):
        publish(registry, "worm", {"model.safetensors": weights(number)}, metadata())
        sign(registry, f"worm@{number}", lab)
    registry.set_alias("worm", "champion", 1)

    def before_a_move(own: Registry, version: Version) -> verifying.Findings:
        own.set_alias("worm", "champion", 2)
        return verifying.verify_version(own, version)

    monkeypatch.setattr(cli, "verify_version", before_a_move)
    command = ["verify", "worm@champion", "--public-key", str(of_lab.public_key), "--registry", registry.uri]
    assert cli.main(command) == 0
    assert registry.resolve("worm@1").digest in capsys.readouterr().out


def test_a_key_that_is_none_is_a_clear_error(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "worm", {"model.safetensors": weights(1)}, metadata())
    (tmp_path / "key").write_text("not a key")
    with pytest.raises(InvalidError, match="cannot be signed"):
        sign(registry, "worm", Signer(tmp_path / "key"))
    assert registry.signatures(registry.resolve("worm")) == []
