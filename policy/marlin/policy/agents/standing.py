"""What the agents carry from epoch to epoch: the capital they earned (Algorithm 2, lines 19 to 24).

A value that whoever plans keeps and gives back, as a document where a process ends in between. It knows which epoch it
was earned in, so that deciding an epoch a second time changes nothing: a restart in the middle of a round, or two
replicas of an operator, end with the same capital.

Earned is what the twin expects of the consensus, of every proposal and of capacity-proportional routing: what the
proposals that were not carried out would really have done, nobody can measure.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field, ValidationError

from marlin.api.values import ApiModel
from marlin.policy.game.capital import SCALE, CapitalSettings, earned
from marlin.simulator.physics import FloatArray

_log: Final = logging.getLogger(__name__)

_START: Final = (CapitalSettings().start,) * 4

Capital = Annotated[
    tuple[Annotated[float, Field(ge=0, le=SCALE, allow_inf_nan=False)], ...], Field(min_length=4, max_length=4)
]


class Standing(ApiModel):
    """The agents' capital before the next epoch, in the order of the metrics."""

    capital: Capital = Field(default=_START, description="Before the next epoch, 0 to 300.")
    epoch: int | None = Field(default=None, description="The last epoch decided. Default: none yet.")
    before: Capital = Field(default=_START, description="Before that epoch.")

    def of_epoch(self, epoch: int) -> FloatArray:
        """(4,) capital that counts in an epoch: of the last one decided, what it was before."""
        return np.array(self.before if epoch == self.epoch else self.capital)

    def after(
        self,
        epoch: int,
        metrics: FloatArray,  # (4,) of the consensus
        proposed: FloatArray,  # (4, 4) metric j of proposal i
        baseline: FloatArray,  # (4,)
        settings: CapitalSettings | None = None,
    ) -> Standing:
        """The standing after an epoch."""
        before = self.of_epoch(epoch)
        capital = earned(before, metrics, proposed, baseline, settings or CapitalSettings())
        return Standing(capital=tuple(map(float, capital)), epoch=epoch, before=tuple(map(float, before)))


def standing_of(document: Mapping[str, Any] | None) -> Standing:
    """A standing that was kept as a document; without one, or with one that is not whole, a first epoch's.

    Capital is worth keeping and not worth stopping for: what was kept badly starts anew.
    """
    if document is None:
        return Standing()
    try:
        return Standing.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        _log.warning("capital starts anew: %s: %s", ".".join(map(str, first["loc"])) or "standing", first["msg"])
        return Standing()
