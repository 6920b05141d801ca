"""The ``marlin`` command: a table of sub-commands, each resolved when it is called.

The table holds ``module:attribute`` strings, so that ``marlin router --help`` imports the router's options and nothing
else. This module is the one place that knows all components, and it knows them by name only (the architecture's single
exception from the direction of imports). An error a person can act upon leaves as one line: exit code 2 when what was
given is wrong, 1 for everything else.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import click

from marlin.api.errors import InputError, MarlinError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a sub-command lives, which extra it needs, and its line in the list."""

    target: str
    extra: str
    summary: str


COMMANDS: Final[dict[str, Entry]] = {
    "demo": Entry("marlin.operator.cli:demo", "demo", "Run the whole loop on this machine and compare planners."),
    "simulate": Entry("marlin.policy.simulate_cli:simulate", "demo", "Run a planner in the digital twin."),
    "train": Entry("marlin.policy.train_cli:train", "train", "Train MARLIN's agents in the digital twin."),
    "adapt": Entry(
        "marlin.policy.adapt_cli:adapt", "train", "Let a trained policy learn on from a fleet's own epochs."
    ),
    "plan": Entry("marlin.policy.cli:plan", "demo", "Decide one epoch's plan for a fleet and say why."),
    "evaluate": Entry("marlin.policy.evaluate_cli:evaluate", "sim", "Score MARLIN beside its yardsticks."),
    "router": Entry("marlin.router.cli:router", "router", "Send requests to datacenters as the plan says."),
    "operator": Entry("marlin.operator.cli:operator", "operator", "Plan every epoch for the objects of a cluster."),
    "report": Entry(
        "marlin.operator.report.cli:report", "demo", "Say what an interval took in energy, carbon, water and money."
    ),
    "emulate": Entry("marlin.simulator.emulator.cli:emulate", "demo", "Serve an emulated vLLM."),
    "validate": Entry("marlin.api.commands:validate", "router", "Check configuration files."),
    "crds": Entry("marlin.api.commands:crds", "router", "Write the CustomResourceDefinitions."),
    "completion": Entry("marlin.api.commands:completion", "router", "Print a shell completion script."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table: by what people reach for first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command.

        Raises:
            click.ClickException: a library of an extra is missing; the message names the extra.
        """
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        try:
            return cast("click.Command", getattr(importlib.import_module(module), attribute))
        except ModuleNotFoundError as error:
            raise _missing(cmd_name, entry, error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands from the table, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what a person can act upon becomes one line."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name = ctx.invoked_subcommand or ""
            if (error.name or "").startswith("marlin") or name not in COMMANDS:
                raise
            raise _missing(name, COMMANDS[name], error) from error
        except InputError as error:
            raise _OneLine(str(error), exit_code=2) from error
        except MarlinError as error:
            raise _OneLine(str(error), exit_code=1) from error


class _OneLine(click.ClickException):
    """One line on standard error, and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(" ".join(message.split()))
        setattr(self, "exit_code", exit_code)  # noqa: B010 click declares it on the class and reads it from the instance


def _missing(name: str, entry: Entry, error: ModuleNotFoundError) -> click.ClickException:
    if (error.name or "").startswith("marlin"):
        raise error
    return _OneLine(f"marlin {name} needs {error.name}: pip install 'marlin[{entry.extra}]'", exit_code=1)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="marlin", prog_name="marlin")
def marlin() -> None:
    """Send each language-model request to the right datacenter.

    \b
    Examples:
      marlin demo                              the whole loop on this machine, in two minutes
      marlin plan --scenario demo-3            one plan, and why
      marlin router --config fleet.yaml        route requests by the plan in a file
      marlin validate fleet.yaml               check a configuration before using it
    """  # noqa: D301 the backslash is click's mark for a block to keep


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``marlin`` command."""
    # Threads of linear algebra spin while they wait for each other. Matrices as small as ours gain nothing by them, and
    # on a crowded machine an evaluated day took up to eight times the time. Whoever sets it has the last word.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        marlin.main(args=arguments, prog_name="marlin")
    except BrokenPipeError:
        # The reader of our output went away (`marlin ... | head`). Nothing is wrong, and there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
