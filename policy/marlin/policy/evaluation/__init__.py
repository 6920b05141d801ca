"""How much MARLIN saves, beside everything it could be mistaken for: ``marlin evaluate`` (marlin-model, section 8).

Every framework plans the same days from the same forecasts and is scored on the requests that really came. What is
chosen (the best simple policy) is chosen on tuning days; what is reported is of other days, and nothing here can choose
on those.

- ``days``         which days are for learning, for choosing and for reporting, and the dates whose signals they get
- ``frameworks``   who is scored
- ``scoring``      one day of one draw, all frameworks
- ``statistics``   savings over many of them, with intervals
- ``report``       table, JSON, Parquet and figure
"""
