"""The `demo` model: a deterministic stand-in that reads plain requests, for trying the server.

It needs no account and no network, claims no understanding that it lacks, and knows nothing of the
server around it.
"""

from handinger.agent.demo.model import DemoModel

__all__ = ["DemoModel"]
