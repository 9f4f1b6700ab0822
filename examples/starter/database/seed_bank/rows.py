"""Rows of the seed bank. The species are invented: plausible Latin, no real plant is meant."""

from __future__ import annotations

import random
from datetime import date, timedelta

GENERA = {
    "Asteraceae": ["Radialis", "Solanthea", "Helioma"],
    "Poaceae": ["Gramenia", "Festulina"],
    "Fabaceae": ["Legunia", "Viciola", "Trifelia"],
    "Rosaceae": ["Rosella", "Potenta"],
    "Orchidaceae": ["Orchelia", "Dactyra"],
}
EPITHETS = (
    "alpina borealis collina dulcis elegans flava gracilis humilis insularis lanata montana nivalis ovata"
)
COMMON = ["star", "bell", "grass", "clover", "vetch", "rose", "lady", "thistle"]
COLOURS = ["white", "yellow", "mountain", "island", "marsh", "silver"]
REGIONS = ["Western Alps", "Baltic Coast", "Canary Isles", "Carpathians", "Iberian Plateau", "Highlands"]
COUNTRIES = ["Austria", "Estonia", "Spain", "Romania", "Scotland", "Switzerland"]
THREATS = ["least concern", "least concern", "near threatened", "vulnerable", "endangered"]
NAMES = "Agnes Bjarne Cosima Dragos Elin Fergus Gisela Heikki Iker Jana Kaspar Liis Mairi Nuria Otto"
FAMILY = "Aebi Blanco Cameron Duarte Ericsson Fraser Gallego Huber Ionescu Kask Lindsay Moser Nagel"
INSTITUTES = ["University of Tarn", "Alpine Research Station", "Natural History Society", "Island Herbarium"]


def day(rng: random.Random, first: date, last: date) -> date:
    return first + timedelta(days=rng.randrange((last - first).days + 1))


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    pairs = [
        (family, genus, epithet)
        for family, genera in GENERA.items()
        for genus in genera
        for epithet in EPITHETS.split()
    ]
    species = []
    for species_id, (family, genus, epithet) in enumerate(rng.sample(pairs, 90), start=1):
        common = f"{rng.choice(COLOURS)} {rng.choice(COMMON)}" if rng.random() < 0.75 else None
        form = (
            "perennial herb"
            if family == "Orchidaceae"
            else rng.choice(["annual herb", "perennial herb", "shrub"])
        )
        threat = rng.choice(THREATS) if rng.random() < 0.85 else None
        species.append((species_id, f"{genus} {epithet}", common, family, form, rng.choice(REGIONS), threat))

    collectors = []
    for collector_id in range(1, 56):
        first = rng.randrange(1990, 2020)
        last = min(2023, first + rng.choice([0, 0, 2, 5, 9, 15]))
        institute = rng.choice(INSTITUTES) if rng.random() < 0.7 else None
        name = f"{rng.choice(NAMES.split())} {rng.choice(FAMILY.split())}"
        collectors.append((collector_id, name, institute, rng.choice(COUNTRIES), first, last))

    accessions = []
    for accession_id in range(1, 321):
        collector = (
            rng.randrange(1, 51) if rng.random() < 0.85 else None
        )  # collectors 51 to 55 brought nothing
        collected = day(rng, date(2005, 5, 1), date(2023, 10, 31))
        stored = (collected + timedelta(days=rng.choice([14, 30, 30, 60, 120, 400]))).isoformat()
        received = rng.randrange(1, 41) * 50
        left = received - rng.choice([0, 0, 50, 100, 200, 400, received])
        altitude = rng.randrange(0, 49) * 50 if rng.random() < 0.85 else None
        accessions.append(
            (
                accession_id,
                rng.randrange(1, 79),  # species 79 to 90 grow in the garden only, or not at all
                collector,
                rng.choice(COUNTRIES),
                altitude,
                collected.isoformat(),
                stored if rng.random() < 0.9 else None,
                received,
                max(left, 0),
            )
        )

    tests = []
    for test_id in range(1, 361):
        sown = rng.choice([20, 25, 50, 50, 100])
        sprouted = rng.choice([0, sown, sown * 4 // 5, sown // 2, sown // 2, rng.randrange(0, sown + 1)])
        days = rng.choice([3, 5, 5, 7, 10, 14, 21, 30]) if sprouted else None
        medium = rng.choice(["agar", "agar", "filter paper", "sand"])
        celsius = rng.choice([5.0, 10.0, 15.0, 20.0, 20.0, 25.0])
        accession = rng.randrange(1, 261)
        tests.append(
            (
                test_id,
                accession,
                day(rng, date(2018, 1, 1), date(2024, 4, 30)).isoformat(),
                medium,
                celsius,
                sown,
                sprouted,
                days,
            )
        )

    beds = []
    for bed_id in range(1, 53):
        zone = rng.choice(["rockery", "meadow", "pond edge", "glasshouse", "woodland"])
        shade = rng.choice([None, 0, 10, 25, 50, 50, 75])
        soil = rng.choice(["chalk", "loam", "loam", "peat", "sand"])
        beds.append((bed_id, f"{zone.capitalize()} {bed_id}", zone, soil, rng.randrange(4, 61) * 0.5, shade))

    plantings = []
    for planting_id in range(1, 241):
        planted = day(rng, date(2012, 3, 1), date(2023, 10, 31))
        removed = (
            (planted + timedelta(days=rng.randrange(200, 1500))).isoformat() if rng.random() < 0.35 else None
        )
        count = rng.choice([1, 3, 5, 5, 10, 12, 20])
        alive = 0 if removed else rng.choice([count, count, count - 1, count // 2, 0])
        plantings.append(
            (
                planting_id,
                rng.randrange(1, 49),
                rng.randrange(5, 85),
                planted.isoformat(),
                removed,
                count,
                alive,
            )
        )

    return {
        "species": species,
        "collectors": collectors,
        "accessions": accessions,
        "germination_tests": tests,
        "beds": beds,
        "plantings": plantings,
    }
