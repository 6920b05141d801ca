"""The planner ``marlin``: four trained agents propose, the twin tries, a game decides (Algorithms 1 and 2 in service).

A fleet's state goes in and a plan comes out, through values that can each be looked at alone:

- ``situation``   the state as arrays, what the agents are shown of it, and what is missing from it
- ``proposing``   the networks' answer as four intents, with samples around them
- ``exploit``     of each agent's intents the one that the twin likes best for that agent
- ``guard``       whether something plain is expected to do better than what was agreed
- ``critics``     what an intent is worth to each agent: learned, or the twin itself
- ``standing``    what is carried from epoch to epoch: the agents' capital
- ``planner``     all of it within a deadline, never an invalid plan
- ``record``      the account for people
- ``shipped``     the artifact that comes with the package

NumPy alone; no torch, no compiler, nothing written to disk. The oracle is never asked (import-linter holds it).
"""

from marlin.policy.agents.planner import Marlin, MarlinSettings
from marlin.policy.agents.standing import Standing

__all__ = ["Marlin", "MarlinSettings", "Standing"]
