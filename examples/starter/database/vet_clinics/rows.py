"""Rows of the veterinary clinics, the same for the same random generator.

Traps that are meant: the towns 'Ashford' and 'Ashfordby' and the makers 'Vetra' and 'Vetrah' are different,
fees of 100 and 101 stand side by side, popular pet names recur, and unpaid visits have no payment date.
"""

from __future__ import annotations

import random
from datetime import date, timedelta


def _pool(text: str) -> list[str]:
    """The values of a list written out with semicolons, over as many lines as it needs."""
    return [" ".join(value.split()) for value in text.split(";")]


TOWNS = {
    "Ashford": "South",
    "Ashfordby": "Midlands",
    "Brackwell": "Midlands",
    "Corrie Bay": "Coast",
    "Dunmoor": "North",
    "Elderton": "South",
    "Fenwick": "North",
    "Gullhaven": "Coast",
    "Thistledon": "North",
}
CLINICS = _pool("""
    Paws & Claws; Greenfield Vets; Happy Tails; The Animal House; Bridge Street Vets; Four Legs;
    Oakwood Clinic; St Francis; Whiskers; Noah's Surgery; Riverside Vets; Ark; Willow Clinic;
    Companion Care; Hillside Vets; Old Dairy; Pet Point; Furlong; Barn Owl; Shepherd's Gate; Two by Two;
    Meadow Clinic; Cat & Fiddle; Bluebell; Kennel Lane; Stable Yard; Fox & Hound; Feather & Fur;
    Linden Vets; The Pet Doctor; Park Gate; Quayside; Rookery; Silver Birch; Tollgate; Underhill;
    Village Vets; Waggon Yard; Yew Tree; Abbey Clinic; Beacon; Crossroads; Dovecote; East Side Vets; Forge;
    Glebe; Hawthorn; Ivy House; Junction; Kestrel; Limes; Mulberry
""")

FIRST = _pool("""
    Aisha; Benedikt; Carla; Declan; Eleni; Fergus; Gita; Harald; Imogen; Jasper; Kirsten; Lorcan; Maren;
    Nadia; Oskar; Priya; Quentin; Ruth; Stefan; Tamsin; Ulla; Viktor; Wendy; Xavier; Yvonne
""")
LAST = _pool("""
    Ackroyd; Balogun; Chandra; Drummond; Engel; Farouk; Gallagher; Hendriks; Ibsen; Jarvis; Kaplan; Lacroix;
    Mbeki; Novak; Osborne; Petrov; Ramsay; Sandoval; Tanaka; Ulrich; Vance; Winterbourne; Zielinski
""")
SPECIALTIES = [None, None, "surgery", "dentistry", "dermatology", "cardiology", "exotics"]

PET_NAMES = _pool("""
    Biscuit; Pepper; Luna; Otto; Mango; Ziggy; Hazel; Bruno; Clover; Pickle; Rusty; Nala; Pip; Tofu; Basil;
    Socks; Misty; Rolo; Willow; Gizmo; Maple; Scout; Olive; Bandit; Juno
""")
BREEDS = {
    "dog": ["Beagle", "Border Collie", "Dachshund", "Labrador", "Whippet", None],
    "cat": ["Siamese", "Burmese", "Maine Coon", None, None],
    "rabbit": ["Lop", "Lionhead", None],
    "parrot": ["Cockatiel", "African Grey"],
    "tortoise": [None],
}
WEIGHTS = {
    "dog": [6.5, 9.0, 9.0, 12.5, 18.0, 24.5, 31.0],
    "cat": [3.2, 4.0, 4.0, 4.6, 5.8],
    "rabbit": [1.4, 1.9, 2.2],
    "parrot": [0.1, 0.4, 0.5],
    "tortoise": [1.1, 2.7, 6.5],
}
REASONS = [
    "check-up",
    "check-up",
    "vaccination",
    "vaccination",
    "dental",
    "injury",
    "skin",
    "surgery",
    "check up",
]
FEES = [35.0, 35.0, 48.0, 60.0, 85.0, 100.0, 101.0, 140.0, 220.0, 460.0]

MEDICINES = _pool("""
    Amoxivet; Amoxivet Forte; Barkocil; Canidyne; Catazole; Cefapaw; Clavipet; Dermasoothe;
    Dermasoothe Plus; Dentaclean; Doxipaw; Earoflush; Enroleaf; Felimune; Fleabane; Fleabane Spot-On;
    Gastrocalm; Glucovet; Heartgard Drops; Hepatone; Hydrofur; Itchaway; Jointease; Jointease Chews;
    Kennelstop; Ketapaw; Laxipet; Leptovac; Lungwort Syrup; Meloxidog; Metrozole; Mitex; Nausivet; Optivet;
    Otocure; Parvovac; Pawbalm; Phenopet; Prednipaw; Rabivac; Renalcare; Robenavet; Sedavet; Sedavet Mild;
    Shellguard; Steropaw; Thyrocat; Tickaway; Tramavet; Trilovac; Urinorm; Vermiclear; Vetamin B; Vetamin K;
    Wingtonic; Wormguard; Wormguard Puppy; Xylovet; Yeastaway; Zincoderm
""")
MAKERS = ["Vetra", "Vetrah", "Halden Pharma", "Animedica", "Borealis Labs", "Pawsitive"]
KINDS = ["antibiotic", "painkiller", "vaccine", "parasite control", "ointment", "supplement"]


def _day(rng: random.Random, first: str, last: str) -> str:
    """A day from `first` to `last` (both ISO dates and both possible), as an ISO date."""
    start = date.fromisoformat(first)
    return (start + timedelta(days=rng.randint(0, (date.fromisoformat(last) - start).days))).isoformat()


def _later(day: str, days: int) -> str:
    """The ISO date `days` after `day`, or before it where `days` is negative."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """All rows by table, in an order that satisfies the foreign keys."""
    towns = list(TOWNS)
    clinics = []
    for number, name in enumerate(CLINICS, start=1):
        town = towns[(number - 1) % len(towns)]
        opened = _day(rng, "1988-01-01", "2021-12-31")
        clinics.append(
            (number, name, town, TOWNS[town], opened, rng.randint(2, 8), rng.choice([0, 1, 1, 1, 2, 3]))
        )

    vets = []
    for number in range(1, 121):
        clinic_id = number if number <= 50 else rng.randint(1, 50)
        hired = _day(rng, "2005-01-01", "2022-12-31")
        left = min(_later(hired, rng.randint(200, 1500)), "2023-12-31") if rng.random() < 0.2 else None
        salary = rng.choice([41000, 41000, 43500, 46000, 52000, 52500, 58000, 67000])
        bonus = rng.choice([0, 0, 500, 1500, 3000, 6000])
        specialty = rng.choice(SPECIALTIES)
        vets.append(
            (number, rng.choice(FIRST), rng.choice(LAST), clinic_id, specialty, hired, left, salary, bonus)
        )

    owners = []
    for number in range(1, 161):
        phone = f"0{rng.randint(20, 89)} {rng.randint(200, 999)} {rng.randint(1000, 9999)}"
        owners.append(
            (
                number,
                rng.choice(FIRST),
                rng.choice(LAST),
                rng.choice([*towns, "Marrowby"]),
                phone if rng.random() < 0.8 else None,
                _day(rng, "2014-01-01", "2023-09-30"),
            )
        )

    pets = []
    for number in range(1, 231):
        species = rng.choice(["dog", "dog", "dog", "cat", "cat", "cat", "rabbit", "parrot", "tortoise"])
        target = rng.choice(WEIGHTS[species])
        weight = round(target * rng.choice([0.9, 1.0, 1.0, 1.1, 1.2, 1.4]), 1)
        chip = (
            f"9{rng.randint(10**9, 10**10 - 1)}"
            if species in ("dog", "cat") and rng.random() < 0.75
            else None
        )
        owner_id = min(number, rng.randint(1, 145))  # owners from 146 on have no pet
        pets.append(
            (
                number,
                rng.choice(PET_NAMES),
                owner_id,
                species,
                rng.choice(BREEDS[species]),
                _day(rng, "2008-01-01", "2020-12-31"),
                weight,
                target,
                chip,
            )
        )

    visits = []
    for number in range(1, 441):
        visited = _day(rng, "2021-01-04", "2023-12-22")
        fee = rng.choice(FEES)
        kind = rng.random()
        paid = fee if kind < 0.75 else (fee / 2 if kind < 0.87 else 0.0)
        paid_on = _later(visited, rng.choice([0, 0, 0, 7, 30, 45])) if paid else None
        booked = _later(visited, -rng.choice([0, 1, 2, 5, 9, 14, 30]))
        visits.append(
            (
                number,
                rng.randint(1, 215),
                rng.randint(1, 112),
                booked,
                visited,
                rng.choice(REASONS),
                fee,
                paid,
                paid_on,
            )
        )

    medicines = []
    for number, name in enumerate(MEDICINES, start=1):
        cost = rng.choice([0.4, 0.75, 1.2, 1.2, 2.5, 4.8, 9.9])
        price = round(cost * rng.choice([1.25, 1.5, 2.0, 2.5]), 2)
        withdrawn = _day(rng, "2022-01-01", "2023-12-31") if number % 11 == 5 else None
        medicines.append(
            (
                number,
                name,
                rng.choice(MAKERS),
                KINDS[(number * 5 + rng.randint(0, 1)) % len(KINDS)],
                cost,
                price,
                rng.choice([0, 8, 20, 20, 45, 90, 200]),
                rng.choice([10, 20, 20, 40]),
                withdrawn,
            )
        )

    pairs: set[tuple[int, int]] = set()
    while len(pairs) < 420:
        pairs.add((rng.randint(1, 440), min(rng.randint(1, 56), rng.randint(1, 56))))
    prescriptions = []
    for visit_id, medicine_id in sorted(pairs):
        refills = rng.choice([0, 0, 1, 2, 3])
        days = rng.choice([1, 3, 5, 7, 7, 10, 14, 28])
        prescriptions.append(
            (visit_id, medicine_id, rng.choice([1, 2, 5, 10, 14, 28]), days, refills, rng.randint(0, refills))
        )

    return {
        "clinic": clinics,
        "vet": vets,
        "owner": owners,
        "pet": pets,
        "visit": visits,
        "medicine": medicines,
        "prescription": prescriptions,
    }
