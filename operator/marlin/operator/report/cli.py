"""``marlin report``: the options, and nothing that takes time to import."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from marlin.api.errors import InputError, MarlinError

if TYPE_CHECKING:
    from marlin.operator.report.seen import Seen


@click.command()
@click.option("--prometheus", "url", metavar="URL", help="Base address of a Prometheus that scraped the routers.")
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Instead: recorded epochs and plans, one a line, as marlin simulate --history writes them.",
)
@click.option("--from", "start", required=True, metavar="TIME", help="Begin, e.g. 2026-11-01 or 2026-11-01T06:00Z.")
@click.option("--to", "end", required=True, metavar="TIME", help="End, the same way. Without a zone it is UTC.")
@click.option(
    "--selector",
    default='job="marlin-router-metrics"',
    show_default=True,
    help="Label matchers of the routers to count: the first hop's, since members count the same requests again.",
)
@click.option(
    "--embodied-gco2",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0.0),
    help="Embodied emissions of the machines for this interval, gCO2eq: M of the SCI.",
)
@click.option("--format", "format_", default="html", show_default=True, type=click.Choice(["html", "csv", "json"]))
@click.option(
    "--out",
    default="-",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="File to write; - is standard output.",
)
def report(
    url: str | None,
    history: Path | None,
    start: str,
    end: str,
    selector: str,
    embodied_gco2: float,
    format_: str,
    out: Path,
) -> None:
    """Say what an interval took in energy, carbon, water and money.

    Reads the routers' counters out of a Prometheus, by pool, datacenter and tenant, or lives a recorder's epochs
    through in the digital twin, by pool and datacenter; and sets routing by capacity beside it. The report states its
    method, how sure it is, and what it does not know.

    \b
    Examples:
      marlin report --prometheus http://127.0.0.1:9090 --from 2026-11-01 --to 2026-12-01 --out november.html
      marlin report --prometheus http://127.0.0.1:9090 --from 2026-11-27T00:00Z --to 2026-11-28T00:00Z --format json
      marlin report --history epochs.jsonl --from 2023-06-12 --to 2023-06-13 --format csv --out day.csv
    """  # noqa: D301 the backslash is click's mark for a block to keep
    from marlin.operator.report.render import as_csv, as_html, as_json, document  # noqa: PLC0415

    begins, ends = moment("--from", start), moment("--to", end)
    if begins >= ends:
        raise InputError("--from has to be before --to")
    if (url is None) == (history is None):
        raise click.UsageError("give one of --prometheus and --history")
    if history is not None:
        seen = _of_history(history, begins, ends)
    else:
        seen = _of_prometheus(url or "", begins, ends, selector)
    write = {"html": as_html, "csv": as_csv, "json": as_json}[format_]
    text = write(document(seen, begins, ends, embodied_gco2))
    if str(out) == "-":
        click.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MarlinError(f"--out: {out} cannot be written: {error.strerror or error}") from error


def _of_prometheus(url: str, begins: datetime, ends: datetime, selector: str) -> Seen:
    from marlin.operator.report.prometheus import read  # noqa: PLC0415 --help should not wait for aiohttp

    if not url.startswith(("http://", "https://")):
        raise InputError(f"--prometheus: {url!r} should begin with http:// or https://")
    seen = asyncio.run(read(url, begins, ends, selector))
    if not seen.sites and not seen.unreached.requests:
        raise InputError(f"no requests were counted with {{{selector}}} in this interval; see --selector")
    return seen


def _of_history(file: Path, begins: datetime, ends: datetime) -> Seen:
    from marlin.operator.report.recorder import read  # noqa: PLC0415 nor for NumPy

    return read(file, begins, ends)


def moment(option: str, text: str) -> datetime:
    """An ISO 8601 date or time; UTC where it names no zone.

    Raises:
        InputError: it is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option}: {text!r} should look like 2026-11-01 or 2026-11-01T06:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
