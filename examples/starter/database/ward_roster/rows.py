"""Rows of the ward roster: one hospital trust with three sites, shifts of May and June 2024.

Made to hold near misses on purpose: 'Cardiology' and 'Cardiac Surgery', `bed_count` beside
`staffed_bed_count`, `hours_planned` beside `hours_worked`, `reported_on`, `starts_on` and `ends_on`, people
who share a name.
"""

import random
from datetime import date, timedelta

SITES = ["Harbour Road", "Harbour View", "St Brendan"]
# Wards are named after trees; the same tree may stand at two sites.
TREES = [
    "Alder",
    "Ash",
    "Aspen",
    "Beech",
    "Birch",
    "Cedar",
    "Elm",
    "Hazel",
    "Juniper",
    "Larch",
    "Maple",
    "Oak",
]
TREES += ["Pine", "Poplar", "Rowan", "Spruce", "Willow", "Yew"]
SPECIALTIES = [
    "Cardiology",
    "Cardiac Surgery",
    "Geriatrics",
    "General Medicine",
    "General Surgery",
    "Intensive Care",
    "Maternity",
    "Neurology",
    "Oncology",
    "Orthopaedics",
    "Paediatrics",
]
GIVEN = [
    "Aisha",
    "Bram",
    "Catherine",
    "Katherine",
    "Daniel",
    "Eoin",
    "Fatima",
    "George",
    "Hannah",
    "Idris",
    "Jolene",
]
GIVEN += ["Kemal", "Lucy", "Lucie", "Marek", "Noor", "Oscar", "Priya", "Ruth", "Stephen", "Steven", "Tamsin"]
FAMILY = [
    "Adeyemi",
    "Barrow",
    "Byrne",
    "Burne",
    "Chowdhury",
    "Dunne",
    "Eriksen",
    "Flores",
    "Gallagher",
    "Hughes",
]
FAMILY += [
    "Iqbal",
    "Keane",
    "Lawson",
    "Murphy",
    "Novak",
    "O'Brien",
    "Patel",
    "Reid",
    "Reed",
    "Sokolov",
    "Walsh",
]
# Job title -> lowest hourly rate.
JOBS = {
    "ward manager": 29.5,
    "charge nurse": 25.0,
    "staff nurse": 20.5,
    "nursing associate": 17.0,
    "healthcare assistant": 14.5,
    "ward clerk": 14.0,
}
REASONS = [
    "sick leave",
    "sick leave",
    "annual leave",
    "annual leave",
    "annual leave",
    "study leave",
    "parental leave",
]
REASONS += ["compassionate leave"]
CERTIFICATES = [
    "Basic Life Support",
    "Advanced Life Support",
    "Medication Handling",
    "Manual Handling",
    "Infection Control",
    "Wound Care",
]


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """Table name -> rows, in an order in which every foreign key is already there."""
    wards = []
    for site in SITES:
        for tree in TREES:
            beds = rng.choice([12, 16, 18, 20, 20, 24, 24, 28, 30, 31])
            staffed = beds - rng.choice([0, 0, 0, 1, 2, 4, 6])
            night, day_staff = rng.choice([2, 2, 3, 3, 4]), rng.choice([3, 4, 4, 5, 6])
            opened = date(1978, 1, 1) + timedelta(days=rng.randint(0, 15500))
            closed = date(2022, 1, 1) + timedelta(days=rng.randint(0, 800)) if rng.random() < 0.13 else None
            name, specialty = f"{tree} Ward", SPECIALTIES[len(wards) % len(SPECIALTIES)]
            ward = (len(wards) + 1, name, site, specialty, beds, staffed, night, day_staff)
            wards.append((*ward, str(opened), closed and str(closed)))
    open_wards = [ward for ward in wards if ward[9] is None]

    titles = ["ward manager"] * 16 + ["charge nurse"] * 24 + ["staff nurse"] * 60
    titles += ["nursing associate"] * 20 + ["healthcare assistant"] * 30 + ["ward clerk"] * 10
    staff = []
    for staff_id, title in enumerate(titles, start=1):
        joined = date(2000, 1, 1) + timedelta(days=rng.randint(0, 8800))
        left = date(2024, 5, 1) + timedelta(days=rng.randint(0, 200)) if rng.random() < 0.1 else None
        rate = JOBS[title] + rng.randint(0, 12) * 0.25
        overtime = None if title in ("ward manager", "ward clerk") else rate * rng.choice([1.25, 1.5])
        ward = (
            None if rng.random() < 0.08 else rng.choice(open_wards[:-5])[0]
        )  # the others are in the bank pool
        manager = None if title == "ward manager" else rng.randint(1, 14)
        name, hours = (
            f"{rng.choice(GIVEN)} {rng.choice(FAMILY)}",
            rng.choice([18.75, 24, 30, 37.5, 37.5, 37.5]),
        )
        person = (
            staff_id,
            name,
            title,
            ward,
            manager,
            hours,
            round(rate, 2),
            overtime and round(overtime, 2),
        )
        staff.append((*person, str(joined), left and str(left)))

    shifts, taken = [], set()
    while len(shifts) < 220:
        ward = rng.choice(open_wards[:-3])
        slot = (
            ward[0],
            str(date(2024, 5, 1) + timedelta(days=rng.randint(0, 60))),
            rng.choice(["early", "late", "night"]),
        )
        if slot in taken:
            continue
        taken.add(slot)
        planned = (ward[6] if slot[2] == "night" else ward[7]) + rng.choice([-1, 0, 0, 0, 1])
        patients = None if rng.random() < 0.07 else max(0, ward[5] - rng.randint(0, 7))
        shifts.append((len(shifts) + 1, *slot, planned, patients))

    assignments, on_shift = [], set()
    carers = [person for person in staff if person[2] not in ("ward manager", "ward clerk")][:-8]
    while len(assignments) < 495:
        shift, person = rng.choice(shifts[:-10]), rng.choice(carers)
        if (shift[0], person[0]) in on_shift or (person[9] and person[9] < shift[2]) or person[8] > shift[2]:
            continue
        on_shift.add((shift[0], person[0]))
        planned = rng.choice([7.5, 7.5, 8, 12]) if shift[3] != "night" else rng.choice([10, 10.5, 12])
        worked = None if rng.random() < 0.07 else planned + rng.choice([-2, -0.5, 0, 0, 0, 0, 0.5, 1.25])
        in_charge = person[2] in ("charge nurse", "staff nurse") and rng.random() < 0.25
        duty = (
            "in charge"
            if in_charge
            else rng.choice(["bedside", "bedside", "medication", "admissions", "float"])
        )
        overtime = int(rng.random() < 0.18)
        assignments.append((len(assignments) + 1, shift[0], person[0], duty, planned, worked, overtime))

    absences = []
    for absence_id in range(1, 111):
        person, reason = rng.choice(staff[:150]), rng.choice(REASONS)
        starts = date(2024, 1, 8) + timedelta(days=rng.randint(0, 200))
        if reason == "sick leave":
            length, reported = rng.choice([0, 1, 1, 2, 4, 13, None]), starts
        elif reason == "parental leave":
            length, reported = rng.choice([90, 120, 181]), starts - timedelta(days=rng.randint(60, 150))
        else:
            length, reported = rng.choice([0, 4, 4, 6, 11, 13]), starts - timedelta(days=rng.randint(7, 90))
        ends = None if length is None else str(starts + timedelta(days=length))
        approver = None if rng.random() < 0.2 else rng.choice([m for m in range(1, 17) if m != person[0]])
        absences.append((absence_id, person[0], reason, str(reported), str(starts), ends, approver))

    certificates = []
    for person in staff:
        for name in rng.sample(CERTIFICATES, rng.choice([0, 1, 1, 2, 2, 3])):
            issued = date(2019, 1, 1) + timedelta(days=rng.randint(0, 1980))
            expires = (
                None if name == "Wound Care" else str(issued + timedelta(days=rng.choice([365, 730, 1095])))
            )
            score = None if rng.random() < 0.15 else rng.choice([70, 75, 80, 85, 89, 90, 95, 100])
            certificates.append((len(certificates) + 1, person[0], name, str(issued), expires, score))

    return {
        "wards": wards,
        "staff": staff,
        "shifts": shifts,
        "assignments": assignments,
        "absences": absences,
        "certificates": certificates,
    }
