"""Errors that a user can mend: each message says what is wrong, where, what was expected and what to do."""

from forebrain_registry.lines import one_line


class ForebrainError(Exception):
    """Base of every error that is the input's or the place's fault: shown without a traceback.

    Args:
        lines: the message, which is one line whatever names are in it, and further lines where it has some.
    """

    def __init__(self, *lines: object) -> None:
        super().__init__(*(one_line(str(line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class RegistryError(ForebrainError):
    """Base of what a registry, and the places that things are stored in, raise."""


class NotFoundError(RegistryError):
    """A model, version or alias that the registry, or offline the cache, does not have."""


class ConflictError(RegistryError):
    """Somebody else changed the same thing at the same time; what they wrote stands."""


class InvalidError(RegistryError):
    """A name, file, record or option that is not what is allowed."""


class DamagedError(RegistryError):
    """Stored bytes that are not the bytes that were published."""


class StorageError(RegistryError):
    """A place cannot be reached, read or written, is full, or does not keep the promises that are needed."""
