"""The digital twin of a fleet: section 3 of the MARLIN paper, its data, and an emulated vLLM.

A scenario or a set of documents becomes a ``FleetState`` (``scenario``, ``fleet``), the fluid engine carries a plan out
on it (``fluid``), and an experiment repeats that over days (``experiment``). Import what you need from its module;
this file imports nothing, so that ``profiles`` stays usable without NumPy.
"""
