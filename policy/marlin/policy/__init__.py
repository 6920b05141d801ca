"""Who gets which requests: planners, from the simplest baseline to the negotiating agents.

- ``planner``    the ``Planner`` protocol and what a decision consists of
- ``planners``   the planners by name, as the command line and the operator ask for them
- ``baselines``  capacity-proportional, nearest, least-loaded, round-robin
- ``merit``      merit order: sort the sites by the metric, fill them in turn
- ``oracle``     the best plan for what it is shown, and how far from the best it can be
- ``origins``    who serves whom, once it is settled how much everybody serves
- ``yardsticks``  tuned merit order, best static, the best simple policy; how much of a saving is captured
- ``objective``  what a scheme weighs, and metrics relative to capacity-proportional routing
- ``forecasting``  the workload predictor
- ``game``       phase 2 of the paper: from the agents' proposals to one plan
- ``building``   from shares and orders to a valid, sealed ``RoutingPlan``
- ``training``   the only place that may import torch
- ``cli``        ``marlin plan``
- ``simulate_cli``  ``marlin simulate``
"""
