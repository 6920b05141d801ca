"""The ``marlin`` command as processes: what it imports, how fast it helps, how it refuses."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DATACENTER, POLICY, POOL

from marlin.api.cli import COMMANDS, LazyGroup, marlin

ROOT = Path(__file__).resolve().parents[2]
MARLIN = (sys.executable, "-m", "marlin.api.cli")

HEAVY = ("numpy", "torch", "kopf", "pydantic", "aiohttp", "scipy", "numba", "rich")


def run(*arguments: str, text: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MARLIN, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False, cwd=cwd
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy_and_shows_examples(name: str) -> None:
    code = (
        "import sys\nfrom marlin.api.cli import main\n"
        f"try:\n    main([{name!r}, '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "Examples:" in done.stdout
    assert f"marlin {name}" in done.stdout
    assert done.stdout.rstrip().endswith("LOADED []")


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for name in COMMANDS:
        assert run(name, "--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s / len(COMMANDS) < 0.5


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_the_command_says_of_itself(name: str) -> None:
    assert isinstance(marlin, LazyGroup)
    command = marlin.get_command(marlin.make_context("marlin", ["--help"], resilient_parsing=True), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == COMMANDS[name].summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rooter",), "No such command 'rooter'"),
        (("validate",), "Missing argument 'FILE...'"),
        (("validate", "--jsn", "x"), "--json"),
        (("validate", "/no/such/file.yaml"), "/no/such/file.yaml: no such file or directory"),
        (("validate", "/"), "/: is a directory"),
        (("crds", "--check"), "--check needs --out"),
        (("completion", "tcsh"), "'tcsh' is not one of"),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_library_is_told_with_the_extra_that_brings_it() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from marlin.api.cli import main; main(['plan', '--scenario', 'demo-3'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: marlin plan needs numpy: pip install 'marlin[demo]'"


def test_validate_says_what_it_found() -> None:
    done = run("validate", "-", text=f"{DATACENTER}---\n{POOL}---\n{POLICY}")
    assert done.stdout.strip() == "valid: 1 Datacenter, 1 InferencePool, 1 MarlinPolicy"


def test_validate_checks_references_over_all_files_together(tmp_path: Path) -> None:
    for name, text in (("dc.yaml", DATACENTER), ("pool.yaml", POOL), ("policy.yaml", POLICY)):
        (tmp_path / name).write_text(text)
    assert run("validate", "dc.yaml", "pool.yaml", "policy.yaml", cwd=tmp_path).returncode == 0
    alone = run("validate", "pool.yaml", cwd=tmp_path)
    assert alone.returncode == 2
    assert "there is no Datacenter frankfurt in these files" in alone.stderr


def test_validate_as_json_lists_every_problem() -> None:
    done = run("validate", "--json", "-", text=POOL)
    result = json.loads(done.stdout)
    assert done.returncode == 2
    assert result["valid"] is False
    assert result["counts"]["InferencePool"] == 1
    assert len(result["problems"]) == 2


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"kind: \xff\xfe")
    done = run("validate", "x.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "x.yaml: not UTF-8 text (byte 6)" in done.stderr


def test_an_empty_file_is_not_called_valid() -> None:
    done = run("validate", "-", text="# nothing\n")
    assert done.returncode == 2
    assert "no documents found" in done.stderr


def test_crds_are_written_and_a_difference_is_found(tmp_path: Path) -> None:
    assert run("crds", "--out", "crds", cwd=tmp_path).returncode == 0
    assert run("crds", "--out", "crds", "--check", cwd=tmp_path).returncode == 0
    file = tmp_path / "crds" / "marlin.dev_datacenters.yaml"
    file.write_text(file.read_text().replace("mdc", "dcs"))
    stale = run("crds", "--out", "crds", "--check", cwd=tmp_path)
    assert stale.returncode == 1
    assert "differs from the models in marlin.dev_datacenters.yaml" in stale.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    writer = subprocess.Popen([*MARLIN, "crds"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.readline()
    writer.stdout.close()
    errors = writer.stderr.read()
    writer.stderr.close()
    assert writer.wait(timeout=30) in {0, 1}
    assert "Traceback" not in errors


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("2", 2)])
def test_linear_algebra_takes_one_thread_unless_somebody_says_otherwise(said: str | None, threads: int) -> None:
    code = (
        "import os\nfrom marlin.api.cli import main\n"
        "try:\n    main(['plan', '--scenario', 'demo-3', '--planner', 'marlin'])\nexcept SystemExit as end:\n"
        "    assert not end.code\nprint('THREADS', len(os.listdir('/proc/self/task')))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    env = kept if said is None else kept | {"OPENBLAS_NUM_THREADS": said}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=env)
    assert int(done.stdout.rsplit("THREADS", 1)[1]) == min(threads, os.cpu_count() or 1)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_completion_script_is_printed(shell: str) -> None:
    assert "_MARLIN_COMPLETE" in run("completion", shell).stdout


def test_completion_knows_the_commands() -> None:
    environment = {**os.environ, "_MARLIN_COMPLETE": "bash_complete", "COMP_WORDS": "marlin ro", "COMP_CWORD": "1"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "marlin")], env=environment, capture_output=True, text=True, check=False
    )
    assert "router" in done.stdout
