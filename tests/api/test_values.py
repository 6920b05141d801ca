from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from marlin.api.footprint import Footprint, Intensity, footprint_of, request_energy_kwh
from marlin.api.values import HttpUrl, Label, LabelSelector, PositiveQuantity, QuantityBounds, quantity_value


@given(st.decimals(min_value=-10_000, max_value=10_000, places=6))
def test_a_decimal_text_is_worth_what_it_says(number: Decimal) -> None:
    assert quantity_value(f"{number:f}") == pytest.approx(float(number))


@pytest.mark.parametrize(
    ("text", "value"), [("350m", 0.35), ("2k", 2000.0), ("140Gi", 140 * 2**30), (7, 7.0), ("-3", -3.0), ("1.5M", 1.5e6)]
)
def test_suffixes_are_kubernetes_ones(text: int | str, value: float) -> None:
    assert quantity_value(text) == value


@pytest.mark.parametrize("text", ["", "1.2.3", "1e3", "Gi", "1 Gi", "1,5", "0x10", "٣", "1.1234567"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity_value(text)


@pytest.mark.parametrize("value", [1.5, True, None, [1], "0", "-1"])
def test_a_positive_quantity_is_a_whole_number_or_a_text_above_zero(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(PositiveQuantity).validate_python(value)


def test_bounds_say_which_one_was_crossed() -> None:
    bounds = QuantityBounds(minimum="1", maximum="5")
    with pytest.raises(ValueError, match="must be at most 5"):
        bounds._check("5.1")
    with pytest.raises(ValueError, match="must be at least 1"):
        bounds._check("900m")
    assert bounds._check("5") == "5"


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a.b", "a" * 64, "ä"])
def test_a_label_is_a_dns_label(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Label).validate_python(name)


@pytest.mark.parametrize("url", ["example.com", "ftp://a.example", "http://", "http:// a", "https:///x", "http://\nx"])
def test_an_address_is_absolute_and_http(url: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(HttpUrl).validate_python(url)


def test_a_selector_matches_when_all_its_labels_are_there() -> None:
    selector = LabelSelector(match_labels={"a": "1", "b": "2"})
    assert selector.matches({"a": "1", "b": "2", "c": "3"})
    assert not selector.matches({"a": "1", "b": "3"})
    assert LabelSelector().matches({})


def test_a_request_s_footprint_is_its_energy_times_the_site_s_intensities() -> None:
    energy_kwh = request_energy_kwh(1000, 200, joules_per_prompt_token=0.9, joules_per_output_token=5.4)
    assert energy_kwh == pytest.approx((900 + 1080) / 3.6e6)
    footprint = footprint_of(energy_kwh, Intensity(400.0, 3.0, 0.1))
    assert footprint == Footprint(energy_kwh, energy_kwh * 400, energy_kwh * 3, energy_kwh * 0.1)
    assert footprint + footprint == footprint_of(2 * energy_kwh, Intensity(400.0, 3.0, 0.1))
