"""The router: takes OpenAI-style requests, sends each to the datacenter that the plan says, and passes bytes on.

A control process and its workers (``docs/explanation/architecture.md``). Decisions are pure functions over plain
values; sockets and files are at the rim. In a worker (standard library, msgspec, uvloop):

- what is decided: ``view`` the parsed table; ``choice`` which datacenter, which backend; ``affinity`` the same for
  sessions; ``balancer`` both with a memory; ``budget`` how many retries; ``responses`` who keeps which; ``loads``
  requests in flight of all workers; ``held`` what backends say they hold
- who comes in: ``gate`` keys, rates, budgets, priorities; ``limits`` their arithmetic; ``ledger`` what was used, shared
- what is read: ``heads`` and ``framing`` HTTP/1; ``body_fields`` the model's name; ``paths`` what is passed on;
  ``usage`` token counts
- the rim: ``downstream`` a client's connection; ``flow`` one request; ``upstream`` a backend's connections; ``plane``
  what they share; ``worker`` the process; ``server_tls`` its certificate
- what is told: ``errors`` our own answers; ``tally`` counts; ``access_log`` and ``logs`` lines; ``tracer`` spans

In the control process (pydantic, aiohttp, prometheus_client):

- ``tables`` and ``fleet`` documents to a RoutingTable and on to a ``view.Table``; ``schedule`` which plan is in force
  when; ``control`` reads and watches the file, ``table_watch`` a ConfigMap on an API server, at its
  ``table_place``
- ``tenant_file`` the list of tenants; ``peers`` how many routers divide their limits; ``store`` budgets
  that they share
- ``crew`` the workers; ``messages`` what they are told and tell; ``probes`` asks backends for their health,
  ``scrapes`` for what they hold
- ``metrics``, ``admin`` and ``explain`` what people see; ``told`` what workers are told first, ``launch`` what runs
  beside them, ``process`` the whole of it; ``settings`` and ``cli`` the command line
"""
