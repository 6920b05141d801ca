"""Signals: what a site's power costs in carbon, water and money, and how far the figure can be trusted.

- ``values``     what a provider answered and what is known over time, in the twin's units
- ``ladder``     live, forecast, history, fallback: pure
- ``answers``    what providers answer, by documented shape: pure
- ``providers``  a source asked once, behind one protocol
- ``reader``     who is to be asked when, and what came of it
- ``keeping``    the last week as a ConfigMap holds it: pure
- ``background`` a reader beside the rounds
- ``http``       the one place that asks over the network
"""
