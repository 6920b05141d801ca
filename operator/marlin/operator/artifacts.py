"""Trained policies: fetched from where a MarlinPolicy says they lie, checked, and kept as folders to be loaded from.

An archive is a tar file with a card and weights, and nothing else is taken out of it: two regular files of known names
and bounded size. Loading checks every byte and unpickles nothing. An artifact that is refused leaves the one before it
in use; which one that was is known to this process only, so that after a restart the last plan stays instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import lzma
import tarfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from marlin.api.errors import InputError
from marlin.api.plan import PlannerKind
from marlin.api.policy import ArtifactRef, UrlArtifact
from marlin.operator.core.artifact_use import ROLES, ArtifactUse
from marlin.operator.core.observed import Key, ObservedPolicy
from marlin.operator.sending import Credentials, destination, tls_context
from marlin.operator.signals.http import Http, Request, SignalError
from marlin.policy.agents import shipped
from marlin.policy.artifact import CARD_FILE, WEIGHTS_FILE

_log: Final = logging.getLogger(__name__)

MOST_BYTES: Final = 64 * 2**20
"""Largest archive."""
WAIT_S: Final = 3.0
RETRY_S: Final = 30.0
"""Between two attempts to fetch; a ConfigMap that changed is noticed after as long."""


class Files(Credentials, Protocol):
    """The operator's own namespace."""

    async def config_map_bytes(self, name: str, key: str) -> bytes:
        """A key of a ConfigMap's ``binaryData``.

        Raises:
            SignalError: there is none.
        """


@dataclass(frozen=True, slots=True)
class _Fetched:
    folder: Path | None
    problem: str
    at_s: float


class Artifacts:
    """The artifacts of all policies.

    Args:
        files: where ConfigMaps and Secrets are.
        http: fetches.
        folder: where archives are unpacked, one folder for each digest.
        volumes: folder under which PersistentVolumeClaims are mounted by name; None: none are.
        ring: called when something was fetched.
        clock_s: seconds that only grow.
    """

    def __init__(
        self,
        files: Files,
        http: Http,
        folder: Path,
        volumes: Path | None,
        ring: Callable[[], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._http = http
        self._folder = folder
        self._volumes = volumes
        self._ring = ring
        self._clock_s = clock_s
        self._fetched: dict[str, _Fetched] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._good: dict[tuple[Key, str], Path] = {}

    async def uses(self, policies: Iterable[ObservedPolicy]) -> dict[tuple[Key, str], ArtifactUse]:
        """(policy, role) to the artifact that its planner or shadow of kind Marlin is to use."""
        wanted: dict[tuple[Key, str], ArtifactRef | None] = {}
        for policy in policies:
            if policy.model is None:
                continue
            for role, spec in zip(ROLES, (policy.model.spec.planner, policy.model.spec.shadow), strict=True):
                if spec is not None and spec.kind is PlannerKind.MARLIN:
                    wanted[policy.key, role] = spec.artifact_ref
        refs = {_key(ref): ref for ref in wanted.values() if ref is not None and ref.built_in is None}
        for key in self._fetched.keys() - refs.keys():
            del self._fetched[key]
        for key, ref in refs.items():
            if key not in self._tasks and self._is_due(key, ref):
                self._tasks[key] = asyncio.create_task(self._fetch(key, ref))
        first = [task for key, task in self._tasks.items() if key not in self._fetched]
        if first:
            await asyncio.wait(first, timeout=WAIT_S)
        self._good = {one: folder for one, folder in self._good.items() if one in wanted}
        return {one: self._use(one, ref) for one, ref in wanted.items()}

    async def close(self) -> None:
        """Ends what is fetched."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _use(self, one: tuple[Key, str], ref: ArtifactRef | None) -> ArtifactUse:
        if ref is None or ref.built_in is not None:
            self._good.pop(one, None)
            return ArtifactUse(None, "" if shipped.has_shipped() else "this installation brings no trained policy")
        found = self._fetched.get(_key(ref))
        if found is None:
            return ArtifactUse(self._good.get(one), "it is being fetched")
        if found.folder is not None:
            self._good[one] = found.folder
            return ArtifactUse(found.folder)
        return ArtifactUse(self._good.get(one), found.problem)

    def _is_due(self, key: str, ref: ArtifactRef) -> bool:
        found = self._fetched.get(key)
        if found is None:
            return True
        if found.folder is not None and ref.http is not None:
            return False  # its digest says that it is what it was
        return self._clock_s() - found.at_s >= RETRY_S

    async def _fetch(self, key: str, ref: ArtifactRef) -> None:
        before = self._fetched.get(key)
        try:
            folder, problem = await self._folder_of(ref), ""
        except (SignalError, InputError) as error:
            folder, problem = None, " ".join(str(error).split())
            if before is None or before.problem != problem:
                _log.warning("artifact: %s", problem)
        except Exception as error:  # noqa: BLE001 it costs one artifact, never the loop
            _log.exception("fetching an artifact failed")
            folder, problem = None, f"{type(error).__name__} in the operator; its log has the trace"
        self._fetched[key] = _Fetched(folder, problem, self._clock_s())
        del self._tasks[key]
        if before is None or (before.folder, before.problem) != (folder, problem):
            self._ring()

    async def _folder_of(self, ref: ArtifactRef) -> Path:
        """Where the artifact lies once it was fetched and checked."""
        if (claim := ref.persistent_volume_claim) is not None:
            if self._volumes is None:
                raise InputError("no volumes are mounted for artifacts: start the operator with --artifact-volumes")
            root = (self._volumes / claim.claim_name).resolve()
            folder = (root / claim.path).resolve()
            if not folder.is_relative_to(root):
                raise InputError(f"persistentVolumeClaim: {claim.path} leads out of the volume")
        else:
            data = await self._archive(ref)
            folder = await asyncio.to_thread(unpack, data, self._folder)
        await asyncio.to_thread(shipped.load, folder)
        return folder

    async def _archive(self, ref: ArtifactRef) -> bytes:
        if ref.config_map_ref is not None:
            return await self._files.config_map_bytes(ref.config_map_ref.name, ref.config_map_ref.key)
        assert ref.http is not None
        data = await self._download(ref.http)
        if (digest := hashlib.sha256(data).hexdigest()) != ref.http.sha256:
            raise InputError(f"{ref.http.url}: its sha256 is {digest[:12]}..., not {ref.http.sha256[:12]}...")
        return data

    async def _download(self, source: UrlArtifact) -> bytes:
        headers = {}
        if (token := source.token_secret_ref) is not None:
            to = destination(source.url, source.tls)
            headers["Authorization"] = f"Bearer {await self._files.credential(token.name, token.key, to)}"
        request = Request(
            source.url,
            headers=headers,
            context=await tls_context(source.tls, self._files),
            server_name=source.tls.server_name,
            most_bytes=MOST_BYTES,
        )
        return await self._http.get(request)


def unpack(data: bytes, into: Path) -> Path:
    """The folder with the card and the weights of an archive, named by its digest.

    Raises:
        InputError: it is no tar file, or does not hold exactly one of each.
    """
    folder = into / hashlib.sha256(data).hexdigest()
    if (folder / CARD_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
        return folder
    parts: dict[str, bytes] = {}
    whole = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                whole += member.size  # what is skipped is decompressed too
                if whole > 2 * MOST_BYTES:
                    raise InputError(f"the archive unpacks to more than {2 * MOST_BYTES // 2**20} MiB")
                name = Path(member.name).name
                if not member.isfile() or name not in {CARD_FILE, WEIGHTS_FILE}:
                    continue
                file = archive.extractfile(member)
                if name in parts or file is None or member.size > MOST_BYTES:
                    raise InputError(f"the archive holds {name} twice, or larger than {MOST_BYTES // 2**20} MiB")
                parts[name] = file.read()
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise InputError(f"the archive is not a tar file, or was damaged: {reason}") from None
    if missing := {CARD_FILE, WEIGHTS_FILE} - parts.keys():
        raise InputError(f"the archive holds no {' and no '.join(sorted(missing))}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_FILE, CARD_FILE):  # the card last: with it the folder is whole
        (folder / name).write_bytes(parts[name])
    return folder


def _key(ref: ArtifactRef) -> str:
    return ref.model_dump_json(exclude_none=True)
