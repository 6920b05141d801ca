"""A small analytic model of an inference engine, fitted to measurements and judged on those it did not see.

The twin itself looks times and powers up in measured tables. This package asks whether such tables follow from physics
well enough to be trusted where nobody measured: it fits a roofline of eight constants to them, predicts what was held
out, and says by how much it is wrong. Nothing here feeds the twin.

- ``hardware``      datasheet peaks and model sizes: what a prediction replaces
- ``observations``  measured rows in, one value type out; the only module that knows the files
- ``roofline``      time of a decode step, of a prefill, of a run; its least-squares fit
- ``power``         power as a fraction of TDP from how busy memory and arithmetic are; its fit
- ``held_out``      leave out a GPU count, or a batch, predict it, and compare with interpolation
- ``energy``        energy per token of models and an engine that no fitted row came from
- ``report``        the tables, as Markdown; ``python -m marlin.simulator.fitting`` prints them
"""
