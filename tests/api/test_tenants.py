"""A list of tenants is checked as every other document is, and a key never shows."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from marlin.api.cli import marlin
from marlin.api.documents import DocumentError, load_documents

HASH = "sha256:" + "ab" * 32
LIST = f"""
apiVersion: marlin.dev/v1alpha1
kind: TenantList
tenants:
  - name: research
    keyHashes: ["{HASH}"]
    priority: Low
    requestsPerMinute: 600
    tokensPerMinute: 100000
    tokenBurst: 20000
    budget: {{period: Month, usd: 10, carbonGco2: 5000}}
"""


def test_a_list_is_read_from_a_file_and_from_a_secret_in_both_forms() -> None:
    secrets = [
        {"stringData": {"tenants.yaml": LIST}},
        {"data": {"tenants.yaml": b64encode(LIST.encode()).decode()}},
    ]
    texts = [LIST, *(yaml.safe_dump({"apiVersion": "v1", "kind": "Secret", **secret}) for secret in secrets)]
    first, *others = (load_documents(text, "t.yaml").tenant_lists for text in texts)
    assert len(first) == 1
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("priority:", "priorty:", "unknown field; did you mean priority?"),
        (HASH, "sk-very-secret", "keyHashes"),
        ("requestsPerMinute: 600", "requestBurst: 5", "requestBurst needs requestsPerMinute"),
        ("    tokensPerMinute: 100000\n", "", "tokenBurst needs tokensPerMinute"),
        ("usd: 10, carbonGco2: 5000", "", "set usd, carbonGco2 or both"),
        ("priority: Low", "priority: low", "priority"),
    ],
)
def test_a_mistake_is_one_line_that_shows_no_key(old: str, new: str, said: str) -> None:
    assert old in LIST
    with pytest.raises(DocumentError) as raised:
        load_documents(LIST.replace(old, new), "t.yaml")
    assert said in str(raised.value)
    assert str(raised.value).startswith("t.yaml:")
    assert "very-secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_two_tenants_cannot_have_the_same_key() -> None:
    with pytest.raises(DocumentError, match="tenants research and other have the same key"):
        load_documents(LIST + f'  - {{name: other, keyHashes: ["{HASH}"]}}\n', "t.yaml")


def test_validate_counts_lists_of_tenants(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text(LIST)
    result = CliRunner().invoke(marlin, ["validate", str(file)])
    assert result.exit_code == 0
    assert result.output == "valid: 1 TenantList\n"
