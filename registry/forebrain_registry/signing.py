"""Signatures over versions, made and checked by the OpenSSF library model-signing (extra `sign`).

What is signed is the pulled folder: version.json, which holds the hashes of everything else, and every file
of the model. Signatures lie beside the version and are copied with it.
"""

from __future__ import annotations

import base64
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebrain_registry import strict_json
from forebrain_registry.errors import InvalidError, NotFoundError, RegistryError
from forebrain_registry.pulling import Pulled, pull
from forebrain_registry.records import RECORD, Version
from forebrain_registry.registry import Registry
from forebrain_registry.storage import path_here


@dataclass(frozen=True)
class Signer:
    """Who signs: a private key, or with none the Sigstore identity of whoever is logged in.

    Attributes:
        private_key: PEM file of an elliptic curve key (P-256, P-384 or P-521).
        password: of the key, where it has one.
        identity_token: an OpenID Connect token for Sigstore; without it and a key a browser is opened.
    """

    private_key: str | os.PathLike[str] | None = None
    password: str | None = None
    identity_token: str | None = None


@dataclass(frozen=True)
class Verifier:
    """Whose signature is wanted: that of a public key, or of a Sigstore identity.

    Attributes:
        public_key: PEM file.
        identity, issuer: for example "lab@example.org" and "https://accounts.google.com".
    """

    public_key: str | os.PathLike[str] | None = None
    identity: str | None = None
    issuer: str | None = None


def sign(
    registry: Registry, reference: str, signer: Signer, cache: str | os.PathLike[str] | None = None
) -> Version:
    """Signs a version as it lies in the registry, every byte checked, and stores the signature beside it.

    Raises:
        InvalidError: the key cannot be used, or the extra `sign` is not installed.
        RegistryError: the version cannot be pulled, or the signature not stored.
    """
    library = _library()
    registry.writer()
    version, pulled = _pulled(registry, reference, cache)
    config = library.signing.Config()
    with tempfile.TemporaryDirectory(prefix="forebrain-registry-") as scratch:
        bundle = Path(scratch) / "bundle.json"
        try:
            if signer.private_key is not None:
                key = path_here(signer.private_key)
                config.use_elliptic_key_signer(private_key=key, password=signer.password)
            else:
                config.use_sigstore_signer(identity_token=signer.identity_token)
            config.set_hashing_config(_hashing(library)).sign(pulled.folder, bundle)
        except Exception as error:
            # The library raises its dependencies' errors: ValueError, OSError, cryptography's, Sigstore's.
            raise InvalidError(f"{reference}: cannot be signed: {type(error).__name__}: {error}.") from error
        registry.add_signature(version, bundle.read_bytes())
    return version


def verify_signature(
    registry: Registry, reference: str, verifier: Verifier, cache: str | os.PathLike[str] | None = None
) -> Version:
    """Checks that a wanted signer signed exactly this version, one good signature being enough.

    Raises:
        InvalidError: it is not said whose signature is wanted, or the key cannot be used.
        NotFoundError: nobody signed it.
        RegistryError: no signature is the wanted signer's over these bytes.
    """
    library = _library()
    _configured(library, verifier)
    version, pulled = _pulled(registry, reference, cache)
    bundles = registry.signatures(version)
    if not bundles:
        raise NotFoundError(f"{version}: nobody signed it.")
    reasons = []
    with tempfile.TemporaryDirectory(prefix="forebrain-registry-") as scratch:
        for bundle in bundles:
            path = Path(scratch) / "bundle.json"
            path.write_bytes(bundle)
            try:
                _configured(library, verifier).set_hashing_config(_hashing(library)).verify(
                    pulled.folder, path
                )
                _require_record(bundle)
            except Exception as error:
                # A bundle is untrusted input to a library that raises whatever its parsers raise.
                reasons.append(f"{type(error).__name__}: {error}")
            else:
                return version
    raise RegistryError(
        f"{version}: none of its {len(bundles)} signatures is the wanted one ({'; '.join(reasons):.500}). "
        "Do not use it unless you trust where it came from."
    )


def _pulled(
    registry: Registry, reference: str, cache: str | os.PathLike[str] | None
) -> tuple[Version, Pulled]:
    version = registry.resolve(reference)
    return version, pull(registry, f"{version.name}@sha256:{version.digest}", cache=cache)


def _configured(library: Any, verifier: Verifier) -> Any:
    config = library.verifying.Config()
    wanted = [given is not None for given in (verifier.public_key, verifier.identity, verifier.issuer)]
    if wanted not in ([True, False, False], [False, True, True]):
        raise InvalidError("give a public key, or a Sigstore identity and its issuer, but not both.")
    if verifier.public_key is not None:
        try:
            return config.use_elliptic_key_verifier(public_key=path_here(verifier.public_key))
        except (OSError, ValueError) as error:
            raise InvalidError(f"{verifier.public_key}: cannot be used as a public key ({error}).") from error
    return config.use_sigstore_verifier(identity=verifier.identity, oidc_issuer=verifier.issuer)


def _hashing(library: Any) -> Any:
    """How files are hashed is ours to say, not the bundle's."""
    return library.hashing.Config().use_file_serialization(hashing_algorithm="sha256")


def _require_record(bundle: bytes) -> None:
    """Raises ValueError if a signature does not cover the record, which holds the hash of every other file.

    The library leaves out whatever a bundle says is to be left out, however it is told to hash.
    """
    envelope = strict_json.parse(bundle, "signature")["dsseEnvelope"]
    statement = strict_json.parse(base64.b64decode(envelope["payload"]), "signature")
    if RECORD not in [resource["name"] for resource in statement["predicate"]["resources"]]:
        raise ValueError(f"it leaves out {RECORD}")


def _library() -> Any:
    try:
        import model_signing
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise InvalidError(
            f"signatures need a library ({error}): pip install model-signing pyOpenSSL."
        ) from error
    return model_signing
