"""What `handinger login` keeps: a key for each server, in a file that only its owner can read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from handinger.cli import output
from handinger.cli.failures import CommandError


@dataclass(slots=True)
class Credentials:
    """Keys by base URL; a key is only ever sent to the server that it was given for."""

    base_url: str | None = None
    keys: dict[str, str] = field(default_factory=dict[str, str])

    def key_for(self, base_url: str | None) -> str | None:
        """The key for a server; without one, for the server of the last login."""
        return self.keys.get(normalized(base_url or self.base_url or ""))


def normalized(base_url: str) -> str:
    """The same server, written the same way."""
    return base_url.strip().rstrip("/")


def location() -> Path:
    """`handinger/credentials.json` in the folder for configuration. Raises CommandError."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if folder.startswith("~"):
        raise CommandError("This user has no home directory; set XDG_CONFIG_HOME.")
    return Path(folder) / "handinger" / "credentials.json"


class DamagedCredentials(CommandError):
    """The file is not what a login writes; the next login writes it anew."""


def load() -> Credentials:
    """What was kept; nothing if there was no login.

    Raises DamagedCredentials, and CommandError if the file cannot be read.
    """
    try:
        path = location()
    except CommandError:
        return Credentials()
    try:
        _warn_if_open_to_others(path)
        kept: object = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Credentials()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DamagedCredentials(f"{path} cannot be read ({error}); log in again.") from error
    values = cast("dict[str, object]", kept) if isinstance(kept, dict) else {}
    base_url, keys = values.get("baseUrl"), values.get("keys")
    known = cast("dict[object, object]", keys) if isinstance(keys, dict) else {}
    return Credentials(
        base_url=base_url if isinstance(base_url, str) else None,
        keys={
            url: key for url, key in known.items() if isinstance(url, str) and isinstance(key, str)
        },
    )


def _warn_if_open_to_others(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        output.note(
            f"warning: other users of this machine may read the keys in {path}: "
            f"chmod 600 {path}, and make new keys if some of them are not trusted."
        )


def save(credentials: Credentials) -> Path:
    """Replace the file; it is closed to others before anything is in it."""
    path = location()
    text = json.dumps({"baseUrl": credentials.base_url, "keys": credentials.keys}, indent=2)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        draft.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error
    return path
