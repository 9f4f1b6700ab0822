"""Rows of the co-working operator. Prices and dates sit close together, so that wrong columns nearly fit."""

from __future__ import annotations

import random
from datetime import date, timedelta

CITIES = [
    ("Lisbon", "Portugal"),
    ("Porto", "Portugal"),
    ("Valencia", "Spain"),
    ("Bilbao", "Spain"),
    ("Lyon", "France"),
    ("Nantes", "France"),
    ("Ghent", "Belgium"),
    ("Leipzig", "Germany"),
    ("Bremen", "Germany"),
]
STREETS = ["Mill", "Harbour", "Station", "Garden", "Foundry", "Canal", "Market", "Tram"]
BUILDINGS = ["Loft", "House", "Yard", "Works"]
WORDS = "Amber Birch Cobalt Delta Ember Fjord Grove Heron Indigo Juniper Koala Lumen Mosaic Nimbus Otter"
FORMS = ["Studio", "Labs", "Partners", "Legal", "Media"]
INDUSTRIES = ["software", "software", "design", "law", "film", "consulting", "education"]
GIVEN = "Aline Bastian Carmen David Elsa Fabio Gael Helena Ivo Joana Lara Mateo Nora Oscar Paula Rui Sara"
FAMILY = (
    "Almeida Baptist Costa Dubois Engel Ferrer Gomes Haas Iglesias Janssen Klein Lopes Marchal Neves Ortiz"
)
TIERS = {"day": (90, 20), "flex": (160, 60), "fixed": (260, 120), "team": (480, 240)}


def day(rng: random.Random, first: date, last: date) -> date:
    return first + timedelta(days=rng.randrange((last - first).days + 1))


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    sites = []
    for site_id in range(1, 51):
        city, country = rng.choice(CITIES)
        opened = day(rng, date(2012, 1, 1), date(2022, 6, 30))
        closed = day(rng, date(2022, 7, 1), date(2024, 4, 30)).isoformat() if site_id % 6 == 0 else None
        fixed, flexible = rng.randrange(4, 17) * 5, rng.randrange(2, 15) * 5
        rent = (fixed + flexible) * rng.choice([80.0, 100.0, 100.0, 120.0])
        name = f"{rng.choice(STREETS)} {rng.choice(BUILDINGS)}"
        sites.append((site_id, name, city, country, opened.isoformat(), closed, fixed, flexible, rent))

    companies = []
    for company_id in range(1, 61):
        name = f"{WORDS.split()[company_id % 15]} {FORMS[company_id % 4 if company_id % 3 else 4]}"
        industry = rng.choice(INDUSTRIES) if rng.random() < 0.88 else None
        companies.append(
            (
                company_id,
                name,
                industry,
                rng.choice([1, 2, 3, 3, 5, 8, 10, 10, 14, 25]),
                rng.randrange(1998, 2023),
            )
        )

    members = []
    for member_id in range(1, 221):
        name = f"{rng.choice(GIVEN.split())} {rng.choice(FAMILY.split())}"
        email = f"{name.lower().replace(' ', '.')}{member_id}@work.example" if rng.random() < 0.85 else None
        company = (
            rng.randrange(1, 53) if rng.random() < 0.7 else None
        )  # companies 53 to 60 have no members yet
        joined = day(rng, date(2018, 1, 1), date(2023, 12, 31))
        left = (joined + timedelta(days=rng.randrange(30, 180))).isoformat() if rng.random() < 0.3 else None
        invited = rng.randrange(1, member_id) if member_id > 10 and rng.random() < 0.4 else None
        if invited and rng.random() < 0.3:
            company = members[invited - 1][3]
        members.append(
            (member_id, name, email, company, rng.randrange(1, 46), joined.isoformat(), left, invited)
        )

    plans = []
    for plan_id in range(1, 91):
        tier = rng.choice(list(TIERS))
        price, hours = TIERS[tier]
        listed = price + rng.choice([-20.0, 0.0, 0.0, 20.0, 40.0])
        sale = rng.choice([None, None, listed, listed - 20.0, listed - 40.0])
        plans.append(
            (plan_id, rng.randrange(1, 48), tier, listed, sale, hours, rng.choice([14, 30, 30, 60, 90]))
        )

    subscriptions = []
    for subscription_id in range(1, 301):
        member = members[rng.randrange(0, 200)]
        started = max(date.fromisoformat(member[5]), day(rng, date(2019, 1, 1), date(2024, 3, 31)))
        ended = (
            (started + timedelta(days=rng.choice([30, 60, 90, 180, 365]))).isoformat()
            if rng.random() < 0.5
            else None
        )
        discount = rng.choice([0, 0, 0, 5, 10, 10, 25])
        subscriptions.append(
            (subscription_id, member[0], rng.randrange(1, 81), started.isoformat(), ended, discount)
        )

    meeting_rooms = []
    for meeting_room_id in range(1, 101):
        seats = rng.choice([2, 4, 4, 6, 8, 10, 12, 20])
        screen = rng.choice([None, 42, 55, 55, 65])
        label = f"{rng.choice(WORDS.split())} {rng.choice(['Room', 'Box', 'Suite'])}"
        rate = 8.0 + seats * rng.choice([1.0, 1.5, 2.0])
        meeting_rooms.append((meeting_room_id, rng.randrange(1, 48), label, seats, rate, screen))

    bookings = []
    for booking_id in range(1, 441):
        booked = day(rng, date(2023, 1, 1), date(2024, 5, 15))
        used = booked + timedelta(days=rng.choice([0, 0, 1, 2, 7, 14, 30]))
        cancelled = day(rng, booked, used).isoformat() if rng.random() < 0.15 else None
        catering = rng.choice([None, None, 0.0, 25.0, 40.0, 60.0, 120.0])
        bookings.append(
            (
                booking_id,
                rng.randrange(1, 91),
                rng.randrange(1, 181),
                booked.isoformat(),
                used.isoformat(),
                cancelled,
                rng.choice([0.5, 1.0, 1.0, 1.5, 2.0, 2.0, 3.0, 4.0, 8.0]),
                catering,
            )
        )

    return {
        "sites": sites,
        "companies": companies,
        "members": members,
        "plans": plans,
        "subscriptions": subscriptions,
        "meeting_rooms": meeting_rooms,
        "bookings": bookings,
    }
