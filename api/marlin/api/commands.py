"""``marlin validate``, ``marlin crds``, ``marlin completion``: the contract's own commands, and its only file I/O."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

# The models are imported inside the functions: they take pydantic's tenth of a second, which --help should not.


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def validate(files: tuple[str, ...], as_json: bool) -> None:
    """Check configuration files.

    Reads Datacenter, InferencePool, MarlinPolicy, RoutingTable and TenantList documents (and ConfigMaps and Secrets
    that carry one of the last two) the way every other command does, and says what is in them. References between
    the documents are checked over all files together. A FILE of - is standard input.

    \b
    Examples:
      marlin validate fleet.yaml
      marlin validate datacenters.yaml pools.yaml policy.yaml
      kubectl get mdc,mpool,mpol -A -o json | marlin validate -
    """  # noqa: D301
    from marlin.api.documents import Documents, load_documents  # noqa: PLC0415
    from marlin.api.errors import InputError  # noqa: PLC0415
    from marlin.api.references import dangling_references  # noqa: PLC0415

    loaded = [load_documents(_read(file), _shown(file)) for file in files]
    together = Documents(
        datacenters=tuple(d for one in loaded for d in one.datacenters),
        pools=tuple(p for one in loaded for p in one.pools),
        policies=tuple(p for one in loaded for p in one.policies),
        tables=tuple(t for one in loaded for t in one.tables),
        tenant_lists=tuple(t for one in loaded for t in one.tenant_lists),
    )
    counts = {
        "Datacenter": len(together.datacenters),
        "InferencePool": len(together.pools),
        "MarlinPolicy": len(together.policies),
        "RoutingTable": len(together.tables),
        "TenantList": len(together.tenant_lists),
    }
    if not sum(counts.values()):
        raise InputError(f"{', '.join(map(_shown, files))}: no documents found")
    problems = dangling_references(together)
    if as_json:
        click.echo(json.dumps({"valid": not problems, "counts": counts, "problems": problems}))
        if problems:
            sys.exit(2)
        return
    if problems:
        for problem in problems[:-1]:
            click.echo(f"Error: {problem}", err=True)
        raise InputError(problems[-1])
    click.echo("valid: " + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count))


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write one file per kind here.")
@click.option("--check", is_flag=True, help="Write nothing; fail when the files in --out differ.")
def crds(out: Path | None, check: bool) -> None:
    """Write the CustomResourceDefinitions.

    The definitions are generated from MARLIN's models. Without --out they go to standard output, ready for kubectl.

    \b
    Examples:
      marlin crds | kubectl apply --server-side -f -
      marlin crds --out manifests/crds
      marlin crds --out manifests/crds --check
    """  # noqa: D301
    from marlin.api.crds import crd_yaml  # noqa: PLC0415
    from marlin.api.errors import MarlinError  # noqa: PLC0415

    files = crd_yaml()
    if out is None:
        if check:
            raise click.UsageError("--check needs --out: the folder to compare with")
        click.echo("---\n".join(files.values()), nl=False)
        return
    if check:
        stale = [name for name, text in files.items() if not _holds(out / name, text)]
        extra = sorted(path.name for path in out.glob("*.yaml") if path.name not in files)
        if stale or extra:
            raise MarlinError(f"{out}: differs from the models in {', '.join(stale + extra)}; run `make generate`")
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
        click.echo(f"wrote {out / name}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell completion script.

    \b
    Examples:
      marlin completion bash > ~/.local/share/bash-completion/completions/marlin
      source <(marlin completion zsh)
      marlin completion fish > ~/.config/fish/completions/marlin.fish
    """  # noqa: D301
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    from marlin.api.cli import marlin  # noqa: PLC0415

    completer = get_completion_class(shell)
    assert completer is not None, f"click has no completion for {shell}"
    click.echo(completer(marlin, {}, "marlin", "_MARLIN_COMPLETE").source())


def _read(file: str) -> str:
    from marlin.api.errors import InputError  # noqa: PLC0415

    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: {(error.strerror or 'cannot be read').lower()}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{_shown(file)}: not UTF-8 text (byte {error.start})") from error


def _shown(file: str) -> str:
    return "standard input" if file == "-" else file


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except OSError:
        return False
