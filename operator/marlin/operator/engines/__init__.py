"""What engines say of themselves: how many requests they have now, and how fast they are.

- ``counting``   a vLLM's counters and gauges, and what happened between two readings of them: pure
- ``fitting``    how fast an engine is, from what happened in many such windows: pure
- ``watching``   one pool's readings as a value: windows that are kept, the last gauges
- ``task``       reads the engines of the pools that want it
"""
