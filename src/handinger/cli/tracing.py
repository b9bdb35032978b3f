"""`--debug`: what goes over the wire, on the error output, without the key."""

from __future__ import annotations

import logging


def start() -> None:
    """Show what the SDK logs."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("handinger")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
