"""Where sandboxes keep their files on the host: one folder per server process, gone with it.

The folder is held by a file lock, so that the kernel says which are left over from dead processes.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from handinger.sandbox.descent import unlock_tree

logger = logging.getLogger(__name__)

_LOCK = "lock"
# Others may pass through, and see nothing.
PASSAGE = 0o711


@dataclass(frozen=True, slots=True)
class Folders:
    """The folder of this process."""

    root: Path
    lock: int

    @classmethod
    def make(cls, base: Path) -> Self:
        """Make this process's folder in `base`, which is made if need be. Raises OSError.

        What dead processes left there is removed.
        """
        # Sandboxes run as somebody else where they can, who must get through to what is theirs.
        if not base.is_dir():
            base.mkdir(parents=True, exist_ok=True)
            base.chmod(PASSAGE)
        root = base / secrets.token_hex(8)
        root.mkdir()
        root.chmod(PASSAGE)
        unlocked = root / f"{_LOCK}.new"
        lock = os.open(unlocked, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now: a lock that is there and not held means that its process is dead.
        unlocked.rename(root / _LOCK)
        return cls(root, lock)

    def remove_leftovers(self) -> list[str]:
        """Remove the folders of dead processes; their names."""
        gone: list[str] = []
        for folder in self.root.parent.iterdir():
            if folder == self.root or not folder.is_dir():
                continue
            try:
                lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # It is being made, or unmade.
            except OSError as error:
                logger.warning("The folder %s cannot be looked at: %s", folder, error)
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # Its process lives.
            else:
                remove_tree(folder)
                gone.append(folder.name)
            finally:
                os.close(lock)
        return gone

    def make_folder(self, name: str, *, uid: int | None) -> Path:
        """A folder of this process's own, that only the user `uid` may enter (None: ourselves)."""
        folder = self.root / name
        folder.mkdir(mode=0o700)
        if uid is not None:
            os.chown(folder, uid, uid)
        return folder

    def close(self) -> None:
        """Remove everything."""
        remove_tree(self.root)
        os.close(self.lock)


def remove_tree(folder: Path) -> None:
    """Remove a folder whatever was done to what is in it; logs what stays."""
    try:
        remove(folder)
    except OSError as error:
        logger.warning("The folder %s could not be removed: %s", folder, error)


def remove(folder: Path, *, within: int | None = None) -> None:
    """Remove a folder, of that name in the folder that is open as `within`. Raises OSError.

    By a program, as trees may be deeper than a process may have files open.
    """
    if within is not None:
        folder = Path(f"/proc/self/fd/{within}", folder)
    with contextlib.suppress(FileNotFoundError):
        if os.geteuid() != 0:
            # A folder that its owner may not enter could not be emptied.
            unlock_tree(folder)
        done = subprocess.run(
            ["rm", "-rf", "--", str(folder)],
            check=False,
            capture_output=True,
            pass_fds=() if within is None else (within,),
        )
        if done.returncode != 0:
            raise OSError(done.stderr.decode(errors="replace").strip()[-500:])
