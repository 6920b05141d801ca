"""Lists of tenants, and what they ask for."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from fake_backend import Behaviour, reply
from router_client import table

KEY = "sk-first-0123456789"
USAGE = b'{"usage":{"prompt_tokens":100,"total_tokens":150,"completion_tokens":50}}'


def hash_of(key: str) -> str:
    return "sha256:" + sha256(key.encode()).hexdigest()


def tenant(name: str = "first", key: str = KEY, **changes: Any) -> dict[str, Any]:
    return {"name": name, "keyHashes": [hash_of(key)], **changes}


def listed(*tenants: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "marlin.dev/v1alpha1", "kind": "TenantList", "tenants": list(tenants)}


def with_key(key: str = KEY) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def saying(body: bytes) -> Behaviour:
    return reply(HEAD % len(body) + body)


def priced(url: str) -> dict[str, Any]:
    """A table in which USAGE costs 0.1 USD and 100 gCO2."""
    document = table(url)
    document["datacenters"][0] |= {"carbonGco2PerKwh": 100.0, "priceUsdPerKwh": 0.1}
    document["pools"][0]["backends"][0] |= {"joulesPerPromptToken": 36_000.0, "joulesPerOutputToken": 0.0}
    return document
