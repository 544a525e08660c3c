"""The error of a set of shards when one of its files cannot be read."""

from __future__ import annotations

from types import TracebackType

from forebrain.errors import ShardError


class readable:  # noqa: N801, since it is used like a function
    """Turns a missing file, or a local disk's failure to read `name`, into a ShardError.

    A class, since every window is read in one: a generator's context costs a microsecond.
    """

    __slots__ = ("_name", "_uri")

    def __init__(self, uri: str, name: str) -> None:
        self._uri, self._name = uri, name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise ShardError(
                f"{self._uri}: {self._name} cannot be read ({error or type(error).__name__}). "
                "Check the address, or run prepare again: it rewrites only what is missing."
            ) from error
