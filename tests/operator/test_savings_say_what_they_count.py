"""Savings in a status follow what a pool's machines can do when they are idle, and say so."""

from __future__ import annotations

import pytest
from worlds import Cluster, sample, the


@pytest.mark.parametrize(
    ("power_down", "said"),
    [
        (None, "idle replicas draw on: llama-2-70b"),
        ("IdlePState", "idle replicas clock down: llama-2-70b"),
        ("Sleep", "replicas not wanted awake sleep: llama-2-70b"),
        ("ScaleToZero", "nodes of replicas not wanted awake are given back: llama-2-70b"),
    ],
)
def test_the_status_says_what_idle_machines_do_in_its_estimates(power_down: str | None, said: str) -> None:
    objects = sample()
    pool = the(objects, "InferencePool")["spec"]
    pool.pop("powerDown", None)
    if power_down is not None:
        pool["powerDown"] = power_down
    cluster = Cluster(objects)
    cluster.reconcile()
    assert cluster.status("MarlinPolicy")["estimateBasis"] == said


def test_machines_that_can_power_down_are_expected_to_draw_less() -> None:
    carbon = {}
    for power_down in ("None", "Sleep"):
        objects = sample()
        the(objects, "InferencePool")["spec"]["powerDown"] = power_down
        cluster = Cluster(objects)
        cluster.reconcile()
        carbon[power_down] = float(cluster.status("MarlinPolicy")["estimate"]["carbonGrams"])
    assert carbon["Sleep"] < carbon["None"]


def test_where_no_speed_is_known_nothing_is_estimated_and_nothing_said_of_it() -> None:
    objects = sample()
    the(objects, "InferencePool")["spec"].pop("profile")
    cluster = Cluster(objects)
    cluster.reconcile()
    assert "estimateBasis" not in cluster.status("MarlinPolicy")
