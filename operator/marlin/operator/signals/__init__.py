"""Signals: what a site's power costs in carbon, water and money, and how far the figure can be trusted.

- ``values``  what a provider answered and what is known over time, in the twin's units
- ``ladder``  live, forecast, history, fallback: pure
"""
