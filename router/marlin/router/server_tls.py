"""TLS towards clients: one context for all connections, whose certificate is read again when its file changes.

``worker`` makes one where the settings name a certificate, and asks it to look every few seconds: cert-manager and the
kubelet exchange files under a running process. Connections that are open keep what they began with.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final

_LOG = logging.getLogger("marlin.router")

LOOK_S: Final = 2.0
"""Between two looks at the files."""


class ServerTls:
    """The context.

    Args:
        certificate: file with the certificate and its chain.
        key: file with its private key.
        client_ca: file with the authorities whose certificates clients must have; None: they need none.

    Attributes:
        context: for the server.

    Raises:
        OSError: a file cannot be read, or holds something else (``ssl.SSLError`` is an OSError).
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        if client_ca is not None:
            self.context.load_verify_locations(client_ca)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self._seen = self._look()
        self.context.load_cert_chain(certificate, key)

    def look(self) -> None:
        """Reads a changed certificate; a bad one, or one whose key is not here yet, changes nothing."""
        seen = self._look()
        if seen == self._seen:
            return
        try:
            # Into a context of its own first: loading a pair that does not fit would spoil the one in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            self.context.load_cert_chain(self._certificate, self._key)
        except OSError as error:
            _LOG.error("certificate %s not taken, the one before stays: %s", self._certificate, error)
            return
        self._seen = seen
        _LOG.info("certificate %s taken", self._certificate)

    def _look(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_identity(path) for path in (self._certificate, self._key))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_ino)
