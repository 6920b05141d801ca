"""Where a credential may be sent: its Secret says so, and not the object that names it.

Whoever may write a MarlinPolicy, an InferencePool or a Datacenter names a Secret and an address in one breath. Were
that enough, they could have any key that operator or router can read sent to a server of their own. So each Secret
lists under the key ``send-to`` the origins that its content may go to, and whoever wrote the Secret is the only one who
can change that. It is a key and not an annotation, because a router sees a mounted Secret's keys and nothing else.

Pure, and without pydantic: both operator and router ask here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

SEND_TO: Final = "send-to"
"""Key of a Secret: origins as ``https://host:port``, separated by blanks, commas or lines."""

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where something would be sent, as whoever connects understands the address."""

    scheme: str
    host: str
    """In ASCII, without brackets."""
    port: int
    is_verified: bool = True
    """Whether the other side's certificate has to verify."""
    server_name: str | None = None
    """Name that the certificate has to carry. None: the host."""

    @property
    def origin(self) -> str:
        """Scheme, host and port as a Secret lists them; a port that goes without saying is left out."""
        return _written(self.scheme, self.host, self.port)


def why_withheld(listed: str | None, to: Destination) -> str:
    """Why a credential is not sent somewhere; empty when it may be.

    Args:
        listed: what its Secret holds under ``SEND_TO``; None: nothing.
        to: where it would go. Over https the certificate has to verify, and a name that it is verified for instead of
            the host has to be listed as well: otherwise the address alone would not say who is on the other side.
    """
    if listed is None or not listed.strip():
        return f"its key {SEND_TO} does not list {to.origin}"
    origins = set()
    for entry in listed.replace(",", " ").split():
        origin = _origin(entry)
        if origin is None:
            return f"its key {SEND_TO} has an entry that is no origin such as https://host:port"
        origins.add(origin)
    names = [to.host] if to.server_name is None else [to.host, to.server_name]
    for name in names:
        if (to.scheme, name.lower(), to.port) not in origins:
            return f"its key {SEND_TO} does not list {_written(to.scheme, name.lower(), to.port)}"
    if to.scheme == "https" and not to.is_verified:
        return "over https it is sent only where tls.verification is Required (tls.caSecretRef for an own authority)"
    return ""


def _origin(entry: str) -> tuple[str, str, int] | None:
    """Scheme, host and port; None where an entry says less, or more."""
    try:
        parts = urlsplit(entry)
        port = parts.port
    except ValueError:
        return None
    is_bare = parts.path in {"", "/"} and not parts.query and not parts.fragment and "@" not in parts.netloc
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not is_bare or not entry.isascii():
        return None
    return parts.scheme, parts.hostname, _DEFAULT_PORTS[parts.scheme] if port is None else port


def _written(scheme: str, host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if _DEFAULT_PORTS.get(scheme) == port else f"{scheme}://{name}:{port}"
