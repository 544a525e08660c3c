"""Errors that a user can mend: each message says what is wrong, where, what was expected and what to do."""


class ForebrainError(Exception):
    """Base of every error that is the input's or the place's fault: shown without a traceback."""


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
