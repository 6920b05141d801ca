"""The request-level engine: every request as events, the judge of the fluid engine.

    fleet     a ``TwinState``                    -> ``RequestFleet``: sites, replicas and their tables as arrays
    kernel    fleet, state, plan, one epoch's requests -> events, compiled
    tally     what an epoch amounted to: counts, energy, a histogram of the time to first token
    engine    the three together, behind ``engines.Engine``

Needs the extra ``[sim]``.
"""
