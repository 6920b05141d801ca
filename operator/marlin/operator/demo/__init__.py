"""The whole loop on one machine: from a trace to a routed request.

Real processes and real HTTP on loopback: an emulated vLLM for each site (``marlin emulate``), a router for each region
that requests come from (``marlin router``), a planner that makes a new plan each compressed epoch, and a client that
replays a load. ``run`` directs, and the rest are its parts:

- ``settings``   what can be set
- ``fleet``      the sites, the model and the load, and how they become states and tables
- ``schedule``   which request is sent when, drawn once from the seed
- ``processes``  starting and ending emulators and routers
- ``loop``       a state, a decision, a published table, each epoch
- ``load``       the client: sends the schedule and notes what came back
- ``display``    what a person sees meanwhile
- ``report``     what it amounted to
"""
