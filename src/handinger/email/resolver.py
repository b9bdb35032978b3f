"""DNS look-ups for the checks of a mail's sender, by the system's name server or a given one."""

import time
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.resolver

from handinger.settings import Settings, split_host_port

_LOOKUP_TIMEOUT_S = 5.0


class LookupFailed(Exception):
    """DNS does not answer at this moment, so nothing can be concluded."""


@dataclass(slots=True)
class Resolver:
    """Look-ups for one mail, which together may not take longer than its deadline."""

    resolver: dns.resolver.Resolver
    deadline: float
    # Whether a look-up failed that may succeed later.
    failed: bool = False
    _answers: dict[tuple[str, str], list[Any]] = field(
        default_factory=dict[tuple[str, str], list[Any]]
    )

    def lookup(self, name: str, kind: str) -> list[Any]:
        """The records of a name, none if there are none. Raises LookupFailed."""
        key = (name.lower().rstrip("."), kind)
        if key not in self._answers:
            self._answers[key] = self._ask(name, kind)
        return self._answers[key]

    def _ask(self, name: str, kind: str) -> list[Any]:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            self.failed = True
            raise LookupFailed(f"There is no time left to look up {name}.")
        try:
            answer = self.resolver.resolve(
                name, kind, lifetime=min(left_s, _LOOKUP_TIMEOUT_S), search=False
            )
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            return []
        except (dns.exception.Timeout, dns.resolver.NoNameservers) as error:
            self.failed = True
            raise LookupFailed(f"DNS does not answer for {name}: {error}") from error
        except (dns.exception.DNSException, UnicodeError, ValueError):
            return []  # No name that DNS can hold.
        return list(answer)

    def texts(self, name: str) -> list[bytes]:
        """The TXT records of a name, each in one piece. Raises LookupFailed."""
        return [b"".join(record.strings) for record in self.lookup(name, "TXT")]


def open_resolver(settings: Settings) -> dns.resolver.Resolver:
    """The name server that the settings name, else the system's."""
    if settings.email_resolver is None:
        return dns.resolver.get_default_resolver()
    host, port = split_host_port(settings.email_resolver)
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [host]
    resolver.port = port
    return resolver
