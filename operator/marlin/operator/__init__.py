"""Observes the fleet, plans every epoch, publishes the plan.

- ``core``     what is decided, as pure functions: a world in, what to write out
- ``signals``  carbon, water and price of a site, and how far each can be trusted
- ``epochs``   which epoch is to be planned, and when to look again
- ``kube``     the Kubernetes API: access, five verbs, the Lease, the watch
- ``running``  the process: lead, look, decide, write
- ``arrivals`` what pools are asked for: counted, remembered, forecast
- ``learning`` trained policies that learn on, in a process of its own
- ``artifacts`` trained policies: fetched, checked, kept
- ``members``  the clusters of the sites: how they are reached, what is found there
- ``writing``  what was decided, and what of it the API server refused
- ``serving``  ``marlin operator``: signals of the system, logs, health
- ``plan_pages`` plans and routing tables to look at, over HTTP
- ``telemetry`` what all of it is as metrics
- ``demo``     the whole loop on one machine: emulated sites, routers, a planner, a replayed load
- ``cli``      ``marlin demo`` and ``marlin operator``
"""
