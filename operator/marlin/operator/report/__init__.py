"""``marlin report``: what an interval took in energy, carbon, water and money, beside routing by capacity.

``prometheus`` reads the routers' counters, ``method`` reckons, ``render`` writes. ``method`` is pure.
"""
