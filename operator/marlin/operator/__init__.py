"""Observes the fleet, plans every epoch, publishes the plan.

- ``core``     what is decided, as pure functions: a world in, what to write out
- ``signals``  carbon, water and price of a site, and how far each can be trusted
- ``epochs``   which epoch is to be planned, and when to look again
- ``demo``     the whole loop on one machine: emulated sites, routers, a planner, a replayed load
- ``cli``      ``marlin demo``
"""
