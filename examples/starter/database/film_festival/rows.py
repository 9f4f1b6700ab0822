"""Rows of the regional film festival, the same for the same random generator.

Traps that are meant: a director's home country is often not the country of the film, 'Sankt Veit' and
'St Veit' are different towns, films of 90 and 91 minutes stand side by side, some films have no budget on
record, and prizes are won, or only nominated for.
"""

from __future__ import annotations

import random
from datetime import date, timedelta


def _pool(text: str) -> list[str]:
    """The values of a list written out with semicolons, over as many lines as it needs."""
    return [" ".join(value.split()) for value in text.split(";")]


COUNTRIES = ["Austria", "Slovenia", "Italy", "Croatia", "Hungary", "Czechia"]
LANGUAGES = {
    "Austria": "German",
    "Slovenia": "Slovene",
    "Italy": "Italian",
    "Croatia": "Croatian",
    "Hungary": "Hungarian",
    "Czechia": "Czech",
}
TOWNS = ["Sankt Veit", "St Veit", "Altmark", "Grünau", "Podgora", "Seefeld", "Neudorf"]

FIRST = _pool("""
    Agnes; Balint; Cosima; Drago; Elio; Franziska; Gregor; Hedwig; Ivana; Jakob; Klara; Luka; Marta; Nika;
    Ottavia; Paolo; Renata; Silvio; Tereza; Urban; Veronika; Zdenko
""")
LAST = _pool("""
    Adamek; Bauer; Cernigoj; Dvorsky; Esposito; Farkas; Gruber; Horvat; Istenic; Juhasz; Kranjc; Lanzi;
    Moretti; Novotny; Obermayr; Perko; Rossi; Szabo; Tomasi; Unterberger; Vidmar; Winkler
""")
TITLES = _pool("""
    The Smuggler's Pass; Milk Teeth; Snowline; The Last Sawmill; My Uncle's Accordion; Border Post 7;
    Apricot Summer; Half Past Never; The Echo Collector; Bees in the Attic; Night Shift at the Dairy;
    A Bench in Trieste; Cable Car; The Second Bell; Goodbye, Yugo; Static; The Quarry Children;
    White Asphalt; Mountain Radio; An Ordinary Strike; The Well; Sleepers; Under the Karst; Sugar Beet;
    Two Suitcases; A Clock for Anton; Lake Without Name; Foehn; The Interpreter's Holiday; Rust;
    Grandmother Drives; Third Floor, Left; The Chess Baker; Blue Cabbage; Thaw; What the Crows Saw;
    Platform Zero; The Village Giant; Wedding with Brass Band; Silent Partner; The Tunnel;
    Nine Ways to Fold a Map; Postcards from Pula; The Honest Poacher; Alpine Disco; The Salt Tax;
    Late Harvest; Ordinary Ghosts; The Puppet Doctor; Winter Timetable; Strangers at the Weir; Bread Line;
    The Frog Census; Hotel Esplanade; Someone Else's Skis; Red Roof; The Mapmaker's Dog; A Loan of Rain;
    Long Way to Linz; Hay Fever; Ballad of the Ferry; The Unmarried Uncle; Marble; An Alibi for Clara;
    The Cellar Choir; Dust and Paprika; Eleven Mirrors; The Night Bakers; Kilometre 88;
    Fathers of the Reservoir
""")
SECTIONS = ["Feature", "Feature", "Documentary", "Documentary", "Short", "Student", "Retrospective"]
VENUES = _pool("""
    Stadtkino; Apollo; Filmcasino; Urania; Old Tannery; Fire Station; Town Hall; Castle Courtyard; Lido;
    Kino Dom; Parish Hall; Sawmill Stage; Schoolhouse; Barn at the Mill; Volkshaus; Sports Hall; Bellaria;
    Kulturhaus; Rex; Granary; Railway Shed; Lakeside Lawn; Rathaus Cellar; Cinema Paradiso; Orpheum;
    Museum Foyer; Brewery Hall; Metro; Village Green; Youth Centre; Ski Hut; Abbey Cloister; Casino Hall;
    Studio 1; Studio 2; Library Room; Market Hall; Odeon; Harbour Shed; Little Theatre; Grand Theatre;
    Open Air Quarry; Vineyard Terrace; Scala; Gloria; Music School; Theatre Loft; Post Yard; Winter Garden;
    Kino Center; Kino Zenter; Observatory Dome
""")
PROFESSIONS = ["critic", "critic", "editor", "actor", "producer", "composer", "teacher", "programmer"]
PRIZES = _pool(
    "Golden Edelweiss; Silver Edelweiss; Audience Prize; Best Debut; Best Camera; Best Score; Youth Prize"
)
COMMENTS = [
    None,
    None,
    None,
    "too long",
    "strong ending",
    "fine camera work",
    "weak sound",
    "moving",
    "too loud",
]


def _day(rng: random.Random, first: str, last: str) -> str:
    """A day from `first` to `last` (both ISO dates and both possible), as an ISO date."""
    start = date.fromisoformat(first)
    return (start + timedelta(days=rng.randint(0, (date.fromisoformat(last) - start).days))).isoformat()


def _name(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """All rows by table, in an order that satisfies the foreign keys."""
    directors = []
    for number in range(1, 76):
        debut = rng.randint(1978, 2021)
        born = debut - rng.randint(22, 41) if rng.random() < 0.88 else None
        directors.append((number, _name(rng), rng.choice(COUNTRIES), born, debut))

    films = []
    for number in range(1, 111):
        # From the seventy-first film on the titles come again: remakes and films that share a name by chance.
        title = TITLES[number - 1] if number <= len(TITLES) else rng.choice(TITLES)
        director_id = rng.randint(1, 68)  # the last directors have not sent a film yet
        section = rng.choice(SECTIONS)
        country = rng.choice(COUNTRIES)
        if rng.random() < 0.5:
            country = directors[director_id - 1][2]
        language = LANGUAGES[country] if rng.random() < 0.8 else rng.choice([None, "English", "German"])
        short = section in ("Short", "Student")
        runtime = rng.choice([8, 12, 15, 15, 24, 29] if short else [74, 88, 90, 90, 91, 102, 118, 143])
        released = directors[director_id - 1][4] + rng.choice([0, 0, 1, 2, 5, 9, 14])
        released = min(released, 2021)
        budget = rng.choice([None, 18000, 40000, 40000, 250000, 900000, 905000, 2400000])
        films.append(
            (
                number,
                title,
                director_id,
                section,
                country,
                language,
                runtime,
                released,
                budget,
                rng.randint(0, 1),
            )
        )

    venues = []
    for number, name in enumerate(VENUES, start=1):
        seats = rng.choice([40, 60, 60, 85, 120, 120, 180, 260, 420])
        rent = rng.choice([None, 90.0, 150.0, 150.0, 320.0, 600.0])
        kind = rng.choice(["cinema", "cinema", "hall", "open air", "pop-up"])
        town = TOWNS[number * 3 % len(TOWNS)]
        venues.append(
            (number, name, town, kind, seats, rng.choice([0, 1, 2, 2, 4, 6]), rent, rng.randint(1999, 2021))
        )

    screenings = []
    for number in range(1, 301):
        venue_id = rng.randint(1, 49)  # the last venues stand by for rain and were not needed
        seats = venues[venue_id - 1][4]
        full = rng.choice([6.0, 8.0, 8.0, 9.5, 11.0, 14.0])
        sold = int(seats * rng.choice([0.1, 0.3, 0.45, 0.6, 0.8, 1.0, 1.0]))
        guest = _name(rng) if rng.random() < 0.25 else None
        year = rng.choice([2021, 2022, 2023, 2023])
        day = _day(rng, f"{year}-09-14", f"{year}-09-25")
        time = rng.choice(["10:00", "14:30", "16:00", "18:00", "18:30", "20:15", "20:15", "22:30"])
        film_id = min(rng.randint(1, 104), rng.randint(1, 104))
        reduced = full - rng.choice([0.0, 1.5, 2.0, 3.0])
        returned = rng.choice([0, 0, 0, 1, 2, 3])
        screenings.append((number, film_id, venue_id, day, time, full, reduced, sold, returned, guest))

    jurors = []
    for number in range(1, 56):
        town = rng.choice([None, *TOWNS, "Graz", "Maribor"])
        jurors.append((number, _name(rng), rng.choice(PROFESSIONS), town, rng.randint(2008, 2023)))

    pairs: set[tuple[int, int]] = set()
    while len(pairs) < 400:
        pairs.add((rng.randint(1, 98), min(rng.randint(1, 52), rng.randint(1, 52))))
    marks = []
    for film_id, juror_id in sorted(pairs):
        story = rng.choice([2, 4, 5, 6, 6, 7, 7, 8, 9, 10])
        craft = min(10, max(1, story + rng.choice([-3, -1, 0, 0, 1, 2])))
        comment = rng.choice(COMMENTS)
        marks.append((film_id, juror_id, story, craft, comment, _day(rng, "2023-06-01", "2023-09-20")))

    prizes = []
    for number in range(1, 96):
        outcome = rng.choice(["won", "nominated", "nominated"])
        money = rng.choice([None, 1000, 2500, 2500, 10000]) if outcome == "won" else None
        film_id = min(rng.randint(1, 100), rng.randint(1, 100))
        year = max(rng.randint(2017, 2023), films[film_id - 1][7])  # no prize before the release
        prizes.append((number, rng.choice(PRIZES), film_id, year, outcome, money))

    return {
        "director": directors,
        "film": films,
        "venue": venues,
        "screening": screenings,
        "juror": jurors,
        "mark": marks,
        "prize": prizes,
    }
