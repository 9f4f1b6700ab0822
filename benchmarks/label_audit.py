# ruff: noqa: E501 (queries on one line)
"""Wrong answers over the starter corpus, labelled, to be read one by one: `docs/label_audit.md`.

    python benchmarks/label_audit.py --output runs/label_audit [--sample 50] [--seed 0]

Half of the answers are written in the style of models, and make the mistakes that those make; half
are gold with one clause changed (`prm.sql.mutate`). Writes candidates.jsonl, traces.jsonl, and sample.md with
a line for each drawn wrong answer of two steps or more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

import sqlglot

from prm.labeling.answers import label
from prm.sql.chain import Known, links_of, tables_of
from prm.sql.decompose import to_sql
from prm.sql.mutate import CATEGORIES, variants
from prm.sql.schema import read_schema

STARTER = Path(__file__).resolve().parent.parent / "examples" / "starter"

#: How a question begins -> answers to it.
WRITTEN = {
    "Which director has won the most prizes?": [
        "SELECT d.full_name, COUNT(*) AS wins FROM director AS d JOIN film AS f ON f.director_id = d.director_id JOIN prize AS p ON p.film_id = f.film_id GROUP BY d.director_id, d.full_name ORDER BY wins DESC, d.full_name LIMIT 1",
        "SELECT d.full_name FROM director AS d JOIN film AS f ON f.director_id = d.director_id JOIN prize AS p ON p.film_id = f.film_id WHERE p.outcome = 'won' GROUP BY d.director_id ORDER BY COUNT(*) DESC, d.full_name LIMIT 1",
        "WITH wins AS (SELECT film_id, COUNT(*) AS n FROM prize WHERE outcome = 'won' GROUP BY film_id) SELECT d.full_name, MAX(w.n) FROM director AS d JOIN film AS f ON f.director_id = d.director_id JOIN wins AS w ON w.film_id = f.film_id",
    ],
    "Per terminal, from how many distinct ships": [
        "SELECT b.terminal, COUNT(p.ship_id) FROM berths AS b JOIN port_calls AS p ON p.berth_id = b.berth_id JOIN container_moves AS m ON m.call_id = p.call_id WHERE m.damage_note IS NOT NULL AND m.direction = 'discharge' GROUP BY b.terminal",
        "SELECT b.terminal, COUNT(DISTINCT p.ship_id) FROM berths AS b JOIN port_calls AS p ON p.berth_id = b.berth_id JOIN container_moves AS m ON m.call_id = p.call_id WHERE m.damage_note IS NOT NULL GROUP BY b.terminal",
        "SELECT b.terminal, COUNT(DISTINCT p.ship_id) FROM berths AS b JOIN port_calls AS p ON p.berth_id = b.berth_id JOIN container_moves AS m ON m.call_id = p.call_id WHERE m.direction = 'discharge' AND m.damage_note <> '' GROUP BY b.berth_id",
    ],
    "Were there sold-out screenings in September 2022?": [
        "SELECT s.screening_id, s.screened_on, s.start_time FROM screening AS s JOIN venue AS v ON s.venue_id = v.venue_id WHERE s.tickets_sold >= v.seat_count - s.tickets_returned AND s.screened_on LIKE '2022-09-%'",
        "SELECT screening_id, screened_on, start_time FROM screening WHERE tickets_sold = (SELECT MAX(seat_count) FROM venue) AND screened_on BETWEEN '2022-09-01' AND '2022-09-30'",
    ],
    "Any district both with a station renovated": [
        "SELECT DISTINCT district FROM stations WHERE renovated_year >= 2010 AND engine_bays = 1",
        "SELECT district FROM stations WHERE renovated_year > 2012 INTERSECT SELECT district FROM stations WHERE engine_bays = 1",
        "SELECT district FROM stations WHERE renovated_year >= 2010 UNION SELECT district FROM stations WHERE engine_bays = 1",
    ],
    "The best regular wage within each role": [
        "SELECT role, name, MAX(regular_wage) FROM employees GROUP BY role HAVING COUNT(*) > 2",
        "SELECT e.role, e.name, e.regular_wage FROM employees AS e JOIN (SELECT role, AVG(regular_wage) AS best FROM employees GROUP BY role) AS t ON e.role = t.role AND e.regular_wage = t.best",
        "SELECT e.role, e.name, e.regular_wage FROM employees AS e WHERE e.regular_wage = (SELECT MAX(regular_wage) FROM employees)",
    ],
    "In which cities do we have a private donor": [
        "SELECT city FROM donors WHERE kind = 'private' OR kind = 'foundation'",
        "SELECT city FROM donors WHERE kind IN ('private', 'foundation') GROUP BY city HAVING COUNT(*) > 1",
        "SELECT city FROM donors WHERE kind = 'private' EXCEPT SELECT city FROM donors WHERE kind = 'foundation'",
    ],
    "Give ids and models of bicycles whose repairs": [
        "SELECT b.bicycle_id, b.model FROM bicycle AS b JOIN repair AS r ON r.bicycle_id = b.bicycle_id WHERE r.part_cost + r.labor_cost > b.purchase_price / 3.0",
        "SELECT b.bicycle_id, b.model FROM bicycle AS b JOIN repair AS r ON r.bicycle_id = b.bicycle_id GROUP BY b.bicycle_id HAVING 3 * SUM(r.part_cost) > b.purchase_price",
        "WITH costs AS (SELECT bicycle_id, SUM(part_cost + labor_cost) AS total FROM repair GROUP BY bicycle_id) SELECT b.bicycle_id, b.model FROM bicycle AS b JOIN costs ON costs.bicycle_id = b.bicycle_id WHERE costs.total > b.purchase_price",
        "WITH costs AS (SELECT bicycle_id, AVG(part_cost + labor_cost) AS total FROM repair GROUP BY bicycle_id) SELECT b.bicycle_id, b.model FROM bicycle AS b JOIN costs ON costs.bicycle_id = b.bicycle_id WHERE 3 * costs.total > b.purchase_price",
    ],
    "What grows in the garden alive today": [
        "SELECT scientific_name FROM species WHERE species_id IN (SELECT species_id FROM plantings) AND species_id NOT IN (SELECT species_id FROM accessions WHERE seeds_left > 0)",
        "SELECT scientific_name FROM species WHERE species_id IN (SELECT species_id FROM plantings WHERE specimens_alive > 0) AND species_id NOT IN (SELECT species_id FROM accessions)",
        "SELECT scientific_name FROM species WHERE species_id IN (SELECT species_id FROM plantings WHERE specimens_alive > 0) AND species_id IN (SELECT species_id FROM accessions WHERE seeds_left = 0)",
    ],
    "Countries with a mean turnaround fee above 600": [
        "SELECT country, AVG(turnaround_fee) FROM airlines WHERE turnaround_fee > 600 GROUP BY country",
        "SELECT country, AVG(turnaround_fee) FROM airlines GROUP BY country HAVING MAX(turnaround_fee) > 600",
    ],
    "The fullest arrivals strain the buses": [
        "SELECT flight_number, service_date, passengers_in FROM flights WHERE passengers_in >= (SELECT AVG(passengers_in) FROM flights)",
        "SELECT flight_number, service_date, passengers_in FROM flights WHERE passengers_in >= 1.5 * (SELECT AVG(passengers_in) FROM flights WHERE passengers_in > 0)",
        "SELECT flight_number, service_date FROM flights WHERE passengers_in >= 1.5 * (SELECT AVG(passengers_in) FROM flights)",
    ],
    "For each team that scored more than 7 goals at home": [
        "SELECT t.team_name, SUM(m.home_goals) FROM teams AS t JOIN matches AS m ON m.away_team_id = t.team_id GROUP BY t.team_id, t.team_name HAVING SUM(m.home_goals) > 7 ORDER BY SUM(m.home_goals) DESC, t.team_name",
        "SELECT t.team_name, SUM(m.home_goals) AS g FROM teams AS t JOIN matches AS m ON m.home_team_id = t.team_id GROUP BY t.team_id, t.team_name HAVING g > 7 ORDER BY g",
        "SELECT t.team_name, SUM(m.home_goals) FROM teams AS t JOIN matches AS m ON m.home_team_id = t.team_id WHERE m.home_goals > 7 GROUP BY t.team_id, t.team_name",
    ],
    "How many members live in a district other than": [
        "SELECT COUNT(*) FROM member AS m JOIN branch AS b ON m.district = b.district WHERE m.home_branch_id <> b.branch_id",
        "SELECT COUNT(DISTINCT m.district) FROM member AS m JOIN branch AS b ON m.home_branch_id = b.branch_id WHERE m.district <> b.district",
    ],
    "From the rooms with more than 90 seats": [
        "SELECT room_code FROM rooms WHERE seat_count > 90 AND room_id NOT IN (SELECT room_id FROM sections WHERE weekday = 'Friday')",
        "SELECT room_code FROM rooms WHERE seat_count > 90 EXCEPT SELECT r.room_code FROM rooms AS r JOIN sections AS s ON s.room_id = r.room_id WHERE s.weekday = 'friday'",
        "SELECT DISTINCT r.room_code FROM rooms AS r JOIN sections AS s ON s.room_id = r.room_id WHERE r.seat_count > 90 AND s.weekday <> 'Friday'",
    ],
    "Take the average final mark of every student": [
        "SELECT student_id, AVG(final_mark) AS m FROM enrolments GROUP BY student_id HAVING COUNT(*) >= 3 AND AVG(final_mark) > 7.5 ORDER BY m DESC, student_id",
        "SELECT t.student_id, t.m FROM (SELECT student_id, AVG(midterm_mark) AS m FROM enrolments WHERE midterm_mark IS NOT NULL GROUP BY student_id HAVING COUNT(*) >= 3) AS t WHERE t.m > 7.5 ORDER BY t.m DESC, t.student_id",
    ],
    "Give the names of ships that are longer": [
        "SELECT ship_name FROM ships WHERE length_m > (SELECT AVG(length_m) FROM ships)",
        "SELECT DISTINCT ship_name FROM ships WHERE length_m > (SELECT MIN(length_m) FROM ships) ORDER BY ship_name",
    ],
    "Which home towns have sent us more students": [
        "SELECT home_town, COUNT(*) FROM students GROUP BY home_town HAVING COUNT(*) > (SELECT COUNT(*) FROM students WHERE home_town = 'Kirkwal')",
        "SELECT home_town FROM students WHERE home_town IS NOT NULL GROUP BY home_town HAVING COUNT(*) > (SELECT COUNT(*) FROM students WHERE home_town = 'Kirkwall')",
    ],
    "Taking all flights with any job recorded": [
        "SELECT AVG(n), MIN(n) FROM (SELECT flight_id, COUNT(*) AS n FROM jobs GROUP BY flight_id) AS per_flight",
        "SELECT AVG(n), MAX(n) FROM (SELECT flight_id, COUNT(DISTINCT employee_id) AS n FROM jobs GROUP BY flight_id) AS per_flight",
    ],
    "Who subscribed to a day plan at some time": [
        "SELECT s.member_id FROM subscriptions AS s JOIN plans AS p ON s.plan_id = p.plan_id WHERE p.tier = 'day' AND p.tier = 'team'",
        "SELECT s.member_id FROM subscriptions AS s JOIN plans AS p ON s.plan_id = p.plan_id WHERE p.tier IN ('day', 'team') GROUP BY s.member_id",
        "SELECT s.subscription_id FROM subscriptions AS s JOIN plans AS p ON s.plan_id = p.plan_id WHERE p.tier = 'day' INTERSECT SELECT s.subscription_id FROM subscriptions AS s JOIN plans AS p ON s.plan_id = p.plan_id WHERE p.tier = 'team'",
    ],
    "How many different bicycles left from": [
        "SELECT COUNT(t.bicycle_id) FROM trip AS t JOIN station AS s ON t.start_station_id = s.station_id WHERE s.station_name IN ('Fish Market', 'Ferry Pier')",
        "SELECT COUNT(DISTINCT t.bicycle_id) FROM trip AS t JOIN station AS s ON t.end_station_id = s.station_id WHERE s.station_name IN ('Fish Market', 'Ferry Pier')",
        "SELECT COUNT(DISTINCT bicycle_id) FROM bicycle WHERE base_station_id IN (SELECT station_id FROM station WHERE station_name IN ('Fish Market', 'Ferry Pier'))",
    ],
    "Film titles nominated for, or winners of": [
        "SELECT f.title FROM film AS f JOIN prize AS p ON f.film_id = p.film_id WHERE p.prize_name = 'Audience Prize' UNION SELECT f.title FROM film AS f JOIN prize AS p ON f.film_id = p.film_id WHERE p.prize_name = 'Best Score'",
        "SELECT DISTINCT f.title FROM film AS f JOIN prize AS p ON f.film_id = p.film_id WHERE p.prize_name = 'Audience Prize' AND f.film_id IN (SELECT film_id FROM prize WHERE prize_name = 'Best Score' AND outcome = 'won')",
    ],
}  # fmt: skip


def questions() -> list[dict]:
    entries = []
    for split in ("train", "dev", "test"):
        for i, entry in enumerate(json.loads((STARTER / f"{split}.json").read_text())):
            entries.append({"id": f"{split}-{i}"} | entry)
    return entries


def mutated(entry: dict, rng: Random) -> list[str]:
    """Two answers that differ from gold in one clause."""
    schema = read_schema(STARTER / "database" / entry["db_id"] / f"{entry['db_id']}.sqlite")
    known = Known(tables_of(schema), links_of(schema))
    tree = sqlglot.parse_one(entry["query"], dialect="sqlite")
    made = []
    for category in rng.sample(sorted(CATEGORIES), len(CATEGORIES)):
        changed = next(variants(category, tree, known, rng), None)
        if changed is not None:
            made.append(to_sql(changed))
        if len(made) == 2:
            break
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--sample", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = Random(args.seed)
    entries = questions()
    lines = []
    for start, answers in WRITTEN.items():
        [entry] = [e for e in entries if e["question"].startswith(start)]
        lines.append((entry, "written", answers))
    hard = [e for e in entries if any(word in e["query"] for word in ("JOIN", "(SELECT", "INTERSECT"))]
    for entry in rng.sample(hard, 40):
        lines.append((entry, "mutated", mutated(entry, rng)))
    args.output.mkdir(parents=True, exist_ok=True)
    data = args.output / "candidates.jsonl"
    with open(data, "w") as stream:
        for entry, kind, answers in lines:
            row = {"id": f"{kind}-{entry['id']}", "question": entry["question"], "db_id": entry["db_id"]}
            row |= {"gold_sql": entry["query"], "candidates": [{"sql": sql} for sql in answers]}
            stream.write(json.dumps(row) + "\n")
    label(data, STARTER / "database", args.output / "traces.jsonl")
    traces = [json.loads(line) for line in (args.output / "traces.jsonl").read_text().splitlines()]
    several = [t for t in traces if t["label_evidence"] != "equal" and len(t["steps"]) > 1]
    # Each answer has a number of its own: one more or less does not change who else is drawn.
    several.sort(key=lambda trace: Random(f"{args.seed} {trace['id']}").random())
    drawn = []
    for kind, n in (("written", (args.sample + 1) // 2), ("mutated", args.sample // 2)):
        drawn += [trace for trace in several if trace["id"].startswith(kind)][:n]
    with open(args.output / "sample.md", "w") as stream:
        stream.write("| question | steps with their labels | evidence |\n|---|---|---|\n")
        for trace in drawn:
            steps = "<br>".join(
                f"**{'?' if s['label'] is None else s['label']}** `{s['sql']}`" for s in trace["steps"]
            )
            question = f"{trace['id']}: {trace['question']}<br>gold: `{trace['gold_sql']}`"
            stream.write(f"| {question} | {steps} | {trace['label_evidence']} |\n")


if __name__ == "__main__":
    main()
