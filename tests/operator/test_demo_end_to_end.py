"""The demo as a person runs it: real processes, real HTTP, one short replay per planner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agents import small_artifact
from openai import OpenAI

MARLIN = (sys.executable, "-m", "marlin.api.cli")


def processes_that_mention(text: str) -> list[str]:
    """Command lines, read where every Linux has them: a minimal one has no ps."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if text in command:
            found.append(command)
    return found


@pytest.mark.timeout(110)
def test_a_short_demo_answers_every_request_for_every_planner_and_leaves_nothing_running(tmp_path: Path) -> None:
    result_file = tmp_path / "result.json"
    small_artifact(tmp_path / "policy")
    agents = ["--artifact", str(tmp_path / "policy")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [*MARLIN, "demo", *agents, "--epochs", "3", "--epoch-seconds", "1.5", "--json", str(result_file)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(result_file.read_text())
    assert [column["planner"] for column in result["columns"]] == [
        "marlin balanced",
        "merit-order balanced",
        "capacity-proportional",
        "nearest",
    ]
    sent = {column["sent"] for column in result["columns"]}
    assert len(sent) == 1, "each planner gets the same requests"
    assert sent.pop() > 30
    for column in result["columns"]:
        assert column["answered"] == column["sent"]
        assert column["failed"] == column["lost"] == 0
        assert sum(column["served"].values()) == column["answered"]
        for figure in ("ttft_p50_s", "ttft_p95_s", "carbon_gco2", "water_l", "cost_usd"):
            assert column[figure] > 0
    assert "measured" in run.stdout
    assert "modelled" in run.stdout
    assert not list(tmp_path.glob("marlin-demo-*")), "port files and logs are removed"
    assert processes_that_mention(f"{tmp_path}/marlin-demo") == []


@pytest.mark.timeout(100)
def test_a_served_demo_answers_the_openai_client_and_ends_on_sigterm() -> None:
    port = 18_480 + os.getpid() % 500 * 3
    demo = subprocess.Popen(
        [*MARLIN, "demo", "--serve", "--port", str(port), "--epoch-seconds", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert demo.stdout is not None
        shown = ""
        while "Ctrl-C ends it" not in shown:
            line = demo.stdout.readline()
            assert line, f"ended early: {shown}"
            shown += line
        assert f"http://127.0.0.1:{port}/v1/chat/completions" in shown
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=30) as client:
            stream = client.chat.completions.create(
                model="llama-2-70b", max_tokens=5, stream=True, messages=[{"role": "user", "content": "Hello"}]
            )
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    finally:
        demo.send_signal(signal.SIGTERM)
        assert demo.stdout is not None
        rest = demo.stdout.read()
        demo.stdout.close()
        started_s = time.monotonic()
        assert demo.wait(timeout=20) == 0
        assert time.monotonic() - started_s < 15
    assert "ended" in rest
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--planner", "best-static"],
            "best-static is chosen on past days, which only marlin evaluate does; here there are marlin",
        ),
        (["--planner", "marlin", "--artifact", "no-such"], "no-such/card.json: cannot be read"),
        (["--planner", "nearset"], "planner 'nearset' is not known"),
        (["--scheme", "green"], "scheme 'green' is not known"),
        (["--serve", "--json", "x.json"], "--json goes with a replay"),
    ],
)
def test_what_the_demo_cannot_do_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    run = subprocess.run([*MARLIN, "demo", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.timeout(100)
def test_however_a_demo_is_ended_its_processes_end_too(tmp_path: Path, number: signal.Signals) -> None:
    # Whoever runs the suite in the background may have Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    demo = subprocess.Popen(
        [*MARLIN, "demo", "--epochs", "4", "--epoch-seconds", "5"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    mine = f"{tmp_path}/marlin-demo"
    deadline_s = time.monotonic() + 40
    while len(processes_that_mention(mine)) < 7:
        assert time.monotonic() < deadline_s, "four emulators and three routers never came up"
        time.sleep(0.05)
    demo.send_signal(number)
    code = demo.wait(timeout=20)
    while processes_that_mention(mine):
        assert time.monotonic() < deadline_s + 20, processes_that_mention(mine)
        time.sleep(0.05)
    assert code == (-9 if number is signal.SIGKILL else 130)
    assert number is signal.SIGKILL or not list(tmp_path.glob("marlin-demo-*"))
