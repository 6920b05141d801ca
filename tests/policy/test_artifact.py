"""An artifact is loaded whole and as it was made, or refused with one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import agents
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_networks import SMALL, weights

from marlin.api.errors import InputError
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Dispatch
from marlin.policy.agents import shipped
from marlin.policy.artifact import CARD_FILE, WEIGHTS_FILE, load, save

CARD: dict[str, Any] = agents.CARD | {
    "hyperParameters": {"discount": 0.95},
    "dataSources": ["BurstGPT"],
    "evaluation": [{"metric": "carbon", "gain": 0.1}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "policy", CARD, weights())
    return tmp_path / "policy"


def change_card(folder: Path, **changes: Any) -> None:
    file = folder / CARD_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_was_saved_is_loaded_to_the_last_bit(folder: Path) -> None:
    artifact = load(folder)
    assert artifact.card.seed == 7
    assert artifact.card.networks.settings() == SMALL
    assert artifact.card.evaluation == ({"metric": "carbon", "gain": 0.1},)
    assert all((artifact.parameters[name] == value).all() for name, value in weights().items())


def test_an_artifact_is_replaced_whole_and_nothing_else_is(folder: Path, tmp_path: Path) -> None:
    save(folder, CARD | {"seed": 8}, weights(1))
    assert load(folder).card.seed == 8
    assert [path.name for path in tmp_path.iterdir()] == ["policy"], "nothing is left lying about"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("dear")
    with pytest.raises(InputError, match="is there and is no artifact"):
        save(tmp_path / "home", CARD, weights())
    assert (tmp_path / "home" / "letters.txt").read_text() == "dear"


def truncate(folder: Path) -> None:
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, "is incomplete or was changed"),
        (flip_a_bit, "is incomplete or was changed"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "weights.safetensors: cannot be read: No such file"),
        (lambda folder: (folder / CARD_FILE).unlink(), "card.json: cannot be read: No such file"),
        (lambda folder: (folder / CARD_FILE).write_text("{"), "card.json: is not JSON"),
        (lambda folder: (folder / CARD_FILE).write_text("[" * 100_000), "card.json: is not JSON"),
        (lambda folder: (folder / CARD_FILE).write_text("[]"), "card.json: card: "),
        (lambda folder: change_card(folder, format=2), "was made by a newer MARLIN (format 2, this one reads 1)"),
        (lambda folder: change_card(folder, format=0), "format: 0 is not known"),
        (lambda folder: change_card(folder, seed="many"), "card.json: seed: "),
        (lambda folder: change_card(folder, surprise=1), "card.json: surprise: "),
        (lambda folder: change_card(folder, weightsSha256="0" * 64), "its digest is not the card's"),
        (
            lambda folder: change_card(folder, networks=CARD["networks"] | {"actorHidden": 17}),
            "is float32 (4, 27, 16), not float32 (4, 27, 17)",
        ),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused_with_one_line(folder: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(folder)
    with pytest.raises(InputError) as refused:
        load(folder)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path, value: float) -> None:
    bad = weights()
    bad["actor.head.bias"] = np.full_like(bad["actor.head.bias"], value)
    with pytest.raises(InputError, match=r"actor\.head\.bias has numbers that are not finite"):
        save(tmp_path / "policy", CARD, bad)
    assert not (tmp_path / "policy").exists()


def test_weights_that_are_missing_or_too_many_are_named(tmp_path: Path) -> None:
    missing = weights()
    del missing["critic.head.bias"]
    with pytest.raises(InputError, match=r"has no critic\.head\.bias"):
        save(tmp_path / "policy", CARD, missing)
    with pytest.raises(InputError, match=r"has critic\.surprise, which no network"):
        save(tmp_path / "policy", CARD, weights() | {"critic.surprise": np.zeros(1, dtype=np.float32)})


@given(data=st.binary(max_size=300))
def test_no_bytes_in_place_of_the_weights_do_more_than_be_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any") / "policy"
    save(folder, CARD, weights())
    (folder / WEIGHTS_FILE).write_bytes(data)
    # The card agrees with the bytes, so that the parser sees them.
    change_card(folder, weightsSha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(InputError):
        load(folder)


def test_the_shipped_policy_is_whole_and_small_and_says_what_it_was_seen_to_do() -> None:
    shipped_ = shipped.load()
    folder = Path(str(files("marlin.policy").joinpath("default_artifact")))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
    assert set(shipped_.card.dispatch) == set(Dispatch)
    assert {row["metric"] for row in shipped_.card.evaluation} == set(METRIC_NAMES)
