"""How many routers divide the limits: as many as the name of ``--peers`` has addresses.

A headless Service has one address for each pod that is ready, so the name says exactly what is needed, and a pod that
drains or hangs drops out of it by itself. When the name cannot be looked up, the last count stays. ``launch`` runs it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

_LOG = logging.getLogger("marlin.router")

INTERVAL_S: Final = 2.0
"""Between two look-ups; a new pod counts after at most this and what the cluster's DNS remembers."""

Lookup = Callable[[str], Awaitable[set[str]]]


async def addresses_of(name: str) -> set[str]:
    """The addresses that a name has.

    Raises:
        OSError: it cannot be looked up.
    """
    found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return {str(address[0]) for _, _, _, _, address in found}


async def count_peers(
    name: str, on_count: Callable[[int], None], lookup: Lookup = addresses_of, interval_s: float = INTERVAL_S
) -> None:
    """Looks the name up until cancelled.

    Args:
        name: of a headless Service.
        on_count: called with the number of its addresses, whenever that changes.
        lookup: finds addresses.
        interval_s: between two look-ups.
    """
    last, is_known = 0, True
    while True:
        try:
            count = len(await lookup(name))
        except OSError as error:
            if is_known:
                _LOG.warning("--peers %s cannot be looked up, limits stay divided as they are: %s", name, error)
            is_known = False
        else:
            is_known = True
            if count and count != last:
                _LOG.info("limits are divided among %d routers", count)
                last = count
                on_count(count)
        await asyncio.sleep(interval_s)
