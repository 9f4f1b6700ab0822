"""Rows of the ground-services firm: planned and actual, bought and sold, in and out lie close together."""

from __future__ import annotations

import random
from datetime import date, timedelta

COUNTRIES = ["Norvia", "Norvia", "Castellia", "Ostmark", "Lagoon Islands", "Tarsis", "Verdania"]
PREFIXES = "Aero Blue Coastal Delta Eastern Falcon Golden Horizon Island Jet Kite Lynx Meridian"
ENDINGS = ["Air", "Airways", "Wings", "Express", "Cargo"]
PLACES = [
    "Altona",
    "Brisa",
    "Cedar Point",
    "Dorne",
    "Elmstad",
    "Fossa",
    "Grand Quay",
    "Havnes",
    "Isola",
    "Jarrow",
]
NAMES = "Amira Boris Celine Dario Emeka Farah Goran Hanne Ilya Jelena Kofi Lena Marek Nadia Omar Petra"
FAMILY = "Adler Bakker Cheng Diallo Evans Fontana Gruz Horvat Ibsen Jovic Kral Lund Mensah Novak Orban"
ROLES = ["loader", "loader", "loader", "driver", "driver", "marshaller", "cleaner", "de-icer"]
VEHICLES = ["tug", "belt loader", "bus", "fuel truck", "de-icing truck", "stairs"]
TASKS = ["loading", "unloading", "towing", "cleaning", "de-icing", "boarding", "fuelling"]
COMPLAINTS = ["late arrival of crew", "damaged bag", "door scratched", "missing paperwork", "spilled water"]


def day(rng: random.Random, first: date, last: date) -> date:
    return first + timedelta(days=rng.randrange((last - first).days + 1))


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    airlines = []
    for airline_id in range(1, 53):
        name = f"{rng.choice(PREFIXES.split())} {rng.choice(ENDINGS)}"
        code = "ABCDEFGHJKLMN"[airline_id % 13] + "PQRST"[airline_id // 13]
        start = day(rng, date(2012, 1, 1), date(2022, 12, 31))
        end = (
            (start + timedelta(days=365 * rng.choice([1, 2, 3, 5]))).isoformat()
            if rng.random() < 0.4
            else None
        )
        fee = rng.randrange(12, 37) * 25.0
        deicing = None if rng.random() < 0.25 else fee + rng.choice([-50.0, 0.0, 0.0, 50.0, 150.0])
        airlines.append((airline_id, name, code, rng.choice(COUNTRIES), start.isoformat(), end, fee, deicing))

    stands = []
    for stand_id in range(1, 57):
        terminal = "ABC"[stand_id % 3]
        kind = rng.choice(["bridge", "bridge", "remote", "cargo"])
        walk = None if kind == "cargo" else rng.randrange(4, 40) * 20
        stands.append(
            (
                stand_id,
                f"{terminal}{stand_id // 3 + 1:02d}",
                terminal,
                kind,
                rng.choice([24.0, 36.0, 36.0, 52.0, 65.0]),
                walk,
            )
        )

    flights = []
    for flight_id in range(1, 321):
        airline = rng.randrange(1, 47)  # airlines 47 to 52 have a contract but have not flown yet
        origin, target = rng.choice(PLACES), rng.choice(PLACES)
        planned = rng.choice([35, 40, 45, 45, 60, 60, 75, 90])
        actual = None if rng.random() < 0.08 else planned + rng.choice([-10, -5, 0, 0, 0, 5, 5, 10, 20, 45])
        coming = rng.randrange(8, 40) * 5
        leaving = max(0, coming + rng.choice([-25, -10, -5, 0, 0, 5, 15]))
        stand = rng.randrange(1, 53) if rng.random() < 0.93 else None  # stands 53 to 56 are new
        number = f"{airlines[airline - 1][2]}{rng.randrange(100, 140)}"
        served = day(rng, date(2023, 10, 1), date(2024, 3, 31)).isoformat()
        flights.append(
            (flight_id, airline, stand, number, origin, target, served, planned, actual, coming, leaving)
        )

    employees = []
    for employee_id in range(1, 97):
        wage = rng.randrange(28, 45) * 0.5
        role = "shift lead" if employee_id <= 8 else rng.choice(ROLES)
        hired = day(rng, date(2010, 1, 1), date(2023, 9, 30))
        left = day(rng, date(2024, 1, 1), date(2024, 4, 30)).isoformat() if rng.random() < 0.15 else None
        boss = None if employee_id <= 4 else rng.randrange(1, 5) if employee_id <= 8 else rng.randrange(1, 9)
        night = wage + rng.choice([0.0, 2.0, 2.0, 4.0])
        wage += 6.0 if role == "shift lead" else 0.0
        name = f"{rng.choice(NAMES.split())} {rng.choice(FAMILY.split())}"
        employees.append((employee_id, name, role, hired.isoformat(), left, wage, max(wage, night), boss))

    vehicles = []
    for vehicle_id in range(1, 73):
        bought = day(rng, date(2008, 1, 1), date(2023, 6, 30))
        price = rng.randrange(4, 50) * 2500.0
        retired = day(rng, date(2023, 7, 1), date(2024, 3, 31)).isoformat() if rng.random() < 0.25 else None
        resale = price - rng.choice([0.0, 2500.0, 5000.0, 7500.0]) if retired and rng.random() < 0.8 else None
        fuel = rng.choice(["diesel", "diesel", "electric", "hydrogen"])
        plate = f"GS-{rng.randrange(100, 1000)}"
        vehicles.append(
            (vehicle_id, plate, rng.choice(VEHICLES), fuel, bought.isoformat(), retired, price, resale)
        )

    jobs = []
    for job_id in range(1, 481):
        task = rng.choice(TASKS)
        vehicle = None if task == "cleaning" or rng.random() < 0.15 else rng.randrange(1, 66)
        complaint = rng.choice(COMPLAINTS) if rng.random() < 0.12 else None
        minutes = rng.choice([10, 15, 15, 20, 25, 30, 30, 45, 60])
        shift = rng.choice(["early", "late", "night"])
        jobs.append(
            (job_id, rng.randrange(1, 301), rng.randrange(5, 91), vehicle, task, shift, minutes, complaint)
        )

    return {
        "airlines": airlines,
        "stands": stands,
        "flights": flights,
        "employees": employees,
        "vehicles": vehicles,
        "jobs": jobs,
    }
