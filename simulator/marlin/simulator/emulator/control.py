"""``/emulator/faults``: shows, sets and clears faults while the server runs. No part of vLLM."""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiohttp import web

from marlin.simulator.emulator.engine import Engine
from marlin.simulator.emulator.faults import NAMES, FaultBoard, FaultError, fault_from
from marlin.simulator.emulator.replies import json_reply


@dataclass(frozen=True, slots=True)
class Control:
    """The endpoint and what it changes."""

    faults: FaultBoard
    engine: Engine

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET shows; POST sets one fault or a list under ``faults``; DELETE clears all or ``?fault=NAME``."""
        if request.path != "/emulator/faults":
            return json_reply({"error": "the emulator's own path is /emulator/faults"}, 404)
        try:
            if request.method == "POST":
                await self._set(request)
            elif request.method == "DELETE":
                self._clear(request.query.get("fault"))
            elif request.method != "GET":
                return json_reply({"error": "GET shows, POST sets, DELETE clears"}, 405, {"allow": "GET, POST, DELETE"})
        except FaultError as error:
            return json_reply({"error": str(error)}, 400)
        return json_reply(self.faults.document())

    async def _set(self, request: web.Request) -> None:
        try:
            document = json.loads(await request.read())
        except ValueError as error:
            raise FaultError(f"the body is no JSON: {error}") from None
        wanted = document.get("faults", [document]) if isinstance(document, dict) else document
        if not isinstance(wanted, list) or not all(isinstance(one, dict) for one in wanted):
            raise FaultError('give one fault, {"fault": NAME, ...}, or a list of them under "faults"')
        for fault in [fault_from(one) for one in wanted]:
            self.faults.set(fault)
        if self.faults.dead:
            self.engine.abort_all("dead")

    def _clear(self, name: str | None) -> None:
        if name is None:
            self.faults.clear()
            return
        name = name.replace("_", "-")
        if name not in NAMES:
            raise FaultError(f"no fault {name!r}; there are {', '.join(NAMES)}")
        self.faults.clear(name)
