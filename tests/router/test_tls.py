"""TLS towards clients, with certificates that openssl makes; between routers too, with certificates on both sides."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from fake_backend import FakeBackend
from realtime_backend import realtime
from router_client import table
from router_process import running

from marlin.router.server_tls import ServerTls


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates into its folder."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._openssl("req", "-x509", "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.crt", "-days", "2")

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def sign(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and localhost, and its key."""
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl("req", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        subprocess.run(
            [
                *("openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
                *("-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", f"{name}.crt"),
            ],
            cwd=self.folder,
            check=True,
            capture_output=True,
        )
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def client(self) -> ssl.SSLContext:
        """Trusts it, and shows no certificate."""
        return ssl.create_default_context(cafile=str(self.ca))

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(
            ["openssl", arguments[0], "-newkey", "rsa:2048", "-nodes", *arguments[1:]],
            cwd=self.folder,
            check=True,
            capture_output=True,
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


async def ask(url: str, context: ssl.SSLContext | bool) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", json={"model": "m"}, ssl=context) as response,
    ):
        await response.read()
        return int(response.status)


def https(url: str) -> str:
    return url.replace("http:", "https:")


async def test_clients_speak_tls_and_nothing_else(tmp_path: Path, authority: Authority, backend: FakeBackend) -> None:
    certificate, key = authority.sign("router")
    options = ("--tls-certificate-file", str(certificate), "--tls-key-file", str(key))
    async with running(tmp_path, table(backend.url), *options) as router:
        assert await ask(https(router.url), authority.client()) == 200
        with pytest.raises(aiohttp.ClientError):
            await ask(router.url, context=True)
        with pytest.raises(aiohttp.ClientSSLError):
            await ask(https(router.url), context=True)
    assert len(backend.seen) == 1


async def test_a_router_and_its_member_router_show_each_other_their_certificates(
    tmp_path: Path, authority: Authority, backend: FakeBackend
) -> None:
    member_pair, first_pair = authority.sign("member"), authority.sign("first")
    for name, source in (("ca.crt", authority.ca), ("tls.crt", first_pair[0]), ("tls.key", first_pair[1])):
        (tmp_path / "secrets" / "pair").mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "secrets" / "pair" / name)
    for name in ("member", "first"):
        (tmp_path / name).mkdir()
    options = (
        *("--tls-certificate-file", str(member_pair[0]), "--tls-key-file", str(member_pair[1])),
        *("--tls-client-ca-file", str(authority.ca)),
    )
    async with running(tmp_path / "member", table(backend.url), *options) as member:
        with pytest.raises(aiohttp.ClientError):
            await ask(https(member.url), authority.client())
        before = table(https(member.url))
        before["pools"][0]["backends"][0] |= {
            "isMemberRouter": True,
            "tls": {"caSecretRef": {"name": "pair"}, "clientCertificateSecretRef": {"name": "pair"}},
        }
        async with running(tmp_path / "first", before, "--secrets-dir", str(tmp_path / "secrets")) as first:
            assert await ask(first.url, context=True) == 200
    assert len(backend.seen) == 1


def serial_of(tls: ServerTls, client: ssl.SSLContext) -> str:
    """Serial number of the certificate that a server with this context shows, without a socket."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    mine = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(4):
        for side in (mine, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    certificate = mine.getpeercert()
    assert certificate
    return str(certificate["serialNumber"])


def test_an_exchanged_certificate_is_taken_and_one_without_its_key_is_not(authority: Authority) -> None:
    certificate, key = authority.sign("router")
    tls, client = ServerTls(certificate, key, None), authority.client()
    first = serial_of(tls, client)
    new_certificate, new_key = authority.sign("renewed")
    os.replace(new_certificate, certificate)  # noqa: PTH105
    tls.look()
    assert serial_of(tls, client) == first
    os.replace(new_key, key)  # noqa: PTH105
    tls.look()
    assert serial_of(tls, client) not in {first, ""}


async def test_a_file_that_is_no_certificate_stops_it_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.crt").write_text("nothing\n")
    process = await asyncio.create_subprocess_exec(
        *("marlin", "router", "--config", str(tmp_path / "no.crt"), "--tls-certificate-file", str(tmp_path / "no.crt")),
        *("--tls-key-file", str(tmp_path / "no.crt")),
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PATH": f"{Path(__import__('sys').executable).parent}:{os.environ['PATH']}"},
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"--tls-certificate-file" in said
    assert b"Traceback" not in said


async def test_a_websocket_goes_through_a_router_with_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.sign("router")
    options = ("--tls-certificate-file", str(certificate), "--tls-key-file", str(key))
    async with (
        realtime() as backend,
        running(tmp_path, table(backend.url), *options) as router,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{router.url.replace('http:', 'https:')}/v1/realtime", ssl=authority.client()) as socket,
    ):
        for text in ("hello", "x" * 100_000):
            await socket.send_str(text)
            assert await socket.receive_str() == text
        await socket.send_str("end")
        assert (await socket.receive()).data == 4000
