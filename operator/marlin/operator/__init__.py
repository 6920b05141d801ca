"""Observes the fleet, plans every epoch, publishes the plan.

- ``demo``  the whole loop on one machine: emulated sites, routers, a planner, a replayed load
- ``cli``   ``marlin demo``
"""
