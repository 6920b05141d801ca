"""``marlin router``: the command line of the router. Imports nothing heavy before it has to run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_PATH = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_PORT = click.IntRange(0, 65_535)
_SECONDS = click.FloatRange(min=0, min_open=True)
_SECONDS_OR_0 = click.FloatRange(min=0)


@click.command("router", short_help="Send requests to datacenters as the plan says.")
@click.option("--config", type=_PATH, help="RoutingTable, ConfigMap with one, or fleet documents.")
@click.option(
    "--table-config-map",
    metavar="NAMESPACE/NAME[/KEY]",
    help="Watch the table in this ConfigMap on an API server (NAMESPACE . is the pod's); --config is the first table.",
)
@click.option("--table-server", metavar="URL", help="That API server. Default: the pod's, with its service account.")
@click.option("--table-ca-file", type=_FILE, help="Its authority.")
@click.option("--table-token-file", type=_FILE, help="File that holds a token for it, read anew for each request.")
@click.option("--table-cache", type=_PATH, help="Keep the newest watched table in this file, for the next start.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=_PORT, default=8080, show_default=True, help="Port to listen on; 0: any free one.")
@click.option("--admin-host", default="127.0.0.1", show_default=True, help="Address of --admin-port.")
@click.option(
    "--admin-port",
    type=_PORT,
    default=8081,
    show_default=True,
    help="Port for /metrics, /healthz, /readyz and /debug; 0: any free one.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that serve requests, one core each.",
)
@click.option("--origin", metavar="NAME", help="Origin this router stands for: its row of the plan is used.")
@click.option("--namespace", metavar="NAME", help="Read pools and policies of this namespace only.")
@click.option("--secrets-dir", type=_FOLDER, help="Folder where Secrets are mounted, as NAME/KEY.")
@click.option("--tls-certificate-file", type=_FILE, help="Certificate for clients, with its chain. Default: no TLS.")
@click.option("--tls-key-file", type=_FILE, help="Its private key.")
@click.option("--tls-client-ca-file", type=_FILE, help="Clients must have a certificate of these authorities.")
@click.option(
    "--tenants", type=_FILE, help="TenantList, or a Secret with one: keys, rates, budgets. Default: all may come."
)
@click.option("--peers", metavar="NAME", help="Headless Service of this router: its pods divide tenants' limits.")
@click.option("--budget-store", metavar="URL", help="redis://HOST[:PORT][/DATABASE] in which routers add up budgets.")
@click.option("--budget-store-password-file", type=_FILE, help="File that holds its password.")
@click.option(
    "--session-prompt-bytes",
    type=click.IntRange(0, 65536),
    default=0,
    show_default=True,
    help="Prompts that begin with the same N bytes are one session, where no other key is given; 0: they are drawn.",
)
@click.option(
    "--stream-estimates/--no-stream-estimates",
    "has_stream_estimates",
    default=False,
    show_default=True,
    help="End event streams with a comment that says what they cost.",
)
@click.option("--connect-timeout-s", type=_SECONDS, default=2.0, show_default=True, help="Wait for a connection.")
@click.option("--request-timeout-s", type=_SECONDS, default=1800.0, show_default=True, help="Longest request.")
@click.option(
    "--stream-idle-timeout-s", type=_SECONDS, default=300.0, show_default=True, help="Longest silence of a stream."
)
@click.option(
    "--probe-interval-s", type=_SECONDS_OR_0, default=2.0, show_default=True, help="Between health probes; 0: none."
)
@click.option(
    "--scrape-interval-s",
    type=_SECONDS_OR_0,
    default=1.0,
    show_default=True,
    help="Between looks at engines' metrics; 0: none, and member routers are not asked for their load.",
)
@click.option(
    "--max-body-mb",
    "max_body_bytes",
    type=click.FloatRange(min=0.001),
    default=100.0,
    show_default=True,
    callback=lambda _context, _option, value: int(value * 2**20),
    help="Largest body of a request, MiB.",
)
@click.option(
    "--drain-grace-s",
    type=_SECONDS_OR_0,
    default=3.0,
    show_default=True,
    help="After SIGTERM, accept requests for this long while /readyz says 503.",
)
@click.option(
    "--drain-timeout-s",
    type=_SECONDS_OR_0,
    default=600.0,
    show_default=True,
    help="After that, let running requests end for at most this long.",
)
@click.option(
    "--otlp-endpoint", metavar="URL", help="OpenTelemetry collector (http://HOST:4318) that gets a span a request."
)
@click.option(
    "--trace-ratio",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Part of the requests without a traceparent that is traced; the others' traceparent decides.",
)
@click.option(
    "--access-log/--no-access-log", "has_access_log", default=True, show_default=True, help="A line for each request."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--seed", type=int, help="Phase of the draws. Default: random, so that routers differ.")
@click.option(
    "--port-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Written when the router listens: its port, then the admin port on a second line.",
)
def router(**options: Any) -> None:
    """Send each request to the datacenter that the plan says, and pass bytes through.

    Takes OpenAI-style requests, reads the model's name, chooses a datacenter and a backend, and streams the reply
    back as it comes. The configuration is read again when the file changes and on SIGHUP; a bad one is reported and
    changes nothing. SIGTERM drains: no request is cut off.

    \b
    Examples:
      marlin router --config fleet.yaml
      marlin router --config table.json --origin eu-central --workers 2
      marlin router --config fleet.yaml --host 0.0.0.0 --secrets-dir /var/run/marlin/secrets --log-format json
    """  # noqa: D301 the backslash is click's mark for a block to keep
    # Imported here so that --help answers without them.
    import asyncio  # noqa: PLC0415

    from marlin.api.errors import InputError  # noqa: PLC0415
    from marlin.api.tracing import TracingError  # noqa: PLC0415
    from marlin.router.logs import configure  # noqa: PLC0415
    from marlin.router.process import StartError, serve  # noqa: PLC0415
    from marlin.router.settings import Settings  # noqa: PLC0415

    try:
        from uvloop import new_event_loop as fast_loop  # noqa: PLC0415
    except ImportError:  # not there on every platform; asyncio's own loop does
        fast_loop = None  # type: ignore[assignment]

    _check_table(options)
    _check_tls(options)
    _check_tenants(options)
    configure(options["log_format"])
    try:
        with asyncio.Runner(loop_factory=fast_loop) as runner:
            runner.run(serve(Settings(**options)))
    except InputError as error:
        option = "--tenants" if str(error).startswith(f"{options['tenants']}:") else "--config"
        raise click.UsageError(f"{option}: {error}") from None
    except (StartError, TracingError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error}") from None


def _check_table(options: dict[str, Any]) -> None:
    """Refuses to start without a table, unless one is watched."""
    config, config_map = options["config"], options["table_config_map"]
    if config_map is None:
        for name in ("server", "ca_file", "token_file", "cache"):
            if options[f"table_{name}"] is not None:
                raise click.UsageError(f"--table-{name.replace('_', '-')} needs --table-config-map")
        if config is None:
            raise click.UsageError("Missing option '--config'.")
        if not config.is_file():
            raise click.UsageError(f"Invalid value for '--config': File '{config}' does not exist.")
        return
    from marlin.api.errors import InputError  # noqa: PLC0415
    from marlin.router.table_place import place_of  # noqa: PLC0415

    where = (options["table_server"], options["table_ca_file"], options["table_token_file"])
    try:
        place_of(config_map, *where, os.environ)
    except InputError as error:
        raise click.UsageError(str(error)) from None


def _check_tls(options: dict[str, Any]) -> None:
    """Refuses files that are no certificate and key, before workers would."""
    certificate, key, client_ca = (options[f"tls_{name}_file"] for name in ("certificate", "key", "client_ca"))
    if certificate is None and key is None and client_ca is None:
        return
    if certificate is None or key is None:
        raise click.UsageError("TLS needs both --tls-certificate-file and --tls-key-file")
    from marlin.router.server_tls import ServerTls  # noqa: PLC0415

    try:
        ServerTls(certificate, key, client_ca)
    except OSError as error:
        raise click.UsageError(f"--tls-certificate-file, --tls-key-file or --tls-client-ca-file: {error}") from None


def _check_tenants(options: dict[str, Any]) -> None:
    """Refuses what would limit nobody: limits are those of a list of tenants."""
    for name, needed in (
        ("peers", "tenants"),
        ("budget_store", "tenants"),
        ("budget_store_password_file", "budget_store"),
    ):
        if options[name] is not None and options[needed] is None:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --{needed.replace('_', '-')}")


if __name__ == "__main__":
    router()
