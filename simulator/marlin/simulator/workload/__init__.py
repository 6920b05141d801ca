"""Which requests arrive when, where from, and how long they are.

The way of a request through this package, one module a step; each is a pure function of what comes before and a
generator of random numbers:

    names       a name or a path        -> Trace: requests per period, as recorded
    epochs      Trace, day              -> requests per epoch and class (E, C)
    mix         classes                 -> models (E, V)
    scaling     models, fleet, load     -> requests per epoch and model, scaled to a fleet (E, V)
    origins     models, shares          -> requests per epoch, model and origin (E, V, R)
    requests    one epoch's (V, R)      -> each request: arrival, model, origin, prompt and output tokens
    replay      a per-request file      -> the same, with arrivals and sizes as they were recorded

Both engines see the counts of ``scaling``; only the request-level engine goes on to ``requests`` or ``replay``.
Files are opened in ``blocks`` and nowhere else. Nothing is imported here, so that reading one module stays cheap.
"""
