"""TensorBoard's files, also where they are in an object store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from forebrain_registry.storage import Folder

# Of a file in an object store, which each flush writes whole.
LARGEST_BYTES = 2**20


class Board(SummaryWriter):
    """Writes for TensorBoard into a folder; what was added is there after `flush` or `close`.

    TensorBoard itself appends to an object by reading and writing all of it, for each row of an embedding,
    and gives up at the first fault. So the files grow on a local disk and are brought over whole; a long run
    has several, each of which ends when it is large.

    Args:
        folder: where TensorBoard reads.
        purge_step: steps from here on, written by an attempt that was lost, are not shown.
    """

    def __init__(self, folder: Folder, purge_step: int | None = None) -> None:
        self._remote = None if folder.is_local else folder
        self._sizes: dict[str, int] = {}
        if self._remote is None:
            super().__init__(folder.uri, purge_step=purge_step)
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix="forebrain-")
            super().__init__(self._scratch.name, purge_step=purge_step)

    def flush(self) -> None:
        """Writes what was added, and brings it to where the run lies."""
        super().flush()
        self._bring_over()
        if self._remote is not None and max(self._sizes.values(), default=0) > LARGEST_BYTES:
            super().close()  # what is added next begins another file
            self._bring_over()
            for name in self._sizes:
                (Path(self._scratch.name) / name).unlink()
            self._sizes = {}

    def close(self) -> None:
        super().close()
        self._bring_over()

    def _bring_over(self) -> None:
        if self._remote is None:
            return
        root = Path(self._scratch.name)
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and path.stat().st_size != self._sizes.get(name):
                data = path.read_bytes()  # it only ever grows
                self._remote.write(name, data)
                self._sizes[name] = len(data)
