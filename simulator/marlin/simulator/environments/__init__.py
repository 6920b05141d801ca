"""The twin as something that learns sees it: one epoch is one step, an action is a plan, a reward is a saving.

What happens is in pure functions over N lanes (independent copies side by side): ``course`` is a study without chance,
``episode`` one draw of it, ``observation``, ``action`` and ``reward`` translate, ``dynamics`` carries plans out, and
``task`` strings them together. Three thin adapters wear the shapes that libraries expect: ``gymnasium_env`` (one
decision maker), ``parallel_env`` (PettingZoo: the paper's four agents), ``vector_env`` (N lanes in one call of the
fluid engine); what their resets leave to chance is in ``chance``. Only these three import Gymnasium and PettingZoo.
Layouts are in docs/reference/environments.md.
"""
