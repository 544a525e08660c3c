"""Where a backbone is from: a version in a registry, or a run; and the hash that its weights are known by."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import safetensors.torch
from torch import nn

from forebrain.adaptation.shipped import SHIPPED, shipped_models
from forebrain.errors import AdaptationError
from forebrain_registry import NotFoundError, Pulled, Registry, RegistryError, StorageError, Version, pull
from forebrain_registry.lines import one_line
from forebrain_registry.registry import places_of
from forebrain_registry.storage import path_here

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Where a backbone is from.

    Attributes:
        reference: `name@number` of a published version, or the address of a run folder.
        weights_sha256: of its weights as one safetensors file.
        digest: of the published version; None of a run's.
        registry: address of the registry it was pulled from; None of a run's.
    """

    reference: str
    weights_sha256: str
    digest: str | None = None
    registry: str | None = None

    @property
    def pinned(self) -> str:
        """A reference that means the same wherever it is used and whatever is published meanwhile."""
        if self.digest is None:
            return self.reference
        return f"{self.reference.partition('@')[0]}@sha256:{self.digest}"

    @property
    def named(self) -> str:
        """For people: `name@number sha256:...`, or the run's address and the hash of its weights."""
        return f"{self} sha256:{self.digest or self.weights_sha256}"

    def __str__(self) -> str:
        return one_line(self.reference)  # a run folder may be called anything


def registry_address(registry: str | os.PathLike[str] | None) -> str:
    """The registry that is meant: the one given, else FOREBRAIN_REGISTRY.

    Raises:
        AdaptationError: none is given.
        StorageError: it is neither a path nor an address.
    """
    address = os.fspath(registry) if registry is not None else os.environ.get("FOREBRAIN_REGISTRY")
    if not address:
        raise AdaptationError(
            "which registry? Give its address (--registry URI, or registry=... in Python), or set "
            "FOREBRAIN_REGISTRY."
        )
    return address if "://" in address else str(path_here(address).absolute())


def places_to_look(registry: str | os.PathLike[str] | None) -> list[str]:
    """The registries that are looked in, one after another: the one given, else FOREBRAIN_REGISTRY, if any;
    and what comes with the package."""
    given = registry is not None or os.environ.get("FOREBRAIN_REGISTRY")
    return list(dict.fromkeys([registry_address(registry), SHIPPED])) if given else [SHIPPED]


def open_registry(address: str) -> Registry:
    """The registry at an address, which may be `SHIPPED`."""
    return Registry(shipped_models() if address == SHIPPED else address)


def pull_version(
    reference: str, registry: str | os.PathLike[str] | None, cache: str | os.PathLike[str] | None
) -> tuple[Pulled, str]:
    """Pulls a version from the place that has it, and says where it is deprecated.

    A name is that of the first place that holds anything of it; a line says where that is what comes with the
    package though another was given. A whole digest is looked for in all.

    Args:
        reference: `name`, `name@3`, `name@alias` or `name@sha256:...`.
        registry: see `places_to_look`.
        cache: the folder that pulled versions are kept in; None for the user's.

    Returns:
        The version, and the address of the registry that it is from.

    Raises:
        AdaptationError: no place has it (the nearest is suggested), one is no registry or cannot be read, or
            it is damaged.
    """
    opened = {address: open_registry(address) for address in places_to_look(registry)}
    names = {each.uri: address for address, each in opened.items()}
    missing: list[str] = []
    try:
        places = places_of(list(opened.values()), reference)
        for place in places:
            try:
                pulled = pull(place, reference, cache=cache)
            except NotFoundError as error:
                missing.append(str(error))
                continue
            if pulled.deprecated is not None:
                _log.warning("%s is deprecated: %s", pulled.version, pulled.deprecated)
            # A digest may have come into the cache from another.
            return pulled, names.get(pulled.registry, pulled.registry)
    except RegistryError as error:
        raise _refused(error) from error
    if len(opened) == 1:
        missing[0] += " Give the registry that has it (--registry URI, or FOREBRAIN_REGISTRY)."
    raise AdaptationError(missing[0])


def newest_published(registry: str | os.PathLike[str] | None) -> list[tuple[Version, str]]:
    """Of every model of every place the newest version that is not deprecated, and its registry's address.

    Args:
        registry: see `places_to_look`.

    Raises:
        AdaptationError: there is no registry at an address that was given, or it cannot be read.
    """
    try:
        return [
            (version, address)
            for address in places_to_look(registry)
            for version in open_registry(address).newest()
        ]
    except RegistryError as error:
        raise _refused(error) from error


def _refused(error: RegistryError) -> AdaptationError:
    """The same error for one who adapts; where a place cannot be read the package is there still."""
    more = (
        f" What comes with the package is at --registry {SHIPPED}." if isinstance(error, StorageError) else ""
    )
    return AdaptationError(f"{error}{more}")


def weights_of(module: nn.Module) -> bytes:
    """A module's parameters as one safetensors file; equal weights give equal bytes."""
    return safetensors.torch.save(
        {name: parameter.detach().float().cpu().contiguous() for name, parameter in module.named_parameters()}
    )
