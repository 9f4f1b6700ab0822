"""Rows of the fire brigade. Districts stand both with stations and with incidents, and often differ."""

from __future__ import annotations

import random
from datetime import date, timedelta

DISTRICTS = ["Old Town", "Riverside", "Northgate", "Hillcrest", "Docklands", "Mill Quarter", "Southfield"]
STREETS = [
    "Baker Lane",
    "Crane Street",
    "Dyer Row",
    "Elm Avenue",
    "Ferry Road",
    "Glass Street",
    "High Street",
    "Kiln Way",
]
NAMES = "Alex Beth Callum Dana Euan Freya Grace Harry Iona Jack Kirsty Lewis Morag Niall Orla Paul"
FAMILY = "Archer Barlow Carver Drummond Elliot Fletcher Gordon Hunter Innes Kerr Logan Mercer Nolan"
GRADES = ["firefighter", "firefighter", "firefighter", "crew manager", "watch manager", "station officer"]
PAY = {"firefighter": 2400.0, "crew manager": 2800.0, "watch manager": 3000.0, "station officer": 3400.0}
SUBJECTS = ["breathing apparatus", "first aid", "hazardous goods", "ladder work", "water rescue", "driving"]
ENGINES = ["pump", "pump", "ladder", "rescue", "tanker", "command car"]
INCIDENTS = [
    "house fire",
    "car fire",
    "flooding",
    "traffic accident",
    "false alarm",
    "gas leak",
    "animal rescue",
]
CAUSES = ["electrical fault", "cooking", "arson", "cigarette", "storm", "human error"]


def day(rng: random.Random, first: date, last: date) -> date:
    return first + timedelta(days=rng.randrange((last - first).days + 1))


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    stations = []
    for station_id in range(1, 51):
        district = rng.choice(DISTRICTS)
        built = rng.randrange(1900, 2011, 5)
        renovated = rng.choice([None, None, max(built, 2000), min(2022, built + 40)])
        bays = rng.choice([1, 2, 2, 3, 4, 6])
        name = f"{district} {rng.choice(['East', 'West', 'Central'])}"
        stations.append((station_id, name, district, built, renovated, bays, bays * rng.choice([2, 3, 4])))

    firefighters = []
    for firefighter_id in range(1, 201):
        grade = rng.choice(GRADES)
        joined = day(rng, date(1995, 1, 1), date(2023, 6, 30))
        retired = day(rng, date(2023, 7, 1), date(2024, 6, 30)).isoformat() if rng.random() < 0.15 else None
        pay = PAY[grade] + rng.choice([0.0, 0.0, 100.0, 200.0, 400.0])
        hazard = rng.choice([None, 150.0, 150.0, 200.0, 300.0])
        station = (
            rng.randrange(1, 47) if rng.random() < 0.92 else None
        )  # stations 47 to 50 have no crew of their own
        name = f"{rng.choice(NAMES.split())} {rng.choice(FAMILY.split())}"
        firefighters.append((firefighter_id, name, grade, station, joined.isoformat(), retired, pay, hazard))

    courses = []
    for course_id in range(1, 321):
        taken = day(rng, date(2019, 1, 1), date(2024, 5, 31))
        valid = (
            (taken + timedelta(days=365 * rng.choice([1, 2, 3]))).isoformat() if rng.random() < 0.8 else None
        )
        courses.append(
            (
                course_id,
                rng.randrange(1, 181),
                rng.choice(SUBJECTS),
                taken.isoformat(),
                valid,
                rng.randrange(9, 21) * 5,
            )
        )

    engines = []
    for engine_id in range(1, 91):
        kind = rng.choice(ENGINES)
        tank = {"pump": rng.choice([1200, 1600, 1600, 2000]), "tanker": rng.choice([4000, 5000, 8000])}.get(
            kind
        )
        bought = day(rng, date(2000, 1, 1), date(2023, 12, 31))
        scrapped = day(rng, date(2024, 1, 1), date(2024, 6, 30)).isoformat() if bought.year < 2008 else None
        station = rng.randrange(1, 49)
        sign = f"{kind[0].upper()}-{station:02d}-{rng.randrange(1, 4)}"
        engines.append(
            (engine_id, sign, kind, station, tank, bought.isoformat(), scrapped, rng.randrange(2, 121) * 1000)
        )

    incidents = []
    for incident_id in range(1, 281):
        kind = rng.choice(INCIDENTS)
        severity = 1 if kind == "false alarm" else rng.choice([1, 2, 2, 3, 4, 5])
        estimate = None if kind == "false alarm" or rng.random() < 0.2 else rng.randrange(1, 81) * 500.0
        final = None
        if estimate is not None and rng.random() < 0.8:
            final = max(0.0, estimate + rng.choice([-2000.0, -500.0, 0.0, 0.0, 500.0, 5000.0]))
        injured = 0 if kind == "false alarm" else rng.choice([0, 0, 0, 0, 1, 1, 2, 3, severity])
        cause = rng.choice(CAUSES) if rng.random() < 0.6 else None
        reported = day(rng, date(2022, 1, 1), date(2024, 6, 30)).isoformat()
        incidents.append(
            (
                incident_id,
                kind,
                f"{rng.choice(STREETS)} {rng.randrange(1, 60)}",
                rng.choice(DISTRICTS),
                reported,
                severity,
                injured,
                estimate,
                final,
                cause,
            )
        )

    dispatches = []
    for dispatch_id in range(1, 461):
        commander = rng.randrange(1, 121) if rng.random() < 0.85 else None
        minutes = rng.choice([10, 20, 30, 30, 45, 60, 90, 180]) if rng.random() < 0.93 else None
        dispatches.append(
            (
                dispatch_id,
                rng.randrange(1, 271),  # nobody was sent to incidents 271 to 280
                rng.randrange(1, 86),
                commander,
                rng.randrange(6, 25) * 5,
                rng.randrange(12, 91) * 10,
                minutes,
            )
        )

    return {
        "stations": stations,
        "firefighters": firefighters,
        "courses": courses,
        "engines": engines,
        "incidents": incidents,
        "dispatches": dispatches,
    }
