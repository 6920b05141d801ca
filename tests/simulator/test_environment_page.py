"""docs/reference/environments.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tasks import task

from marlin.api.plan import Dispatch
from marlin.simulator.environments import observation
from marlin.simulator.environments.task import information

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "environments.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_table_of_the_observation_has_every_slice_in_order_with_its_shape() -> None:
    models, sites = 3, 5
    written = re.findall(r"^\| `(\w+)` \| (V x D x 4|V x D|V|D|4|2) \|", section("Observation"), flags=re.MULTILINE)
    shapes = {
        "V": (models,),
        "D": (sites,),
        "V x D": (models, sites),
        "V x D x 4": (models, sites, 4),
        "4": (4,),
        "2": (2,),
    }
    assert [(name, shapes[shape]) for name, shape in written] == [
        (s.name, s.shape) for s in observation.layout(models, sites).values()
    ]


def test_the_channels_and_the_entries_of_info_are_named() -> None:
    task_ = task(sleeps=True, dispatch=Dispatch.ORDERED)
    for channel in task_.action.channels:
        assert f"| `{channel}` |" in section("Action")
    lanes = task_.begin(task_.draw([(0, 1)]), np.full((1, 4), 0.25))
    _, done = task_.step(lanes, task_.propose(lanes, np.zeros((1, task_.action.size))))
    missing = [name for name in information(done) if f"`{name}`" not in section("Reward")]
    assert missing == []


def test_its_code_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) > 1
    # The form is compiled elsewhere: what is tested here is the page.
    exec(compile("\n".join(blocks).replace("Form.NUMBA", "Form.NUMPY"), "environments.md", "exec"), {})
    assert "gCO2" in capsys.readouterr().out
