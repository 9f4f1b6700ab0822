"""Rows of the museum of technology. Values sit on coarse grids on purpose, so that thresholds meet ties."""

from __future__ import annotations

import random
from datetime import date, timedelta

CITIES = ["Hollbrück", "Marren", "Port Essel", "Taviston", "Glinde", "Upper Wharf", "Sankt Odo"]
KINDS = ["private", "company", "foundation", "public body"]
SURNAMES = (
    "Abel Brandt Corvin Dahl Eames Farkas Gruber Hollis Ismay Jansen Kepler Lindqvist Moreau Nadir Okafor"
)
GIVEN = "Ada Bruno Clara Dorian Edda Felix Greta Hugo Ines Jonas Karla Leon Mira Nils Olga"
THEMES = ["computing", "steam", "aviation", "telephony", "printing", "optics", "electricity"]
THINGS = {
    "computing": [
        "mechanical adder",
        "punched-card sorter",
        "home computer",
        "pocket calculator",
        "drum memory",
    ],
    "steam": ["beam engine model", "pressure gauge", "traction engine", "governor", "boiler plate"],
    "aviation": ["glider wing", "radial engine", "altimeter", "flight recorder", "propeller"],
    "telephony": ["wall telephone", "telegraph key", "switchboard", "car phone", "fax machine"],
    "printing": ["hand press", "typesetting machine", "duplicator", "dot-matrix printer", "letter case"],
    "optics": ["microscope", "folding camera", "theodolite", "slide projector", "sextant"],
    "electricity": ["dynamo", "Leyden jar", "arc lamp", "induction coil", "electric meter"],
}
MAKERS = ["Orlik & Sons", "Veltman", "Kestrel Works", "Nordlicht", "Harrow", "Union Apparatus", "Pallas"]
CONDITIONS = ["excellent", "good", "good", "fair", "fair", "poor"]
WORKSHOPS = ["in-house", "in-house", "Bremer Atelier", "Fine Metal Lab", "University"]
LANGUAGES = ["German", "English", "English", "French", "Polish", "Spanish"]


def day(rng: random.Random, first: date, last: date) -> date:
    return first + timedelta(days=rng.randrange((last - first).days + 1))


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    donors = []
    for donor_id in range(1, 61):
        kind = rng.choice(KINDS)
        surname = rng.choice(SURNAMES.split())
        name = {
            "private": f"{rng.choice(GIVEN.split())} {surname}",
            "company": f"{surname} {rng.choice(['Electric', 'Instruments', 'Machines'])}",
            "foundation": f"{surname} Foundation",
            "public body": f"City of {rng.choice(CITIES)}",
        }[kind]
        first = rng.randrange(1985, 2018)
        last = rng.choice([None, first, min(2023, first + rng.randrange(1, 15))])
        email = (
            None
            if rng.random() < 0.3
            else f"donor{donor_id}@{rng.choice(['mail', 'post', 'office'])}.example"
        )
        donors.append((donor_id, name, kind, rng.choice(CITIES), first, last, email))

    rooms = []
    for room_id in range(1, 55):
        theme = THEMES[room_id % len(THEMES)]
        opened = day(rng, date(1998, 1, 1), date(2021, 12, 31))
        closed = day(rng, date(2022, 1, 1), date(2024, 6, 30)).isoformat() if rng.random() < 0.2 else None
        side = rng.choice(["North", "South", "East", "West"])
        name = f"{side} {rng.choice(['Hall', 'Wing', 'Gallery'])} {room_id}"
        rooms.append(
            (
                room_id,
                name,
                rng.randrange(0, 4),
                theme,
                rng.randrange(8, 41) * 10.0,
                opened.isoformat(),
                closed,
            )
        )

    objects = []
    for object_id in range(1, 281):
        category = rng.choice(THEMES)
        made = None if rng.random() < 0.12 else rng.randrange(1840, 1996, 5)
        title = f"{rng.choice(MAKERS)} {rng.choice(THINGS[category])}"
        donor = rng.randrange(1, 49) if rng.random() < 0.55 else None  # donors 49 to 60 have given only money
        price = None if donor and rng.random() < 0.85 else rng.randrange(1, 61) * 100.0
        insured = (price or rng.randrange(2, 50) * 100.0) + rng.choice([0.0, 0.0, 250.0, 1000.0, -100.0])
        room = (
            rng.randrange(1, 49) if rng.random() < 0.8 else None
        )  # the rest is in storage, rooms 49 to 54 stand empty
        acquired = day(rng, date(1990, 1, 1), date(2023, 12, 31)).isoformat()
        objects.append(
            (
                object_id,
                title,
                category,
                made,
                acquired,
                donor,
                room,
                price,
                max(insured, 50.0),
                rng.choice(CONDITIONS),
            )
        )

    restorations = []
    for restoration_id in range(1, 131):
        started = day(rng, date(2015, 1, 1), date(2024, 3, 31))
        estimated = rng.randrange(2, 41) * 50.0
        if rng.random() < 0.2:
            finished, actual = None, None
        else:
            finished = (started + timedelta(days=rng.randrange(7, 300))).isoformat()
            actual = estimated + rng.choice([-100.0, 0.0, 0.0, 0.0, 50.0, 200.0, 600.0])
        restorations.append(
            (
                restoration_id,
                rng.randrange(1, 141),
                rng.choice(WORKSHOPS),
                started.isoformat(),
                finished,
                estimated,
                actual,
            )
        )

    guides = []
    for guide_id in range(1, 53):
        first, second = rng.sample(sorted(set(LANGUAGES)), 2)
        hired = day(rng, date(2005, 1, 1), date(2022, 12, 31))
        left = day(rng, date(2023, 1, 1), date(2024, 5, 31)).isoformat() if rng.random() < 0.25 else None
        second = second if rng.random() < 0.65 else None
        name = f"{rng.choice(GIVEN.split())} {rng.choice(SURNAMES.split())}"
        guides.append((guide_id, name, first, second, hired.isoformat(), left, rng.randrange(28, 49) * 0.5))

    tours = []
    kinds = [
        "Highlights",
        "Family Workshop",
        "Behind the Scenes",
        "Women Inventors",
        "Night Walk",
        "Engines Running",
    ]
    for tour_id in range(1, 61):
        adult = rng.choice([6.0, 8.0, 8.0, 9.5, 12.0, 15.0])
        child = rng.choice([None, 0.0, adult / 2, adult / 2, adult])
        title = f"{rng.choice(kinds)} {rng.choice(['I', 'II', 'III'])}"
        tours.append(
            (
                tour_id,
                title,
                rng.choice(LANGUAGES),
                rng.randrange(1, 41),
                rng.choice([30, 45, 60, 60, 90, 120]),
                adult,
                child,
                rng.choice([8, 10, 12, 15, 20, 25]),
            )
        )

    tour_dates = []
    for tour_date_id in range(1, 301):
        tour_id = rng.randrange(1, 55)  # tours 55 to 60 were never held
        held = day(rng, date(2023, 1, 1), date(2024, 6, 30))
        booked = rng.randrange(2, tours[tour_id - 1][7] + 1)
        present = None if held >= date(2024, 6, 1) else booked - rng.choice([0, 0, 0, 1, 2])
        guide = rng.randrange(1, 46) if rng.random() < 0.92 else None
        tour_dates.append((tour_date_id, tour_id, guide, held.isoformat(), booked, present))

    return {
        "donors": donors,
        "rooms": rooms,
        "objects": objects,
        "restorations": restorations,
        "guides": guides,
        "tours": tours,
        "tour_dates": tour_dates,
    }
