"""The one way to files that last: folders on a local disk or in an object store.

Training, shards and the registry all use it. `folder` says what can be done, `local_disk` and `object_store`
do it, and `retries` is the rule by which a request is tried again.
"""

from forebrain_registry.storage.folder import Folder, file_at, path_here, scratch
from forebrain_registry.storage.local_disk import PARTIAL, partial_beside, tell_of_partial_beside
from forebrain_registry.storage.stat import Stat

__all__ = [
    "PARTIAL",
    "Folder",
    "Stat",
    "file_at",
    "partial_beside",
    "path_here",
    "scratch",
    "tell_of_partial_beside",
]
