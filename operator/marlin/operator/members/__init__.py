"""The clusters of the sites: how they are reached, and what is found in them.

- ``sighting``   what one look found, as values
- ``discovery``  nodes, EndpointSlices and pods, as node groups and replicas: pure
- ``reaching``   a Datacenter's spec and Secrets, as ``Access``
- ``looking``    one look at a cluster and its router
- ``tasks``      a supervised task for each site, so that a dead cluster delays nothing else
"""
