"""A queue before all sites of a model that is fed and served evenly, with NumPy; ``numba_form`` has it compiled.

Who would wait longer than patience leaves. Who waits longer than the service level allows is late, in the epoch that
serves him, as the request-level engine counts it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from marlin.simulator.fluid.coefficients import NEVER_S, TINY, Coefficients
from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class Waiting:
    """What becomes of each model's requests before all sites; each (V, S, N)."""

    end: FloatArray  # requests that wait when the epoch ends
    gone: FloatArray  # requests that left
    seconds: FloatArray  # waited, together
    late: FloatArray  # requests that wait longer than the limit, and do not leave

    def served_late(self, c: Coefficients, backlog: FloatArray, service: FloatArray) -> Waiting:
        """With those alone as late who are served in the epoch: who waited before, and not who still waits.

        Of either all are late when more wait than ``service`` (V, S, N) serves within the limit, and else none.
        """
        if not (backlog.any() or self.end.any()):
            return self
        most = c.ttft_limit_s[:, None, None] * service
        were = np.where(backlog > most, backlog, 0.0)
        are = np.where(self.end > most, self.end, 0.0)
        return replace(self, late=np.maximum(self.late + were - are, 0.0))


def flow(
    c: Coefficients, queue: FloatArray, rate: FloatArray, service: FloatArray, duration_s: FloatArray | float
) -> Waiting:
    """A queue that is fed and served evenly for some time."""
    most, late_from = c.patience_s * service, c.ttft_limit_s[:, None, None] * service
    start = np.minimum(queue, most)
    net = rate - service
    free_end = start + net * duration_s
    end = np.minimum(np.maximum(free_end, 0.0), most)
    refused = np.maximum(free_end - most, 0.0)
    # Time until the queue is full or empty; after it the queue stays as it is.
    change_s = np.where(net > 0, (most - start) / np.maximum(net, TINY), start / np.maximum(-net, TINY))
    change_s = np.minimum(np.where(net == 0.0, NEVER_S, change_s), duration_s)
    still_s = duration_s - change_s
    # Late is who comes while more wait than are served within the limit; the queue grows or shrinks evenly.
    low, high = start - late_from, end - late_from
    beyond = np.maximum(low, 0.0) + np.maximum(high, 0.0)
    late_s = change_s * beyond / np.maximum(np.abs(low) + np.abs(high), TINY) + np.where(high > 0, still_s, 0.0)
    return Waiting(
        end=end,
        gone=(queue - start) + refused,
        seconds=(start + end) / 2.0 * change_s + end * still_s,
        late=np.maximum(rate * late_s - refused, 0.0),
    )
