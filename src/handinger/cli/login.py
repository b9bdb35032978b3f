"""`handinger login` and `logout`."""

from __future__ import annotations

import os
import sys

from handinger.cli import credentials, output
from handinger.cli.arguments import read_text
from handinger.cli.failures import CommandError, ExitCode
from handinger.cli.options import Options
from handinger.cli.parameters import Given


def login(*, options: Given) -> None:
    """Keep a key and the server's address, for this user of this machine.

    The key is asked for, or read from the standard input, unless --api-key gives it. It is tried on
    the server before it is kept, in a file that only you can read. Options and the environment
    (HANDINGER_API_KEY, HANDINGER_BASE_URL) go before what is kept here.
    """
    from handinger.sdk.client import DEFAULT_BASE_URL, Handinger

    base_url = options.base_url or os.environ.get("HANDINGER_BASE_URL") or DEFAULT_BASE_URL
    base_url = credentials.normalized(base_url)
    key = _ask(options, base_url)
    with Handinger(api_key=key, base_url=base_url) as client:
        client.workers.with_raw_response.list(limit=1)
    try:
        kept = credentials.load()
    except credentials.DamagedCredentials:
        kept = credentials.Credentials()
    kept.base_url = base_url
    kept.keys[base_url] = key
    path = credentials.save(kept)
    output.note(f"Logged in to {base_url}; the key is in {path}.")


def logout(*, options: Given) -> None:
    """Forget the key of a server, the one of the last login unless --base-url names another."""
    kept = credentials.load()
    base_url = credentials.normalized(options.base_url or kept.base_url or "")
    if kept.keys.pop(base_url, None) is None:
        raise CommandError(f"No key is kept for {base_url or 'any server'}.")
    if kept.base_url == base_url:
        kept.base_url = next(iter(kept.keys), None)
    credentials.save(kept)
    output.note(f"Logged out of {base_url}.")


def _ask(options: Options, base_url: str) -> str:
    if options.api_key is not None:
        key = read_text(options.api_key)
    elif sys.stdin.isatty():
        import getpass

        key = getpass.getpass(f"API key for {base_url}: ")
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise CommandError("No key was given.", exit_code=ExitCode.AUTH)
    return key.strip()
