"""A worker's files: the manifest, the rules for paths and sizes, and the bytes.

The manifest row is the truth; bytes are blobs that were stored before the row that names them.
"""

from handinger.files.checkout import Checkout, Collected
from handinger.files.manifest import Change, File, apply, find, load, remove
from handinger.files.paths import (
    UNPUBLISHED_FOLDERS,
    FileError,
    is_published_by_default,
    media_type,
    media_type_by_name,
    normalize,
    url,
)
from handinger.files.tree import Tree
from handinger.files.workspace import Workspace

__all__ = [
    "UNPUBLISHED_FOLDERS",
    "Change",
    "Checkout",
    "Collected",
    "File",
    "FileError",
    "Tree",
    "Workspace",
    "apply",
    "find",
    "is_published_by_default",
    "load",
    "media_type",
    "media_type_by_name",
    "normalize",
    "remove",
    "url",
]
