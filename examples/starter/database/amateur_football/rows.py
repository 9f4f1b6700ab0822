"""Rows of the amateur football league: one season, August 2023 to May 2024, in four divisions.

Goals in `match_events` add up to the results in `matches`. Made to hold near misses on purpose: 'Millbrook'
and 'Milbrook', 'Rovers' and 'Rangers', `capacity` beside `seat_count`, `home_goals` beside `away_goals`,
matches called off (no result), players without a team, brothers with one last name.
"""

import random
from datetime import date, timedelta

TOWNS = [
    "Millbrook",
    "Milbrook",
    "Oakham",
    "Stonebridge",
    "Thornfield",
    "Wickham",
    "Eastleigh",
    "Ferrybank",
    "Larkhill",
]
TOWNS += ["Pendle", "Ravensby", "Saltburn", "Marlow End"]
CLUB_SUFFIXES = ["Rovers", "Rangers", "United", "Athletic"]
GROUND_NAMES = ["Park Lane", "Mill Lane", "Church Field", "Recreation Ground", "Station Road"]
SURFACES = ["grass", "grass", "grass", "artificial turf", "hybrid"]
DIVISIONS = ["Division One", "Division Two", "Division Three", "Division Four"]
COLOURS = ["red", "blue", "sky blue", "green", "white", "black and white", "yellow"]
GIVEN = [
    "Adam",
    "Billy",
    "Callum",
    "Declan",
    "Dylan",
    "Ethan",
    "Finn",
    "Gareth",
    "Harry",
    "Imran",
    "Jack",
    "Jake",
]
GIVEN += [
    "Kofi",
    "Liam",
    "Luke",
    "Mason",
    "Nathan",
    "Owen",
    "Peter",
    "Rhys",
    "Sean",
    "Shaun",
    "Tom",
    "Victor",
    "Will",
]
FAMILY = [
    "Atkins",
    "Baker",
    "Barker",
    "Clarke",
    "Clark",
    "Doyle",
    "Evans",
    "Foster",
    "Grant",
    "Harris",
    "Ibrahim",
]
FAMILY += [
    "Jones",
    "Kelly",
    "Lowe",
    "Marsh",
    "Mensah",
    "Nolan",
    "Osborne",
    "Price",
    "Quinn",
    "Rowe",
    "Shaw",
    "Singh",
]
FAMILY += ["Turner", "Usman", "Vaughan", "West", "Young"]
# Positions of a squad of seven: the league plays on small pitches.
SQUAD = ["goalkeeper", "defender", "defender", "midfielder", "midfielder", "forward", "forward"]


def pick_name(rng: random.Random) -> str:
    """A full name from the pools; the same name may come twice."""
    return f"{rng.choice(GIVEN)} {rng.choice(FAMILY)}"


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """Table name -> rows, in an order in which every foreign key is already there."""
    clubs = []
    for town in TOWNS:
        for suffix in CLUB_SUFFIXES:
            founded = None if rng.random() < 0.1 else rng.randint(1882, 2012)
            members = rng.choice([60, 85, 120, 150, 150, 199, 200, 260, 340])
            youth = None if rng.random() < 0.15 else members // rng.choice([3, 4, 5])
            clubs.append(
                (
                    len(clubs) + 1,
                    f"{town} {suffix}",
                    town,
                    founded,
                    members,
                    youth,
                    rng.choice([45.0, 60.0, 60.0, 72.5, 90.0]),
                )
            )

    grounds = []
    for town in TOWNS:
        for name in rng.sample(GROUND_NAMES, 4):
            capacity = rng.choice([150, 200, 300, 500, 500, 800, 1200, 2500])
            seats = rng.choice([0, 0, 50, 100, capacity // 4])
            opened = None if rng.random() < 0.15 else rng.randint(1901, 2019)
            ground = (len(grounds) + 1, name, town, rng.choice(SURFACES), capacity, seats)
            grounds.append((*ground, int(rng.random() < 0.45), opened))

    # Most clubs field one first team, some also a reserve team; a few clubs field none this season.
    teams = []
    for club in clubs[:-3]:
        for label in ["", " Reserves"] if rng.random() < 0.25 else [""]:
            home = [ground[0] for ground in grounds[:-4] if ground[2] == club[2]]
            ground = rng.choice(home) if home and rng.random() < 0.93 else None
            coach = None if rng.random() < 0.12 else pick_name(rng)
            division = rng.choice(DIVISIONS)
            teams.append(
                (len(teams) + 1, club[0], club[1] + label, division, ground, coach, rng.choice(COLOURS))
            )

    players = []
    for team in teams:
        numbers = rng.sample(range(2, 24), len(SQUAD))
        for position, number in zip(SQUAD, numbers, strict=True):
            born = date(1984, 1, 1) + timedelta(days=rng.randint(0, 8300))
            joined = date(2012, 7, 1) + timedelta(days=rng.randint(0, 4050))
            left = date(2024, 1, 2) + timedelta(days=rng.randint(0, 120)) if rng.random() < 0.07 else None
            shirt = 1 if position == "goalkeeper" else number
            shirt = None if rng.random() < 0.05 else shirt
            names = rng.choice(GIVEN), rng.choice(FAMILY)
            left_on = left and str(left)
            players.append(
                (len(players) + 1, *names, team[0], position, shirt, str(born), str(joined), left_on)
            )
    for _ in range(12):  # registered, but without a team at present
        born = date(1984, 1, 1) + timedelta(days=rng.randint(0, 8300))
        names, position = (rng.choice(GIVEN), rng.choice(FAMILY)), rng.choice(SQUAD)
        players.append((len(players) + 1, *names, None, position, None, str(born), "2023-07-01", None))

    referees = []
    for referee_id in range(1, 53):
        licensed = date(2005, 2, 1) + timedelta(days=rng.randint(0, 6700))
        expires = (
            date(2024, 1, 31) + timedelta(days=rng.choice([0, 90, 181, 365, 730]))
            if rng.random() < 0.9
            else None
        )
        grade = rng.randint(1, 4)
        fee = {1: 55.0, 2: 45.0, 3: 37.5, 4: 30.0}[grade] + rng.choice([0, 0, 2.5])
        referees.append(
            (
                referee_id,
                pick_name(rng),
                rng.choice(TOWNS),
                grade,
                str(licensed),
                expires and str(expires),
                fee,
            )
        )

    by_division = {division: [team for team in teams if team[3] == division] for division in DIVISIONS}
    matches = []
    for match_id in range(1, 113):
        home, away = rng.sample(by_division[rng.choice(DIVISIONS)], 2)
        played = date(2023, 8, 19) + timedelta(days=7 * rng.randint(0, 38) + rng.choice([0, 0, 1]))
        # One match in ten moves to some other ground.
        ground = home[4] if home[4] is not None and rng.random() < 0.9 else rng.randint(1, 48)
        referee = None if rng.random() < 0.05 else rng.randint(1, 46)
        home_goals, away_goals = rng.choice([0, 0, 1, 1, 2, 2, 3, 4]), rng.choice([0, 0, 1, 1, 1, 2, 3])
        attendance = None if rng.random() < 0.1 else rng.randint(2, 30) * 10 + rng.choice([0, 0, 1, 5])
        kickoff = rng.choice(["10:30", "13:00", "14:00", "15:00", "15:00", "19:30"])
        if rng.random() < 0.07:  # called off
            home_goals = away_goals = attendance = None
        match = (match_id, home[0], away[0], ground, referee, str(played), kickoff)
        matches.append((*match, home_goals, away_goals, attendance))

    # Most goals fall to the forwards.
    scorers = {team[0]: [p[0] for p in players if p[3] == team[0] and p[4] != "goalkeeper"] for team in teams}
    squads = {team[0]: [p[0] for p in players if p[3] == team[0]] for team in teams}
    events = []
    for match in matches:
        if match[7] is None:
            continue
        for team, goals in ((match[1], match[7]), (match[2], match[8])):
            for _ in range(goals):
                scorer = rng.choice(scorers[team][-2:] if rng.random() < 0.6 else scorers[team])
                kind = "penalty" if rng.random() < 0.1 else "goal"
                events.append((match[0], scorer, kind, rng.randint(1, 90)))
            for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
                kind = "red card" if rng.random() < 0.12 else "yellow card"
                events.append((match[0], rng.choice(squads[team]), kind, rng.randint(5, 90)))

    return {
        "clubs": clubs,
        "grounds": grounds,
        "teams": teams,
        "players": players,
        "referees": referees,
        "matches": matches,
        "match_events": [(event_id, *event) for event_id, event in enumerate(events[:500], start=1)],
    }
