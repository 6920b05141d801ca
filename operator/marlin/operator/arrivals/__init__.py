"""What pools are asked for: counted at the routers, remembered by epoch, forecast for the next.

- ``counting``   a router's counters, and what came in between two readings of them: pure
- ``history``    requests by epoch and pool, as a value that a ConfigMap holds
- ``expecting``  what a history lets expect of the next epoch, by the predictor of studies
- ``task``       one task for each policy that says where its routers are
"""
