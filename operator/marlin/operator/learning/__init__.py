"""``learning: Adapt``: a trained policy learns on in a process of its own, from the epochs that were recorded.

- ``task``   whose turn it is, what becomes of it, which artifact serves
- ``store``  what was decided and what took over, in a folder beside the recorded epochs
- ``child``  the process: within its limits, then ``marlin adapt``
- ``limits`` what those limits are
"""
