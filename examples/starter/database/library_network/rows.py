"""Rows of the public library network, the same for the same random generator.

Traps that are meant: the districts 'Harbor' and 'Harbour' (and 'Old Town' and 'Oldtown') are different
places, some titles exist in several languages, some members share a name, and unreturned loans have no return
date.
"""

from __future__ import annotations

import random
from datetime import date, timedelta


def _pool(text: str) -> list[str]:
    """The values of a list written out with semicolons, over as many lines as it needs."""
    return [" ".join(value.split()) for value in text.split(";")]


DISTRICTS = [
    "Harbour",
    "Harbor",
    "Old Town",
    "Oldtown",
    "Mill Quarter",
    "Northgate",
    "Riverside",
    "Fairfield",
]
OUTER_DISTRICTS = ["Larkhill", "Saltmarsh"]  # members live there, no branch stands there

BRANCHES = _pool("""
    Anchor Street; Lighthouse; Pilot House; Ropewalk; Customs Quay; Breakwater; Market Square; Guildhall;
    Bell Tower; Weavers' Hall; Clockmaker; Minster Yard; Wheatsheaf; Millrace; Granary; Waterwheel;
    Sluice Lane; North Gate; Barbican; Ravelin; Watchman; Toll House; Willow Bank; Ferry Steps;
    Otter Bridge; Regatta; Towpath; Orchard Way; Fairground; Meadow View; Hop Garden; Haymarket; Long Acre;
    Chestnut Row; Sycamore; Poplar Walk; Kingfisher; Heron; Cormorant; Station Road; Tramway; Engine Shed;
    Canal Basin; Lock Keeper; Observatory; Botanic; Founders; Jubilee; Memorial; Carnegie; Central;
    Central Annex; Children's House; University Gate
""")

FIRST = _pool("""
    Ada; Bruno; Celeste; Dario; Edith; Farid; Greta; Hugo; Ines; Jonas; Katya; Leon; Mira; Noel; Odile;
    Pavel; Rosa; Samir; Thea; Umberto; Vera; Wilma; Yusuf; Zora; Anselm; Beatrix; Cyril; Delia; Emeka; Freya
""")
LAST = _pool("""
    Abara; Bergström; Castellan; Dunmore; Eriksen; Fairweather; Garrido; Holloway; Ivanenko; Jankowski;
    Kowalczyk; Lindqvist; Marchetti; Nakamura; Oyelaran; Pemberton; Quist; Rasmussen; Silveira; Thornbury;
    Ueda; Vasquez; Whitlock; Yilmaz; Zeller
""")

COUNTRIES = ["Norway", "Portugal", "Poland", "Nigeria", "Japan", "Ireland", "Argentina", "Turkey"]
GENRES = ["Crime", "Poetry", "History", "Science", "Children", "Travel", "Drama", "Cookery"]
LANGUAGES = ["English", "English", "English", "Portuguese", "Norwegian", "Polish", "Turkish"]

TITLES = _pool("""
    The Salt Road; A River Without Banks; Nine Winters; The Cartographer's Debt; Bread and Ashes;
    The Glass Orchard; Letters to the Tide; A Short History of Rope; The Quiet Engine;
    Moths of the Upper River; The Last Ferryman; Counting Sparrows; The Blue Ledger; An Index of Storms;
    What the Miller Knew; The Second Key; Night Train to Gdynia; A Kitchen by the Sea; The Weight of Snow;
    Small Planets; The Beekeeper's Alibi; Under the Viaduct; Songs for an Empty Hall; The River Clock;
    Green Bridges; The Paper Garden; Murder at Low Tide; The Astronomer's Cook; Thirty Days of Rain;
    The House of Four Doors; Maps for the Lost; The Tin Soldier's Sister; A Field Guide to Silence;
    The Copper Kettle; Cold Harbour; The Ploughman's Calendar; Atoms at Breakfast; The Owl and the Postman;
    Harvest of Stones; The Unfinished Bridge; Seven Soups; The Lantern Thief; A Grammar of Birds;
    The Hollow Hill; Salt, Smoke, Sugar; The Ninth Witness; Where the River Bends; The Velvet Revolt;
    Tides and Timetables; The Forger's Daughter; A Year in Lisbon; The Invisible Loom; Ink and Iron;
    The Whale Road; Lessons from a Lighthouse; The Amber Room Key; Ghosts of the Granary;
    The Old Town Murders; Frost Fair; The Gardener's Proof; Islands in the Fog; The Borrowed Coat;
    Wild Yeast; The Signalman; A Handful of Quarks; The Pirate Queen's Parrot; Letters from the Quarry;
    The Long Portage; The Winter Choir; Half a Kingdom
""")

CONDITIONS = ["new", "good", "good", "fair", "worn", "damaged"]


def _day(rng: random.Random, first: str, last: str) -> str:
    """A day from `first` to `last` (both ISO dates and both possible), as an ISO date."""
    start = date.fromisoformat(first)
    return (start + timedelta(days=rng.randint(0, (date.fromisoformat(last) - start).days))).isoformat()


def _later(day: str, days: int) -> str:
    """The ISO date `days` after `day`, or before it where `days` is negative."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def _name(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """All rows by table, in an order that satisfies the foreign keys."""
    branches = []
    for number, name in enumerate(BRANCHES, start=1):
        opened = _day(rng, "1962-01-01", "2016-12-31")
        closed = _day(rng, "2018-01-01", "2023-12-31") if number % 9 == 4 else None
        district = DISTRICTS[(number - 1) % len(DISTRICTS)]
        area = rng.choice([180, 240, 240, 320, 400, 650, 651, 900, 1400])
        branches.append(
            (number, name, district, opened, closed, area, rng.randrange(10, 121, 5), rng.randint(2, 14))
        )

    authors = []
    for number in range(1, 71):
        born = rng.randint(1898, 1988)
        died = born + rng.randint(48, 91)
        authors.append((number, _name(rng), rng.choice(COUNTRIES), born, died if died < 2022 else None))

    books = []
    for number in range(1, 141):
        # The first seventy are the first editions; later ones are translations with the same title.
        title = TITLES[number - 1] if number <= len(TITLES) else rng.choice(TITLES)
        author_id = number if number <= 40 else rng.randint(1, 60)  # the last ten authors have no book here
        published = min(max(authors[author_id - 1][3] + rng.randint(22, 45), 1930), 2021)
        acquired = min(max(published, 1985) + rng.randint(0, 30), 2023)
        pages = rng.choice([None, 96, 128, 128, 199, 200, 201, 256, 288, 320, 320, 412, 540, 688])
        price = rng.choice([9.5, 12.0, 12.5, 14.99, 15.0, 18.75, 22.0, 24.0, 24.99, 35.0, 48.0])
        cost = round(price + rng.choice([0.0, 4.0, 6.5, 10.0, 12.0, 15.0]), 2)
        books.append(
            (
                number,
                title,
                author_id,
                rng.choice(GENRES),
                rng.choice(LANGUAGES),
                published,
                acquired,
                pages,
                price,
                cost,
            )
        )

    copies = []
    for number in range(1, 401):
        added = _day(rng, "2008-01-01", "2021-12-31")
        withdrawn = _day(rng, "2022-01-01", "2023-12-31") if rng.random() < 0.12 else None
        copies.append(
            (number, rng.randint(1, 132), rng.randint(1, 50), rng.choice(CONDITIONS), added, withdrawn)
        )  # books 133 to 140 and the last four branches have no copies

    members = []
    for number in range(1, 201):
        name = _name(rng)
        district = rng.choice(DISTRICTS + OUTER_DISTRICTS)
        email = None
        if rng.random() < 0.7:
            domain = rng.choice(["post.example", "mail.example", "letterbox.example"])
            email = f"{name.split()[0].lower()}{number}@{domain}"
        joined = _day(rng, "2015-01-01", "2023-06-30")
        home = rng.randint(1, 48) if rng.random() < 0.9 else None
        members.append(
            (
                number,
                name,
                district,
                email,
                _day(rng, "1940-01-01", "2012-12-31"),
                joined,
                _later(joined, rng.choice([365, 730, 1095, 3650])),
                home,
            )
        )

    loans = []
    for number in range(1, 471):
        borrowed = _day(rng, "2022-01-01", "2023-12-10")
        renewals = rng.choice([0, 0, 0, 1, 1, 2, 3])
        due = _later(borrowed, 21 + 14 * renewals)
        returned = _later(borrowed, rng.randint(2, 75)) if rng.random() < 0.88 else None
        late = (date.fromisoformat(returned) - date.fromisoformat(due)).days if returned else 0
        fine = round(0.25 * late, 2) if late > 0 else 0.0
        paid = fine if rng.random() < 0.6 else round(fine / 2, 2)
        member_id = min(rng.randint(1, 185), rng.randint(1, 185))  # early members borrow more, the last never
        loans.append((number, rng.randint(1, 380), member_id, borrowed, due, returned, renewals, fine, paid))

    return {
        "branch": branches,
        "author": authors,
        "book": books,
        "book_copy": copies,
        "member": members,
        "loan": loans,
    }
