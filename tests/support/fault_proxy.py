"""A proxy before an API server that a test can tell to misbehave; what it passes on is the server's own."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from control_plane import Cluster


@dataclass(slots=True)
class Interrupt:
    """Something that is done at one request, which nobody answers."""

    at: int
    """At which one from now on, from 1; the Lease and watches are not counted."""
    is_after: bool
    """Whether the API server has carried it out by then."""
    act: Callable[[], None]


class FaultProxy:
    """Passes requests on, or answers them itself with ``fault`` while it is set.

    Args:
        cluster: the API server behind it.
        folder: for its certificate.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.fault: tuple[int, dict[str, str]] | None = None
        """Status and headers of what it answers instead; None: it passes on. The Lease is passed on nevertheless:
        without it an operator ends within ten seconds, as it should, and a test would be a race with that."""
        self.lease_fault: tuple[int, dict[str, str]] | None = None
        """The same, for the Lease alone."""
        self.interrupt: Interrupt | None = None
        """What is done at a request to come; None: nothing is."""
        self.watch_fault: tuple[int, dict[str, str]] | None = None
        """The same, for watches alone."""
        self._lock = threading.Lock()
        self.answered: Counter[int] = Counter()
        """Faults by status."""
        self.watches = 0
        self._streams: set[http.client.HTTPConnection] = set()
        key, self._certificate = folder / "proxy.key", folder / "proxy.crt"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=proxy"),
                *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", self._certificate),
            ],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def ca(self) -> str:
        return self._certificate.read_text()

    def cut_watches(self) -> int:
        """Breaks every watch off in mid-stream; how many there were. One that ends by itself meanwhile is none."""
        cut = 0
        for stream in list(self._streams):
            if (sock := stream.sock) is not None:
                with suppress(OSError):
                    sock.shutdown(2)
                    cut += 1
        return cut

    def _fault(self, path: str) -> tuple[int, dict[str, str]] | None:
        """What is answered to a request instead of passing it on."""
        if "/leases" in path:
            return self.lease_fault
        return self.fault or (self.watch_fault if "watch=true" in path else None)

    def _interrupt(self, path: str) -> Interrupt | None:
        """Counts a request; the interrupt where this is the one."""
        if "/leases" in path or "watch=true" in path:
            return None
        with self._lock:
            if self.interrupt is None:
                return None
            self.interrupt.at -= 1
            if self.interrupt.at > 0:
                return None
            found, self.interrupt = self.interrupt, None
            return found

    def close(self) -> None:
        self.cut_watches()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(  # noqa: C901 a class of many small methods, which counts as one
        proxy,  # noqa: N805 the handler's own self is another
    ) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_watch = "watch=true" in self.path
                fault, interrupt = proxy._fault(self.path), proxy._interrupt(self.path)
                if interrupt is not None and not interrupt.is_after:
                    self._break_off(interrupt)
                    return
                if fault is not None:
                    proxy.answered[fault[0]] += 1
                    self._answer(fault[0], fault[1], b'{"kind":"Status","message":"as the test wants it"}')
                    return
                context = ssl.create_default_context(cadata=proxy.cluster.ca())
                behind = http.client.HTTPSConnection("127.0.0.1", proxy.cluster.port, timeout=60, context=context)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in {"host", "accept-encoding"}}
                try:
                    behind.request(self.command, self.path, body or None, headers)
                    reply = behind.getresponse()
                    if is_watch and reply.status == 200:
                        self._stream(behind, reply)
                    elif interrupt is not None:
                        reply.read()
                        self._break_off(interrupt)
                    else:
                        self._answer(reply.status, {}, reply.read())
                except OSError:
                    self.close_connection = True
                finally:
                    behind.close()

            def _break_off(self, interrupt: Interrupt) -> None:
                interrupt.act()
                self.close_connection = True

            def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _stream(self, behind: http.client.HTTPConnection, reply: http.client.HTTPResponse) -> None:
                proxy.watches += 1
                proxy._streams.add(behind)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.close_connection = True
                try:
                    while line := reply.readline():
                        self.wfile.write(line)
                        self.wfile.flush()
                except (OSError, http.client.HTTPException, ValueError):
                    return
                finally:
                    proxy._streams.discard(behind)

            do_GET = do_POST = do_PATCH = do_PUT = _pass_on  # noqa: N815 as http.server names them

        return Handler
