"""Whoever names a Secret of somebody else gets nothing of it, and its owner learns what to do: on a real API server."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cluster_fleet import Fleet
from control_plane import Process, eventually
from member_cluster import secret
from worlds import the

TOKEN = "t0k3n-of-another-team"
NAME = "another-team"


class Listener:
    """A server of somebody's own: it keeps the credentials that it is sent."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append(self.headers.get("Authorization", ""))
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


def _is_told(fleet: Fleet, reason: str, namespace: str, text: str) -> bool:
    return any(text in event["note"] for event in fleet.events(reason, namespace))


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener()
    thread = threading.Thread(target=one.server.serve_forever)
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


def test_a_secret_goes_where_it_says_and_what_is_withheld_is_told_with_the_command_that_allows_it(
    fleet: Fleet, listener: Listener, operator: Callable[..., Process]
) -> None:
    secret(fleet.hub, NAME, token=TOKEN)
    plain = {"verification": "Disabled"}
    token = {"tokenSecretRef": {"name": NAME}}
    the(fleet.objects, "Datacenter", f"{fleet.prefix}oregon")["spec"]["router"] = {
        "url": listener.url,
        "tls": plain,
    } | token
    artifact = {"http": {"url": f"{listener.url}/a.tar", "sha256": "0" * 64, "tls": plain} | token}
    fleet.apply(
        planner={"kind": "Marlin", "artifactRef": artifact},
        observation={"prometheus": {"url": listener.url, "tls": plain} | token},
    )
    process = operator("one")
    assert eventually(lambda: fleet.condition("ArtifactAccepted") == ("False", "ArtifactRejected"))
    assert eventually(lambda: fleet.condition("Observed") == ("False", "Unreadable"))
    assert eventually(lambda: fleet.site_condition("oregon", "RouterReachable") == ("False", "Withheld"))
    for reason, namespace in (("ArtifactRejected", ""), ("Unreadable", ""), ("Withheld", "default")):
        assert eventually(partial(_is_told, fleet, reason, namespace, f"Secret {NAME} is not sent to {listener.url}"))
    assert listener.heard == []

    command = re.search(rf"kubectl -n marlin-system patch secret {NAME} -p '(.*?)'", fleet.message("Observed"))
    assert command is not None
    path = f"/api/v1/namespaces/marlin-system/secrets/{NAME}"
    fleet.hub.call("PATCH", path, json.loads(command[1]), "application/strategic-merge-patch+json")
    assert eventually(lambda: fleet.site_condition("oregon", "RouterReachable") == ("False", "Timeout"))
    assert eventually(lambda: f"Bearer {TOKEN}" in listener.heard)
    assert eventually(lambda: "answered 404" in fleet.message("Observed"))
    assert TOKEN not in process.log.read_text()
