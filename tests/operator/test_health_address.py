"""Where the operator says how it is, checked before anything starts."""

from __future__ import annotations

from typing import cast

import pytest

from marlin.api.errors import InputError
from marlin.operator.kube.access import Access
from marlin.operator.running import Settings
from marlin.operator.serving import serve


@pytest.mark.parametrize("address", ["8081", ":8081", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:²"])
def test_an_address_that_is_none_is_refused_with_one_that_is(address: str) -> None:
    with pytest.raises(InputError, match=r"--health-address: .* should look like 127\.0\.0\.1:8081"):
        serve(cast("Access", None), cast("Settings", None), health_address=address, log_level="INFO")
