"""Rows of the container harbour: two years of port calls, 2023 and 2024.

Made to hold near misses on purpose: ports 'Harbour Grace' and 'Harbor Grace', ships whose names differ in
one word, lines with their office in one country and ships under another flag, `arrived_on`, `berthed_on`
and `departed_on` on one day or a few days apart, capacities of 4200 and 4250.
"""

import random
from datetime import date, timedelta

# (name, head office, country, founded, alliance); None where the office does not know.
LINES = """
Aurora Container Line|Hamburg|Germany|1921|Northern Alliance
Baltic Bridge Shipping|Gdansk|Poland|1987|Northern Alliance
Blue Meridian|Athens|Greece|1954|Meridian Pact
Blue Meridian Feeder|Piraeus|Greece|1999|Meridian Pact
Borealis Lines|Oslo|Norway|1936|Northern Alliance
Cape Horn Carriers|Valparaiso|Chile|1972|
Caravel Marine|Lisbon|Portugal|1965|Meridian Pact
Cinnamon Route|Colombo|Sri Lanka|2004|
Clipper and Sons|Liverpool|United Kingdom|1899|
Coral Sea Lines|Brisbane|Australia|1978|Ocean Six
Danforth Shipping|Toronto|Canada|1948|
Delta Feeder Service|Rotterdam|Netherlands|2008|Northern Alliance
Dragon Gate Marine|Xiamen|China|1995|Ocean Six
East Wind Shipping|Kobe|Japan|1961|Ocean Six
Emerald Container|Dublin|Ireland|1990|
Equator Lines|Singapore|Singapore|1983|Ocean Six
Fairwater Transport|Antwerp|Belgium|1958|Meridian Pact
Golden Fleece Shipping|Batumi|Georgia||
Gulf Pearl Navigation|Dubai|United Arab Emirates|1997|
Halcyon Marine|Athens|Greece|1969|
Hanse Kontor|Hamburg|Germany|1888|Northern Alliance
Island Link|Reykjavik|Iceland|2001|
Ivory Coast Carriers|Abidjan|Ivory Coast|1985|
Jade River Shipping|Busan|South Korea|1979|Ocean Six
Kestrel Lines|Southampton|United Kingdom|1933|Meridian Pact
Kiel Transport|Kiel|Germany|1977|
Lagoon Lines|Venice|Italy|1956|Meridian Pact
Levant Express|Haifa|Israel|1968|
Lighthouse Shipping|Bergen|Norway|1912|
Magellan Marine|Punta Arenas|Chile|1991|
Maple Leaf Container|Montreal|Canada|1974|Northern Alliance
Monsoon Carriers|Mumbai|India|1963|Ocean Six
Nordlys Shipping|Tromso|Norway||Northern Alliance
Northstar Lines|Gothenburg|Sweden|1949|Northern Alliance
Orange Delta|Rotterdam|Netherlands|1928|Meridian Pact
Pacific Lantern|Yokohama|Japan|1970|Ocean Six
Pampas Shipping|Buenos Aires|Argentina|1982|
Pelican Freight|Miami|United States|2011|
Pole Star Marine|Helsinki|Finland|1966|
Quayside Carriers|Bristol|United Kingdom|2015|
Red Anchor|Genoa|Italy|1944|Meridian Pact
Rio Grande Marine|Santos|Brazil|1976|
Sable Island Lines|Halifax|Canada|2003|
Saffron Sea|Chennai|India|1998|
Silk Harbour Lines|Shanghai|China|1992|Ocean Six
Southern Cross Shipping|Auckland|New Zealand|1953|
Table Bay Navigation|Cape Town|South Africa|1947|
Trident Container|Marseille|France|1939|Meridian Pact
Vistula Lines|Gdansk|Poland|1951|
Windrose|Copenhagen|Denmark|1904|Northern Alliance
Zephyr Maritime|Valencia|Spain|2006|
"""

SHIP_FIRST = [
    "Northern",
    "Southern",
    "Eastern",
    "Silver",
    "Golden",
    "Crimson",
    "Brave",
    "Quiet",
    "Morning",
    "Evening",
]
SHIP_SECOND = [
    "Star",
    "Heron",
    "Horizon",
    "Voyager",
    "Tide",
    "Falcon",
    "Lantern",
    "Breeze",
    "Pioneer",
    "Gull",
]
FLAGS = [
    "Panama",
    "Liberia",
    "Malta",
    "Denmark",
    "Germany",
    "Norway",
    "Singapore",
    "Greece",
    "United Kingdom",
]
TERMINALS = ["East Basin", "West Basin", "River Terminal", "Harbour Island", "Old Docks"]
PORTS = [
    "Rotterdam",
    "Antwerp",
    "Hamburg",
    "Felixstowe",
    "Harbour Grace",
    "Harbor Grace",
    "Halifax",
    "Lisbon",
    "Algeciras",
    "Tangier",
    "Piraeus",
    "Gdansk",
    "Gothenburg",
    "Singapore",
]
PILOTS = [
    "A. Vermeer",
    "B. Nyström",
    "C. O'Hara",
    "D. Okonkwo",
    "E. Marsh",
    "E. March",
    "F. Lindqvist",
    "G. Pinto",
    None,
]
HAZARDS = [None, None, None, None, None, None, "3", "8", "9", "1.4"]
DAMAGE = [None] * 9 + ["dented side", "dented roof", "broken seal", "door does not close", "rust hole"]
# Container type -> (tare weights for 20 and 40 feet).
TYPES = {
    "dry": (2200, 3700),
    "high cube": (2350, 3900),
    "reefer": (3000, 4600),
    "open top": (2400, 3850),
    "tank": (3500, 5200),
}


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """Table name -> rows, in an order in which every foreign key is already there."""
    shipping_lines = []
    for line in LINES.strip().splitlines():
        name, office, country, founded, alliance = line.split("|")
        founded_year = int(founded) if founded else None
        shipping_lines.append(
            (len(shipping_lines) + 1, name, office, country, founded_year, alliance or None)
        )

    names = [f"{first} {second}" for first in SHIP_FIRST for second in SHIP_SECOND]
    rng.shuffle(names)
    ships = []
    for ship_id, name in enumerate([*names[:84], *names[:6]], start=1):  # six names are borne by two ships
        capacity = rng.choice([800, 1100, 1700, 2500, 2550, 4200, 4250, 6600, 8500, 9900, 14000])
        length = round(95 + 2.45 * capacity**0.5 + rng.randint(-60, 60) / 10, 1)
        beam, draught = round(length / 7, 1), round(6 + capacity**0.5 / 13, 1)
        plugs = rng.choice([None, 100, 150, 300, 300, 400, 700])
        built = rng.randint(1996, 2022)
        line = rng.randint(1, 44)  # the last lines own no ship here
        ships.append((ship_id, name, line, rng.choice(FLAGS), built, length, beam, draught, capacity, plugs))

    berths = []
    for terminal in TERMINALS:
        for number in range(1, 12):
            opened = date(1964, 1, 1) + timedelta(days=rng.randint(0, 20000))
            closed = date(2021, 1, 1) + timedelta(days=rng.randint(0, 1300)) if rng.random() < 0.15 else None
            code = "".join(word[0] for word in terminal.split()) + str(number)
            quay = rng.choice([180, 220, 250, 300, 300, 350, 400, 401])
            depth, cranes = rng.choice([8.5, 10.0, 11.5, 11.5, 13.0, 14.5, 16.0]), rng.randint(0, 5)
            berths.append(
                (len(berths) + 1, code, terminal, quay, depth, cranes, str(opened), closed and str(closed))
            )

    port_calls = []
    for call_id in range(1, 301):
        ship = rng.choice(ships[:80])  # the last ships have not called yet
        arrived = date(2023, 1, 2) + timedelta(days=rng.randint(0, 725))
        berthed = arrived + timedelta(days=rng.choice([0, 0, 0, 0, 1, 1, 2, 4]))
        departed = berthed + timedelta(days=rng.choice([0, 1, 1, 2, 2, 3, 5]))
        turned_away = rng.random() < 0.05  # never came to a berth
        still_here = not turned_away and rng.random() < 0.04
        # Nine calls in ten get a berth that is open and deep enough; the last berths are never used.
        fitting = [b[0] for b in berths[:50] if b[4] > ship[7] and (b[7] is None or b[7] > str(arrived))]
        berth = rng.choice(fitting) if fitting and rng.random() < 0.9 else rng.randint(1, 50)
        dues = round(ship[8] * 0.9 + rng.choice([350, 350, 500, 720]), 2)
        pilot = rng.choice(PILOTS)
        fee = None if pilot is None else rng.choice([420.0, 480.0, 480.0, 650.5, 900.0])
        port_calls.append(
            (
                call_id,
                ship[0],
                None if turned_away else berth,
                str(arrived),
                None if turned_away else str(berthed),
                None if still_here else str(arrived if turned_away else departed),
                rng.choice(PORTS),
                rng.choice([None, *PORTS, *PORTS]),
                pilot,
                dues,
                fee,
            )
        )

    containers = []
    for container_id in range(1, 181):
        kind, size = (
            rng.choice(["dry", "dry", "dry", "high cube", "reefer", "open top", "tank"]),
            rng.choice([20, 40, 40]),
        )
        tare = TYPES[kind][size == 40] + 10 * rng.randint(-5, 5)
        gross = 30480 if size == 40 else rng.choice([24000, 30480])
        owner = rng.choice([None, *range(1, 41)])
        prefix = rng.choice(["AUR", "BLM", "HAN", "KES", "ORD", "TRI"]) + "U"
        inspected = (
            None if rng.random() < 0.1 else str(date(2021, 3, 1) + timedelta(days=rng.randint(0, 1300)))
        )
        number = f"{prefix}{rng.randint(100000, 999999)}"
        containers.append((container_id, number, owner, size, kind, tare, gross, inspected))

    container_moves = []
    served = [call for call in port_calls[:-20] if call[4] is not None]  # the last calls moved nothing
    while len(container_moves) < 490:
        call, container = rng.choice(served), rng.choice(containers[:-30])
        moved = date.fromisoformat(call[4]) + timedelta(days=rng.randint(0, 1))
        empty = rng.random() < 0.15
        weight = container[5] if empty else rng.randint(container[5] + 1500, container[6]) // 100 * 100
        move = (
            len(container_moves) + 1,
            call[0],
            container[0],
            rng.choice(["discharge", "discharge", "load"]),
        )
        hazard = None if empty else rng.choice(HAZARDS)
        container_moves.append((*move, str(moved), weight, hazard, rng.choice(DAMAGE)))

    return {
        "shipping_lines": shipping_lines,
        "ships": ships,
        "berths": berths,
        "port_calls": port_calls,
        "containers": containers,
        "container_moves": container_moves,
    }
