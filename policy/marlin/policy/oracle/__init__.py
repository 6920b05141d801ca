"""The oracle: the best plan there is for what it is shown. A bound and a yardstick; MARLIN never asks it.

Shown a forecast it is the best that planning epoch by epoch can do (``marlin plan --planner oracle``); shown the
arrivals that really come it is clairvoyant (``marlin simulate --planner oracle --forecast perfect``).

- ``allocation``  divides a total among sites at the least sum of costs of any shape, with a lower bound
- ``epoch``       what a rate costs at a site, awake replicas chosen on the way; one epoch's optimum and its bound
- ``planner``     the optimum as a plan, under either way of dispatch and with an uncertain forecast
"""
