"""Random SELECT statements over the small database of `test_decompose.py`, for tests of properties.

They mix joins, filters, groups, set operations, derived tables and subqueries, correlated ones too. Wherever
they sort, ties are broken by further terms, and bare columns stand beside no aggregate but their own key:
every statement has one result, so that two ways of computing it can be compared.
"""

from __future__ import annotations

from random import Random

COLUMNS = {
    "singer": ["id", "name", "country", "age"],
    "stadium": ["id", "name", "capacity", "location"],
    "concert": ["id", "singer_id", "stadium_id", "year", "title"],
}
LINKS = [
    ("singer", "id", "concert", "singer_id"),
    ("stadium", "id", "concert", "stadium_id"),
    ("singer", "country", "singer", "country"),
    ("concert", "year", "concert", "year"),
    ("singer", "name", "stadium", "name"),
]
LINKS += [(b, second, a, first) for a, first, b, second in LINKS]
VALUES = {
    "id": ["1", "2", "5", "99"],
    "age": ["29", "32", "41", "NULL"],
    "capacity": ["1000", "2000", "11998"],
    "year": ["2014", "2015", "2016"],
    "singer_id": ["1", "2"],
    "stadium_id": ["2", "4"],
    "name": ["'Joe'", "'tim'", "'it''s'"],
    "country": ["'France'", '"USA"'],
    "location": ["'Ayr'", "'Fife'"],
    "title": ["'Week 1'", "'Home'"],
}
NUMBERS = {"id", "age", "capacity", "year", "singer_id", "stadium_id"}


class Writer:
    """Writes one statement after the other from one source of chance."""

    def __init__(self, random: Random) -> None:
        self.random, self.used = random, 0

    def query(self) -> str:
        kind = self.random.random()
        if kind < 0.75:
            return self.select()
        if kind < 0.85:
            return self.set_operation()
        if kind < 0.93:
            return f"SELECT count(*) FROM ({self.select(1)})"
        return f"WITH c AS ({self.select(1)}) SELECT * FROM c"

    def pick(self, things):
        return self.random.choice(list(things))

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def set_operation(self) -> str:
        width = self.pick([1, 1, 2])

        def arm() -> str:
            table = self.pick(COLUMNS)
            where = (
                f" WHERE {self.condition([('', c) for c in COLUMNS[table]], 1)}" if self.chance(0.7) else ""
            )
            return f"SELECT {', '.join(self.random.sample(COLUMNS[table], width))} FROM {table}{where}"

        return f"{arm()} {self.pick(['UNION ALL', 'INTERSECT', 'EXCEPT'])} {arm()}"

    def source(self):
        """FROM …, its columns as (qualifier, name), and the condition that a comma needs."""
        if self.chance(0.45):
            table, alias = self.pick(COLUMNS), self.pick(["", "AS T1", "x"])
            qualifier = (alias.split()[-1] if alias else table) + "." if self.chance(0.6) else ""
            return f"{table} {alias}", [(qualifier, c) for c in COLUMNS[table]], None
        a, first, b, second = self.pick(LINKS)
        kind = self.pick(["JOIN", "JOIN", "LEFT JOIN", ",", "INNER JOIN"])
        columns = [("T1.", c) for c in COLUMNS[a]] + [("T2.", c) for c in COLUMNS[b]]
        if kind == ",":
            return f"{a} T1, {b} T2", columns, f"T1.{first} = T2.{second}"
        text = f"{a} AS T1 {kind} {b} AS T2 ON T1.{first} = T2.{second}"
        if self.chance(0.15):
            text += f" AND {self.condition(columns, 0)}"
        if self.chance(0.35):
            alias, base = self.pick([("T1", a), ("T2", b)])
            _, left, third, right = self.pick([link for link in LINKS if link[0] == base])
            text += f" {self.pick(['JOIN', 'JOIN', 'LEFT JOIN'])} {third} T3 ON {alias}.{left} = T3.{right}"
            columns += [("T3.", c) for c in COLUMNS[third]]
        return text, columns, None

    def select(self, depth: int = 2) -> str:
        source, columns, needed = self.source()
        conditions = [self.condition(columns, depth) for _ in range(self.pick([0, 0, 1, 1, 2, 3]))]
        conditions += [needed] if needed else []
        self.random.shuffle(conditions)
        body = f"FROM {source}" + (" WHERE " + " AND ".join(conditions) if conditions else "")
        if conditions and needed is None and self.chance(0.2):
            body += f" OR {self.condition(columns, 0)}"
        kind = self.random.random()
        if kind < 0.3:
            return self.grouped(body, columns)
        if kind < 0.45:
            forms = [
                "count(*)",
                "count(DISTINCT {})",
                "max({})",
                "sum({}) * 1.0 / count(*)",
                "max({}) - min({})",
            ]
            column = "".join(self.pick([c for c in columns if c[1] in NUMBERS]))
            return (
                f"SELECT {', '.join(f.format(column, column) for f in self.random.sample(forms, 2))} {body}"
            )
        return self.plain(body, columns)

    def grouped(self, body: str, columns) -> str:
        keys = ["".join(c) for c in self.random.sample(columns, self.pick([1, 1, 2]))]
        forms = ["count(*)", "max({})", "count(DISTINCT {})", "sum({})", "count({})"]
        outputs = [
            self.pick(forms).format("".join(self.pick(columns))) for _ in range(self.pick([0, 1, 1, 2]))
        ]
        outputs = (keys if self.chance(0.8) or not outputs else []) + outputs
        if self.chance(0.4):
            outputs = [f"{output} AS o{at}" for at, output in enumerate(outputs)]
        text = f"SELECT {', '.join(outputs)} {body} GROUP BY {', '.join(keys)}"
        if self.chance(0.4):
            value = self.pick(["count(*)", f"max({keys[0]})"])
            text += f" HAVING {value} {self.pick(['>', '>=', '<'])} {self.pick('012')}"
        if self.chance(0.5):
            value = self.pick(["count(*) DESC", "count(*)", f"max({keys[0]})"])
            text += f" ORDER BY {', '.join([value, *keys])}{self.limit()}"
        return text

    def plain(self, body: str, columns) -> str:
        distinct = self.pick(["", "", "", "DISTINCT "])
        if self.chance(0.1) and len({c for _, c in columns}) == len(columns):
            outputs = ["*"]
        else:
            outputs = ["".join(c) for c in self.random.sample(columns, self.pick([1, 2, 2, 3]))]
            if self.chance(0.2) and not distinct:
                outputs.append(f"CASE WHEN {self.condition(columns, 0)} THEN 'a' ELSE 'b' END AS kind")
        text = f"SELECT {distinct}{', '.join(outputs)} {body}"
        if self.chance(0.5):
            terms = outputs if distinct and outputs != ["*"] else ["".join(c) for c in columns]
            terms = self.random.sample(terms, len(terms))
            text += f" ORDER BY {', '.join(t + self.pick(['', ' DESC']) for t in terms)}{self.limit()}"
        return text

    def limit(self) -> str:
        return self.pick(["", " LIMIT 1", " LIMIT 3", " LIMIT 2 OFFSET 1"])

    def condition(self, columns, depth: int) -> str:
        qualifier, name = self.pick(columns)
        column, value, no = qualifier + name, self.pick(VALUES[name]), self.pick(["", "NOT "])
        forms = [f"{column} {sign} {value}" for sign in ("=", "<>", ">", "<=")]
        forms += [f"{column} IS {no}NULL", f"{column} {no}IN ({value}, {self.pick(VALUES[name])})"]
        forms += [f"{column} {no}BETWEEN {value} AND {self.pick(VALUES[name])}", f"{column} {no}LIKE '%o%'"]
        if depth > -2 and self.chance(0.25):
            joined = f" {self.pick(['AND', 'OR'])} ".join(
                self.condition(columns, depth - 1) for _ in range(2)
            )
            forms = [f"{no}({joined})"]
        elif depth > 0 and self.chance(0.4):
            forms = [f"{column} {no}IN ({self.subquery(name, depth - 1)})"]
            forms += [self.correlated(qualifier, name)] if qualifier else []
            forms += [f"{column} {sign} ({self.scalar(depth - 1)})" for sign in "=><" if name in NUMBERS]
        return self.pick(forms)

    def subquery(self, name: str, depth: int) -> str:
        table = self.pick([t for t in COLUMNS if name in COLUMNS[t]])
        where = (
            f" WHERE {self.condition([('', c) for c in COLUMNS[table]], depth)}" if self.chance(0.7) else ""
        )
        forms = [f"SELECT {name} FROM {table}{where}", f"SELECT DISTINCT {name} FROM {table}{where}"]
        forms += [f"SELECT {name} FROM {table}{where} GROUP BY {name} HAVING count(*) > 1"]
        forms += [f"SELECT {name} FROM {table}{where} UNION SELECT {name} FROM {table}"]
        return self.pick(forms)

    def scalar(self, depth: int) -> str:
        table = self.pick(COLUMNS)
        value = (
            f"{self.pick(['avg', 'max', 'count'])}({self.pick(c for c in COLUMNS[table] if c in NUMBERS)})"
        )
        where = (
            f" WHERE {self.condition([('', c) for c in COLUMNS[table]], depth)}" if self.chance(0.5) else ""
        )
        return f"SELECT {value} FROM {table}{where}"

    def correlated(self, qualifier: str, name: str) -> str:
        table, alias = self.pick([t for t in COLUMNS if name in COLUMNS[t]]), f"k{self.used}"
        self.used += 1
        where = f"WHERE {alias}.{name} = {qualifier}{name}"
        if self.chance(0.6):
            where += f" AND {self.condition([(alias + '.', c) for c in COLUMNS[table]], 0)}"
        if self.chance(0.5):
            return (
                f"{self.pick(['', 'NOT '])}EXISTS (SELECT {self.pick('1*')} FROM {table} AS {alias} {where})"
            )
        value = f"{self.pick(['max', 'min', 'count', 'sum'])}({alias}.id)"
        return f"{self.pick('12')} <= (SELECT {value} FROM {table} {alias} {where})"
