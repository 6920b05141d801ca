"""What a site's signals say at a moment, in the twin's units, when nobody can be asked.

Built-in tables, constants and schedules are read here. A live provider is not asked: its fallback value stands in, and
a warning says so. ``fleet`` makes one ``SiteSignals`` for each site and moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from marlin.api.signals import (
    CarbonSignal,
    CarbonUnit,
    EmissionFactor,
    PriceSignal,
    PriceUnit,
    Signal,
    WaterSignal,
    WaterUnit,
)
from marlin.api.values import quantity_value
from marlin.simulator.signals import SignalSource, UnknownZoneError, ZoneSignals, utc_of

LITERS_PER_GALLON: Final = 3.785411784
GRAMS_PER_POUND: Final = 453.59237

WORLD_CARBON_GCO2_PER_KWH: Final = 475.0
DEFAULT_WATER_L_PER_KWH: Final = 1.8
DEFAULT_PRICE_USD_PER_KWH: Final = 0.1
"""What is taken where nothing is known: the documented defaults of ``fallbackValue``."""

_CARBON_FACTORS: Final = {
    CarbonUnit.G_PER_KWH: 1.0,
    CarbonUnit.KG_PER_MWH: 1.0,
    CarbonUnit.LB_PER_MWH: GRAMS_PER_POUND / 1000,
}
_WATER_FACTORS: Final = {
    WaterUnit.L_PER_KWH: 1.0,
    WaterUnit.M3_PER_MWH: 1.0,
    WaterUnit.GAL_PER_MWH: LITERS_PER_GALLON / 1000,
}
_PRICE_FACTORS: Final = {PriceUnit.PER_KWH: 1.0, PriceUnit.PER_MWH: 1e-3}


def canonical_factor(signal: CarbonSignal | WaterSignal | PriceSignal) -> float:
    """What a value in the signal's own unit is multiplied by, to be in gCO2eq/kWh, L/kWh or USD/kWh."""
    if isinstance(signal, CarbonSignal):
        return _CARBON_FACTORS[signal.unit]
    if isinstance(signal, WaterSignal):
        return _WATER_FACTORS[signal.unit]
    rate = 1.0 if signal.usd_per_currency_unit is None else quantity_value(signal.usd_per_currency_unit)
    return rate * _PRICE_FACTORS[signal.unit]


@dataclass(frozen=True, slots=True)
class SiteSignals:
    """One site at one moment."""

    site: str
    zone: str | None
    """``location.zone``; a signal may name another."""
    at: datetime
    source: SignalSource
    """What provider BuiltIn means."""
    warn: Callable[[str], None]

    def __post_init__(self) -> None:
        utc_of(self.at)  # refuses a moment without a time zone: schedules would be read in the machine's own

    def carbon_gco2_per_kwh(self, signal: CarbonSignal | None) -> float:
        """Carbon intensity, gCO2eq/kWh."""
        known = self._built_in(signal)
        value = None
        if known is not None:
            is_lifecycle = signal is not None and signal.emission_factor is EmissionFactor.LIFECYCLE
            value = known.carbon_lifecycle_gco2_per_kwh if is_lifecycle else known.carbon_gco2_per_kwh
        stated = self._stated(signal)
        if signal is not None and stated is not None:
            return stated * canonical_factor(signal)
        return self._otherwise("carbonIntensity", signal, value, WORLD_CARBON_GCO2_PER_KWH)

    def water_l_per_kwh(self, signal: WaterSignal | None) -> float:
        """Water intensity of the grid, L/kWh."""
        known = self._built_in(signal)
        stated = self._stated(signal)
        if signal is not None and stated is not None:
            return stated * canonical_factor(signal)
        value = None if known is None else known.water_l_per_kwh
        return self._otherwise("waterIntensity", signal, value, DEFAULT_WATER_L_PER_KWH)

    def price_usd_per_kwh(self, signal: PriceSignal | None) -> float:
        """Energy price, USD/kWh."""
        known = self._built_in(signal)
        stated = self._stated(signal)
        if signal is not None and stated is not None:
            return stated * canonical_factor(signal)
        value = None if known is None else known.price_usd_per_kwh
        return self._otherwise("energyPrice", signal, value, DEFAULT_PRICE_USD_PER_KWH)

    def _built_in(self, signal: Signal | None) -> ZoneSignals | None:
        own = signal.built_in.zone if signal is not None and signal.built_in is not None else None
        zone = own or self.zone
        if zone is None:
            return None
        try:
            return self.source(zone, self.at)
        except UnknownZoneError:
            return None

    def _stated(self, signal: Signal | None) -> float | None:
        """The value a static or scheduled source states, in its own unit."""
        if signal is not None and signal.static is not None:
            return quantity_value(signal.static.value)
        if signal is not None and signal.schedule is not None:
            # From a moment to a local hour there is one way only, on the days of 23 and 25 hours too: an hour that is
            # there twice has its entry's value twice, and an entry at an hour that is left out holds from the next on.
            hour = self.at.astimezone(ZoneInfo(signal.schedule.time_zone)).hour
            entries = sorted(signal.schedule.entries, key=lambda entry: entry.from_hour)
            current = [entry for entry in entries if entry.from_hour <= hour]
            return quantity_value((current or entries)[-1].value)
        return None

    def _otherwise(
        self,
        field: str,
        signal: CarbonSignal | WaterSignal | PriceSignal | None,
        built_in: float | None,
        default: float,
    ) -> float:
        """The built-in value where it is meant, the stated fallback for a live provider, else the default."""
        if signal is not None and signal.provider.value != "BuiltIn":
            self.warn(f"Datacenter {self.site}: {field} comes from {signal.provider.value}, which is not asked here")
            if signal.fallback_value is not None:
                return quantity_value(signal.fallback_value)
        if built_in is not None:
            return built_in
        if signal is not None and signal.fallback_value is not None:
            return quantity_value(signal.fallback_value)
        self.warn(f"Datacenter {self.site}: {field} is not known, {default:g} is taken")
        return default
