"""The contract: every value that crosses from one component of MARLIN to another.

Nothing here computes physics, opens a socket or imports a number library, so that each component, the router's
worker included, can afford to import the one module it needs. There are no re-exports for the same reason:

- ``values``      names, quantities, references, and ``ApiModel``, the base of all models
- ``datacenter``  the ``Datacenter`` kind: where a site is, how it is reached, what its power costs
- ``signals``     where a site's carbon, water and price come from
- ``pool``        the ``InferencePool`` kind: one model, the backends that serve it, what it needs
- ``policy``      the ``MarlinPolicy`` kind: what to balance, how far a plan may go, the plan in force
- ``plan``        ``RoutingPlan``: who gets which share of a model's requests in one epoch
- ``table``       ``RoutingTable``: all that a router may know
- ``tenants``     ``TenantList``: who may send requests, and how many
- ``state``       ``FleetState``: all that a planner and the twin may know at the start of an epoch
- ``metrics``     ``Metrics``: the four numbers everything is judged by
- ``footprint``   the formulas of a single request's energy, carbon, water and cost
- ``tracing``     spans, and the queue from which they go to a collector, where somebody wants them
- ``conditions``  condition types and reasons, one table for code, docs and tests
- ``documents``   YAML text to checked objects, and one-line errors for what is wrong with it
- ``references``  names in one object that another should have
- ``errors``      the errors a person may see, as a tree
- ``crds``        the models as Kubernetes CustomResourceDefinitions
- ``cli``         the ``marlin`` command: a table of sub-commands, resolved when called
- ``commands``    ``marlin crds`` and ``marlin validate``
"""
