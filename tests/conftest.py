"""What holds for every test: how many examples a law gets, and that nothing is left running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", max_examples=60, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True, scope="session")
def what_killed_processes_leave_is_in_the_tests_own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Operators that are killed on purpose cannot clear away what they unpacked; pytest does it, three runs later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("killed")))
        yield


@pytest.fixture(autouse=True, scope="session")
def nothing_is_left_running() -> Iterator[None]:
    """Fails the run when a test leaves a child process behind."""
    yield
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    left = children.read_text().split() if children.exists() else []
    commands = [
        Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        for pid in left
        if Path(f"/proc/{pid}/cmdline").exists()
    ]
    running = [command for command in commands if command and "resource_tracker" not in command]
    assert not running, f"left running: {running}"
