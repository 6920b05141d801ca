"""How the operator gets at a credential: by saying where it is to be sent, or not at all.

``OwnNamespace`` reads Secrets; those who speak to addresses out of objects see no more of it than ``Credentials``.
"""

from __future__ import annotations

import ssl
from typing import Protocol

from yarl import URL

from marlin.api.sending import Destination
from marlin.api.values import Tls, Verification
from marlin.operator.signals.http import SignalError


class Credentials(Protocol):
    """Secrets of the operator's own namespace, for addresses that people write into objects."""

    async def credential(self, name: str, key: str, to: Destination) -> str:
        """A key of a Secret, without blanks around it, that may be sent there.

        Raises:
            WithheldError: its Secret does not say that it may.
            SignalError: there is none.
        """

    async def authority(self, name: str) -> str | None:
        """A Secret's ``ca.crt``, which is sent nowhere; None: it has none.

        Raises:
            SignalError: there is no such Secret.
        """


async def tls_context(tls: Tls, secrets: Credentials) -> ssl.SSLContext | bool:
    """How the other side is verified: True stands for the system's authorities, False for nothing.

    Raises:
        SignalError: the Secret of its authority cannot be read, or holds no certificate.
    """
    if tls.verification is not Verification.REQUIRED:
        return False
    if (ref := tls.ca_secret_ref) is None:
        return True
    if (authority := await secrets.authority(ref.name)) is None:
        raise SignalError(f"Secret {ref.name} has no key ca.crt")
    try:
        return ssl.create_default_context(cadata=authority)
    except (ssl.SSLError, ValueError):
        raise SignalError(f"Secret {ref.name}: ca.crt is not a certificate") from None


def destination(url: str, tls: Tls) -> Destination:
    """Where a request goes, by the parser that carries it out.

    Args:
        url: the address.
        tls: how the other side is verified.
    """
    address = URL(url)
    return Destination(
        address.scheme,
        (address.raw_host or "").lower(),
        address.port or 0,
        tls.verification is Verification.REQUIRED,
        tls.server_name,
    )
