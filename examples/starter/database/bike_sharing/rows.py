"""Rows of the bicycle-sharing system, the same for the same random generator.

Traps that are meant: the quarters 'Westend' and 'West End' and the parts 'brake pad' and 'brake pads' are
different, trips of 30 and 31 minutes stand side by side, lost bicycles leave trips without an end station,
and riders refer other riders.
"""

from __future__ import annotations

import random
from datetime import date, timedelta


def _pool(text: str) -> list[str]:
    """The values of a list written out with semicolons, over as many lines as it needs."""
    return [" ".join(value.split()) for value in text.split(";")]


QUARTERS = ["Westend", "West End", "Castle Hill", "Docklands", "Garden City", "Telegraph", "Uplands"]
EMPTY_QUARTERS = ["Hollow Wood", "Foxley"]  # riders live there, no station stands there

STATIONS = _pool("""
    Opera House; Cathedral Steps; Fish Market; Tanner Street; Old Arsenal; City Baths; Magnolia Park;
    Stadium North; Stadium South; Polytechnic; Law Courts; Central Station East; Central Station West;
    Bus Terminal; Ferry Pier; Sugar Wharf; Coal Wharf; Dry Dock; Maritime Museum; Lime Tree Square;
    Rose Garden; Palm House; Zoo Entrance; Boating Lake; Tennis Club; Post Office; Signal Tower;
    Radio House; Exchange; Print Works; Brewery Yard; Gas Works; Water Tower; Castle Gate; Castle Keep;
    Funicular Base; Funicular Top; Vineyard; Convent Wall; Observatory Hill; Panorama Terrace;
    Hospital Main; Hospital Annex; Science Park; Innovation Hub; Town Library; Concert Hall; Velodrome;
    Ice Rink; Flower Market; Chapel Corner; Quarry Road; Beech Avenue; Cinema Lux; Tram Depot; Planetarium
""")
MODELS = {
    "Courier": ("classic", 480),
    "Courier Plus": ("classic", 520),
    "Stroll": ("classic", 455),
    "Volt": ("electric", 1650),
    "Volt X": ("electric", 1890),
    "Pack Mule": ("cargo", 2100),
}
FIRST = _pool("""
    Alba; Bjorn; Chidi; Daria; Emil; Fatima; Gonzalo; Hana; Igor; Jana; Kofi; Lena; Mateo; Nora; Omar;
    Petra; Rafael; Sofia; Tomas; Ursula; Valentin; Wiebke; Yara; Zeno
""")
LAST = _pool("""
    Almeida; Becker; Costa; Dogan; Egger; Fontaine; Grau; Hoffmann; Iversen; Jovanovic; Keller; Lopes;
    Meyer; Meier; Nilsen; Orlov; Pinto; Reuter; Schmitt; Tavares; Urban; Vogel; Weiss; Zimmer
""")
PLANS = {"day pass": 0.0, "monthly": 12.5, "annual": 9.0, "student": 6.0}
PARTS = [
    "brake pad",
    "brake pads",
    "chain",
    "chain",
    "inner tube",
    "inner tube",
    "saddle",
    "battery",
    "lock",
    "bell",
]
MECHANICS = ["R. Lund", "R. Lunde", "T. Achebe", "M. Ferrante", "S. Kovac"]


def _day(rng: random.Random, first: str, last: str) -> str:
    """A day from `first` to `last` (both ISO dates and both possible), as an ISO date."""
    start = date.fromisoformat(first)
    return (start + timedelta(days=rng.randint(0, (date.fromisoformat(last) - start).days))).isoformat()


def _later(day: str, days: int) -> str:
    """The ISO date `days` after `day`, or before it where `days` is negative."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """All rows by table, in an order that satisfies the foreign keys."""
    stations = []
    for number, name in enumerate(STATIONS, start=1):
        quarter = QUARTERS[number % len(QUARTERS)]
        docks = rng.choice([12, 16, 16, 20, 20, 24, 30, 36])
        charging = rng.choice([0, 0, 2, 4, 6])
        high = quarter in ("Castle Hill", "Uplands")
        elevation = rng.randint(95, 210) if high else rng.randint(2, 60)
        removed = _day(rng, "2022-02-01", "2023-11-30") if number % 12 == 7 else None
        installed = _day(rng, "2014-04-01", "2021-10-31")
        stations.append((number, name, quarter, docks, charging, elevation, installed, removed))

    bicycles = []
    for number in range(1, 161):
        model = rng.choice(list(MODELS))
        drive, base_price = MODELS[model]
        price = base_price + rng.choice([0, 0, 1, 25, -30])
        bought = _day(rng, "2015-03-01", "2022-05-31")
        retired = _day(rng, "2023-01-01", "2023-12-31") if rng.random() < 0.18 else None
        resale = None if retired and rng.random() < 0.6 else int(price * rng.choice([0.2, 0.35, 0.5]))
        size = rng.choice(["S", "M", "M", "L"])
        base = rng.randint(1, 52)
        bicycles.append((number, model, drive, size, price, resale, bought, retired, base))

    riders = []
    for number in range(1, 181):
        plan = rng.choice(list(PLANS))
        born = rng.choice([None, *range(1951, 2006)]) if number % 7 else None
        joined = _day(rng, "2018-01-01", "2023-04-30")
        cancelled = min(_later(joined, rng.randint(20, 900)), "2023-12-31") if rng.random() < 0.15 else None
        referrer = rng.randint(1, min(number - 1, 60)) if number > 1 and rng.random() < 0.4 else None
        name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
        quarter = rng.choice(QUARTERS + EMPTY_QUARTERS)
        riders.append((number, name, plan, PLANS[plan], born, quarter, joined, cancelled, referrer))

    trips = []
    for number in range(1, 491):
        rider_id = min(rng.randint(1, 170), rng.randint(1, 170))
        start = rng.randint(1, 54)
        end = None if rng.random() < 0.04 else (start if rng.random() < 0.08 else rng.randint(1, 54))
        minutes = rng.choice([4, 7, 9, 12, 15, 15, 18, 22, 25, 29, 30, 30, 31, 38, 45, 62, 90])
        km = round(minutes * rng.choice([0.16, 0.2, 0.24]), 1)
        fare = round(1.0 + 0.1 * minutes, 2) if riders[rider_id - 1][2] == "day pass" else 0.0
        surcharge = round(0.25 * max(0, minutes - 30), 2)
        hour = rng.choice([6, 7, 8, 8, 8, 9, 11, 13, 14, 16, 17, 17, 17, 18, 20, 22])
        rating = rng.choice([None, None, 1, 2, 3, 4, 4, 5, 5])
        when = _day(rng, "2023-01-01", "2023-12-31")
        bicycle_id = rng.randint(1, 148)
        trips.append(
            (number, rider_id, bicycle_id, start, end, when, hour, minutes, km, fare, surcharge, rating)
        )

    repairs = []
    for number in range(1, 251):
        reported = _day(rng, "2022-06-01", "2023-12-20")
        fixed = _later(reported, rng.choice([0, 1, 1, 3, 6, 10, 21])) if rng.random() < 0.86 else None
        part = rng.choice(PARTS)
        part_cost = (
            rng.choice([180.0, 240.0]) if part == "battery" else rng.choice([4.5, 8.0, 12.0, 12.5, 19.9])
        )
        labor = rng.choice([10.0, 15.0, 15.0, 22.5, 40.0])
        mechanic = rng.choice(MECHANICS)
        bicycle_id = min(rng.randint(1, 155), rng.randint(1, 155))
        repairs.append((number, bicycle_id, part, mechanic, reported, fixed, part_cost, labor))

    return {"station": stations, "bicycle": bicycles, "rider": riders, "trip": trips, "repair": repairs}
