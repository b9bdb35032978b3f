"""Encrypts what the database must keep but not tell: whoever reads a dump of it learns nothing.

The key is HANDINGER_SECRET_KEY, or is made once and kept in the data directory.
"""

import base64
import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from handinger.errors import ConfigurationError
from handinger.settings import Settings

_KEY_FILE = "secret.key"


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens with one key."""

    _key: str = field(repr=False)

    def seal(self, content: bytes) -> bytes:
        """The content, encrypted and authenticated."""
        from cryptography.fernet import Fernet  # noqa: PLC0415 # Few servers need it at all.

        return Fernet(self._fernet_key()).encrypt(content)

    def open(self, sealed: bytes) -> bytes:
        """The content again. Raises ConfigurationError if another key sealed it."""
        from cryptography.fernet import Fernet, InvalidToken  # noqa: PLC0415

        try:
            return Fernet(self._fernet_key()).decrypt(sealed)
        except InvalidToken as error:
            raise ConfigurationError(
                "A stored secret was sealed with another key; give every server and command the "
                "same HANDINGER_SECRET_KEY (or data directory), or store the secret anew."
            ) from error

    def _fernet_key(self) -> bytes:
        # The key has enough random bits, so one hash is all the derivation that it needs.
        digest = hashlib.sha256(b"handinger sealing 1\0" + self._key.encode()).digest()
        return base64.urlsafe_b64encode(digest)


def open_sealer(settings: Settings) -> Sealer:
    """The sealer of this installation; makes its key if there is none.

    Raises ConfigurationError.
    """
    if settings.secret_key is not None:
        return Sealer(settings.secret_key.get_secret_value())
    path = settings.data_dir.resolve() / _KEY_FILE
    try:
        if not path.exists():
            _make_key(path)
        return Sealer(path.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The key for stored secrets cannot be read or made ({error}); set "
            "HANDINGER_SECRET_KEY."
        ) from error


def _make_key(path: Path) -> None:
    """Appears at once and whole: several processes may want to make it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32))
        file.flush()
        os.fsync(descriptor)
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
