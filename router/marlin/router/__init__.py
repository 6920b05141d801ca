"""The router: takes OpenAI-style requests, sends each to the datacenter that the plan says, and passes bytes on.

Decisions are pure functions over plain values; sockets and files are at the rim. What a module may import follows
from that, so that the input and output can be exchanged without touching a decision:

- standard library only (what the hot path reads):
  ``view``      the parsed table: frozen dataclasses, one rule per pool
  ``choice``    which datacenter, which backend
  ``balancer``  choices with memory: in-flight counters, back-off, leases
  ``schedule``  which plan is in force at which moment
  ``paths``     what is passed on at all
  ``headers``   which headers go through
  ``requests``  the model's name, out of a body
  ``usage``     the token counts, out of a reply's tail
  ``errors``    our own answers, in OpenAI's shape
  ``logs``      log lines
- control side (pydantic, ``marlin.api``):
  ``tables``    documents to a RoutingTable, a RoutingTable to a ``view.Table``
  ``control``   reads and watches the file, takes plans over in time
- the rim (aiohttp, prometheus_client):
  ``proxy``     the clients' side of a request
  ``forwarding``  the way to a backend and back
  ``upstream``  connections to backends
  ``probes``    asks backends for their health
  ``metrics``   what is counted
  ``admin``     /metrics, /healthz, /readyz, /debug/table
  ``server``    puts it together, drains on SIGTERM
  ``cli``       the command line
"""
