"""What the operator decides, as pure functions: a world in, what to write out.

- ``observed``    objects as the API server holds them, read as far as they can be
- ``acceptance``  which policy plans which pools over which sites, or why it does not
- ``found``       documents with what was found in the clusters written in
- ``artifact_use`` which trained policy a planner is to use
- ``standing``    the agents' capital, as a status keeps it
- ``fleet``       a policy's objects and readings as a ``FleetState``
- ``planning``    one epoch's plan for one policy, inside its guardrails
- ``predicting``  what the twin expects of each pool under it
- ``negotiation`` how the agents came to it
- ``guardrails``  how far a plan may move away from the one before it
- ``tables``      plan to ``RoutingTable``, one per origin
- ``published``   routing tables as text, packed
- ``statements``  conditions: types, reasons, since when
- ``statuses``    the status of each kind
- ``applies``     what is to be written, as values
- ``scaling``     replicas that a plan wants, as orders to workloads
- ``memory``      what a round remembers of those before it
- ``report``      what a round saw and decided, for metrics
- ``reconcile``   all of it together: a ``World`` in, ``Actions`` out
"""
