"""``marlin report``: what an interval took in energy, carbon, water and money, beside routing by capacity.

``prometheus`` reads the routers' counters, ``recorder`` lives recorded epochs through in the twin; both hand over a
``seen.Seen``, which ``render`` writes. ``method`` reckons, and is pure.
"""
