from __future__ import annotations

import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_second_set_up_finds_nothing_to_do_and_takes_seconds() -> None:
    started_s = time.monotonic()
    for profile in ("dev", "demo"):
        done = subprocess.run(["scripts/setup.sh", profile], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"[setup] nothing to do ({profile})"
    assert time.monotonic() - started_s < 10


def test_an_unknown_profile_is_refused() -> None:
    done = subprocess.run(["scripts/setup.sh", "moon"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown profile 'moon'; there are demo and dev" in done.stderr


def test_a_python_that_is_too_old_or_missing_is_named_in_one_line() -> None:
    done = subprocess.run(
        ["scripts/setup.sh", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHON": "/usr/bin/no-such-python", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("setup: Python 3.11 or newer is needed")
    assert done.stderr.count("\n") == 1


def test_make_help_lists_every_target_a_person_may_call() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "bench", "docs", "e2e-vllm", "generate"):
        assert f"make {target} " in done.stdout


def test_an_unknown_part_of_the_suite_is_refused() -> None:
    done = subprocess.run(
        [".venv/bin/python", "scripts/run_tests.py", "moon"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no such part: moon; there are frame, twin" in done.stderr
