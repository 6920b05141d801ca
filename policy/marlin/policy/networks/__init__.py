"""Actors and critics evaluated with NumPy alone, for any fleet: what serves, and what training is held to.

A network sees a fleet as rows, one for each (model, site), and never as one long vector: the same weights read every
row, pools over sites and models carry what rows must know of each other, masks leave closed sites out. So one set of
parameters serves any number of models and sites, and listing them in another order lists the answer in that order.

- ``rows``        an observation as rows of features
- ``parameters``  names and shapes of an actor's and a critic's weights; a first draw of them
- ``actor``       rows and a preference in, a distribution of actions out; four agents at once
- ``critic``      rows and intents in, what they are worth to each agent out, with the derivative that phase 2 climbs
- ``flat``        the paper's plain networks, which know one fleet: for comparison
- ``kind``        which of the two a set of weights is of

``training.networks`` is the same in torch; a test holds the two to 1e-5.
"""
