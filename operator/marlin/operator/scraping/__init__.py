"""Counters and gauges of others: read at their own pages, or out of a Prometheus that reads those.

- ``samples``    a page, or the answer to an instant query, as the same plain samples: pure
- ``sources``    where they are asked for
"""
