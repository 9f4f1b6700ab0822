"""A chain of steps as syntax trees: what each step may read, and how names follow when one step changes.

Steps and columns of a chain are named by what they hold (`avg_age`, `filtered_singer`), by the rules of
`prm.sql.decompose`. A step that is changed by hand and kept its names would give the change away (`MAX(age)
AS avg_age`), so `with_variant` names the changed step as decomposition would have named it, and lets the
later steps read the new names. And everything is spelled as the schema spells it (`respelled`): whether a
gold query wrote `NAME` or `name` says nothing, but a mixture of both in one trace would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace

from sqlglot import exp

from prm.sql.decompose import to_sql
from prm.sql.describe import FROM
from prm.sql.naming import KEYWORDS, column_alias, cte_name
from prm.sql.schema import Schema
from prm.sql.tables import quote

Tree = exp.Expr


@dataclass(frozen=True)
class Attribute:
    """A column of a relation: `kind` is "number", "text" or "date"; `origin` the table and column its
    values come from, None for computed ones; `key` marks identifiers, which are joined on and counted but
    never summed."""

    name: str
    kind: str
    origin: tuple[str, str] | None = None
    key: bool = False

    @property
    def place(self) -> tuple[str, str] | None:
        """`origin` in lower case, as `Known.links` has it."""
        return None if self.origin is None else (self.origin[0].lower(), self.origin[1].lower())


@dataclass(frozen=True)
class Relation:
    """What a step may read: a table, or an earlier step (`step`) under the name of its CTE."""

    name: str
    attributes: tuple[Attribute, ...]
    step: bool = False

    def get(self, name: str) -> Attribute | None:
        return next((a for a in self.attributes if a.name.lower() == name.lower()), None)


@dataclass
class Known:
    """What the mutations of one step may know.

    `relations`: lower-case name -> relation, tables and the earlier steps. `links`: pairs of (table,
    column), lower case, that a foreign key connects, in both directions. `values(table, column)` gives
    frequent values with their counts, most frequent first. `last`: the step is the answer, so nobody reads
    the names of its columns.
    """

    relations: dict[str, Relation]
    links: frozenset[tuple[tuple[str, str], tuple[str, str]]] = frozenset()
    values: Callable[[str, str], Sequence[tuple[object, int]]] = field(default=lambda table, column: ())
    last: bool = True

    def values_of(self, attribute: Attribute) -> Sequence[tuple[object, int]]:
        """The frequent values of an attribute; none of a computed one."""
        return () if attribute.origin is None else self.values(*attribute.origin)


@dataclass(frozen=True)
class Link:
    """One step of a chain as a syntax tree; `name` is that of its CTE, "" for the last step."""

    name: str
    tree: Tree


def tables_of(schema: Schema) -> dict[str, Relation]:
    """The tables of a schema as relations, by lower-case name; what every step of a chain may read."""
    keys = {(fk.table.lower(), c.lower()) for fk in schema.foreign_keys for c in fk.columns}
    relations = {}
    for table in schema.tables:
        attributes = tuple(
            Attribute(
                column.name,
                _declared_kind(column.type),
                (table.name, column.name),
                column.primary_key
                or (table.name.lower(), column.name.lower()) in keys
                or _is_id(column.name),
            )
            for column in table.columns
        )
        relations[table.name.lower()] = Relation(table.name, attributes)
    return relations


def links_of(schema: Schema) -> frozenset[tuple[tuple[str, str], tuple[str, str]]]:
    """The foreign keys as pairs of (table, column), lower case, in both directions."""
    pairs = {
        ((fk.table.lower(), child.lower()), (fk.parent.lower(), parent.lower()))
        for fk in schema.foreign_keys
        for child, parent in zip(fk.columns, fk.parent_columns, strict=True)
    }
    return frozenset(pairs | {(b, a) for a, b in pairs})


def _declared_kind(type_name: str) -> str:
    upper = type_name.upper()
    if any(word in upper for word in ("DATE", "TIME")):
        return "date"
    numeric = ("INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "YEAR", "MONEY", "BOOL")
    return "number" if any(word in upper for word in numeric) else "text"


def _is_id(name: str) -> bool:
    return re.search(r"(?:\A|_|[a-z])(?:id|ID|Id|iD)\Z", name) is not None and not name.lower().endswith(
        ("paid", "bid")
    )


# --- the chain ----------------------------------------------------------------------------------------------


def outputs(tree: Tree, known: Known) -> list[Attribute]:
    """The columns that a SELECT (or a set operation: its first arm) gives, in order, stars expanded."""
    select = first_select(tree)
    if select is None:
        return []
    found: list[Attribute] = []
    for projection in select.expressions:
        inner = projection.unalias()
        if isinstance(inner, exp.Star) or (
            isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star)
        ):
            for alias, relation in sources_of(select, known):
                if not isinstance(inner, exp.Column) or inner.table.lower() == alias.lower():
                    found.extend(relation.attributes)
            continue
        name = projection.alias_or_name or to_sql(inner)
        if isinstance(inner, exp.Column) and (where := resolve(inner, known)) is not None:
            found.append(Attribute(name, where[1].kind, where[1].origin, where[1].key))
        else:
            found.append(Attribute(name, _kind_of(inner, known)))
    return found


def known_at(chain: Sequence[Link], at: int, known: Known) -> Known:
    """What step `at` may know: the tables in `known`, and the steps before it."""
    here = Known(dict(known.relations), known.links, known.values, last=at == len(chain) - 1)
    for link in chain[:at]:
        here.relations[link.name.lower()] = Relation(link.name, tuple(outputs(link.tree, here)), step=True)
    return here


def with_variant(chain: Sequence[Link], at: int, variant: Tree, known: Known) -> list[Link] | None:
    """The chain with another tree in step `at`, the later steps following it in names; None where they
    cannot.

    Steps and columns are named by what they hold, by the rules of `prm.sql.decompose`, so that a wrong
    chain is named as a right one would be. Names that the author of the query gave to a step stay.
    """
    changed = list(chain)
    renamed: dict[
        str, tuple[str, dict[str, str]]
    ] = {}  # step, lower case -> its new name, new names of its columns
    here = known_at(chain, at, known)
    for i in range(at, len(chain)):
        old = chain[i]
        here.last = i == len(chain) - 1
        new = variant if i == at else _following(old.tree, renamed, here)
        if new is not old.tree:
            tree = _named_anew(old.tree, new, here)
            columns = None if tree is None else _renamed_outputs(old.tree, tree, here, renamed)
            if tree is None or columns is None:
                return None
            name = _step_name(old, tree, changed, i, known)
            changed[i] = Link(name, tree)
            if columns or name != old.name:
                renamed[old.name.lower()] = (name, columns)
        here.relations[old.name.lower()] = Relation(old.name, tuple(outputs(old.tree, here)), step=True)
    bodies = [to_sql(link.tree).lower() for link in changed]
    return changed if len(set(bodies)) == len(bodies) else None  # nobody writes the same step twice


def respelled(chain: Sequence[Link], known: Known) -> list[Link]:
    """The chain with tables and columns in the schema's spelling, and columns qualified where there are
    several sources."""
    spelled: list[Link] = []
    here = Known(dict(known.relations), known.links, known.values)
    for link in chain:
        edits: list[tuple[Tree, Tree | None]] = []
        for source in link.tree.find_all(exp.Table):
            relation = here.relations.get(source.name.lower())
            if relation is not None and relation.name != source.name and not source.args.get("db"):
                edits.append((source.this, identifier(relation.name)))
        for node in link.tree.find_all(exp.Column):
            where = resolve(node, here)
            if where is None:
                continue
            alias, attribute, relation = where
            select = node.parent_select
            many = (
                select is not None
                and alias in dict(sources_of(select, here))
                and len(source_nodes(select)) > 1
            )
            table = relation.name if alias.lower() == relation.name.lower() else alias
            edits.append((node, column_node(attribute.name, table if node.table or many else None)))
        tree = edited(link.tree, *edits) if edits else link.tree.copy()
        for key in tree.find_all(exp.Ordered):
            key.set("desc", key.args.get("desc") or None)  # ASC goes without saying
        spelled.append(Link(link.name, tree))
        here.relations[link.name.lower()] = Relation(link.name, tuple(outputs(tree, here)), step=True)
    return spelled


def _following(tree: Tree, renamed: dict[str, tuple[str, dict[str, str]]], known: Known) -> Tree:
    """A later step that reads renamed steps and columns by their new names; `known` holds the old ones."""
    edits: list[tuple[Tree, Tree | None]] = []
    for source in tree.find_all(exp.Table):
        if (new := renamed.get(source.name.lower())) is not None and new[0].lower() != source.name.lower():
            edits.append((source, exp.Table(this=identifier(new[0]), alias=copied(source.args.get("alias")))))
    for node in tree.find_all(exp.Column):
        where = resolve(node, known)
        new = renamed.get(where[2].name.lower()) if where is not None else None
        if where is None or new is None:
            continue
        column = {a.lower(): b for a, b in new[1].items()}.get(node.name.lower(), node.name)
        qualifier = new[0] if node.table and node.table.lower() == where[2].name.lower() else node.table
        if column != node.name or qualifier != node.table:
            edits.append((node, column_node(column, qualifier)))
    return edited(tree, *edits) if edits else tree


def _renamed_outputs(
    before: Tree, after: Tree, known: Known, renamed: dict[str, tuple[str, dict[str, str]]]
) -> dict[str, str] | None:
    """Old -> new names of a step's output columns; None where later steps could not be made to follow."""
    if known.last:
        return {}
    new_known = Known(dict(known.relations), known.links, known.values, known.last)
    for old_name, (new_name, columns) in renamed.items():
        relation = known.relations[old_name]
        lowered = {a.lower(): b for a, b in columns.items()}
        attributes = (replace(a, name=lowered.get(a.name.lower(), a.name)) for a in relation.attributes)
        new_known.relations[new_name.lower()] = Relation(new_name, tuple(attributes), step=True)
    old, new = [a.name for a in outputs(before, known)], [a.name for a in outputs(after, new_known)]
    if len(old) != len(new):
        # A star over another relation: what is read later is there or the chain fails to run.
        select = before.find(exp.Select)
        return {} if select is not None and any(e.is_star for e in select.expressions) else None
    if len({name.lower() for name in new}) < len({name.lower() for name in old}):
        return None
    return {a: b for a, b in zip(old, new, strict=True) if a != b}


def _named_anew(before: Tree, after: Tree, known: Known) -> Tree | None:
    """`after` with the output columns that differ from `before`'s named by what they now hold; None if
    names clash."""
    copy = after.copy()
    old, new = first_select(before), first_select(copy)
    if old is None or new is None or len(old.expressions) != len(new.expressions):
        return after
    changes: dict[int, exp.Expr] = {}
    for a, b in zip(old.expressions, new.expressions, strict=True):
        inner = b.unalias()
        named = isinstance(b, exp.Alias)
        if a.unalias() == inner or inner.is_star or not (named or not known.last):
            continue
        if not (named and b.alias and _stays_true(b.alias, a.unalias(), inner)):
            changes[id(b)] = b
    used = {p.alias_or_name.lower() for p in new.expressions if id(p) not in changes}
    for projection in changes.values():
        inner = projection.unalias().copy()
        column = isinstance(inner, exp.Column)
        table = inner.table if isinstance(inner, exp.Column) else ""
        name = inner.name if column else column_alias(inner)
        if name.lower() in used or (not column and name.lower() in KEYWORDS):
            name = _unique(f"{table}_{name}".lower() if table else name, used | KEYWORDS)
        used.add(name.lower())
        was = projection.alias
        projection.replace(inner if column and name == inner.name else exp.alias_(inner, identifier(name)))
        if was and was != name:  # the answer may sort by the name of its column
            for clause in ("group", "having", "order"):
                for node in list((new.args.get(clause) or exp.Null()).find_all(exp.Column)):
                    if not node.table and node.name == was and resolve(node, known) is None:
                        node.replace(column_node(name))
    return copy


_WORDS_FOR = {
    exp.Avg: {"avg", "average", "mean"},
    exp.Sum: {"sum", "total"},
    exp.Count: {"count", "num", "number", "n", "total"},
    exp.Max: {"max", "maximum", "highest", "largest", "most", "oldest", "latest"},
    exp.Min: {"min", "minimum", "lowest", "smallest", "least", "youngest", "earliest"},
}


def _stays_true(alias: str, before: Tree, after: Tree) -> bool:
    """Whether an alias by the query's author (`ratio`, `n_good`) still fits a changed expression."""
    derived = column_alias(after)
    if alias == column_alias(before) != derived:
        return False
    words = set(re.split(r"[_\W]+|(?<=[a-z])(?=[A-Z])", alias.lower()))
    lost = _named_in(before) - _named_in(after)
    return not words & lost or derived == "value"


def _named_in(tree: Tree) -> set[str]:
    found = {word for c in tree.find_all(exp.Column) for word in c.name.lower().split("_")}
    for kind, words in _WORDS_FOR.items():
        if tree.find(kind):
            found |= words
    return found


def _step_name(old: Link, tree: Tree, chain: Sequence[Link], at: int, known: Known) -> str:
    """The name that decomposition would have given the changed step; the author's own names stay."""
    was, base = cte_name(old.tree), cte_name(tree)
    if (
        not old.name
        or was == base
        or re.sub(r"_\d+\Z", "", old.name) not in (was, re.sub(r"_\d+\Z", "", was))
    ):
        return old.name
    taken = {link.name.lower() for i, link in enumerate(chain) if i != at} | set(known.relations) | KEYWORDS
    taken |= {node.name.lower() for link in chain for node in link.tree.find_all(exp.Identifier)} - {
        old.name.lower()
    }
    return _unique(base, taken)


def _unique(base: str, taken: Set[str]) -> str:
    name, n = base, 1
    while name.lower() in taken:
        n += 1
        name = f"{base}_{n}"
    return name


def first_select(tree: Tree) -> exp.Select | None:
    while isinstance(tree, (exp.SetOperation, exp.Subquery)):
        tree = tree.this
    return tree if isinstance(tree, exp.Select) else None


def source_nodes(select: exp.Select) -> list[Tree]:
    first = select.args.get(FROM)
    return ([] if first is None else [first.this]) + [join.this for join in select.args.get("joins") or []]


def sources_of(select: exp.Select, known: Known) -> list[tuple[str, Relation]]:
    """(name in the query, relation) of everything in FROM and JOIN that is known."""
    found = []
    for node in source_nodes(select):
        if isinstance(node, exp.Table):
            relation = known.relations.get(node.name.lower())
        elif isinstance(node, exp.Subquery):
            relation = Relation(node.alias, tuple(outputs(node.this, known)))
        else:
            relation = None
        if relation is not None:
            found.append((node.alias_or_name, relation))
    return found


def resolve(column: exp.Column, known: Known) -> tuple[str, Attribute, Relation] | None:
    """Which source a column belongs to, looking outwards from its own SELECT."""
    select = column.parent_select
    while select is not None:
        for alias, relation in sources_of(select, known):
            if column.table and column.table.lower() != alias.lower():
                continue
            attribute = relation.get(column.name)
            if attribute is not None:
                return alias, attribute, relation
        select = _outside(select)
    return None


def _outside(select: exp.Select) -> exp.Select | None:
    """The SELECT around this one whose sources it may read: not the one in whose FROM it stands itself."""
    node, outer = select.parent, select.parent_select
    while node is not None and node is not outer:
        if isinstance(node, (exp.From, exp.Join)):
            return None if outer is None else _outside(outer)
        node = node.parent
    return outer


def identifier(name: str) -> exp.Identifier:
    return exp.Identifier(this=name, quoted=quote(name) != name)


def column_node(name: str, table: str | None = None) -> exp.Column:
    return exp.Column(this=identifier(name), table=identifier(table) if table else None)


def written_like(select: exp.Select, alias: str, name: str, known: Known) -> exp.Column:
    """A column as this SELECT writes its columns: qualified where there is more than one source."""
    many = len(source_nodes(select)) > 1
    qualified = many or any(c.table for c in select.find_all(exp.Column) if c.parent_select is select)
    return column_node(name, alias if qualified else None)


def _kind_of(node: Tree, known: Known) -> str:
    if isinstance(node, (exp.Max, exp.Min)) and isinstance(node.this, exp.Column):
        where = resolve(node.this, known)
        return where[1].kind if where else "number"
    if isinstance(node, exp.Literal):
        return "text" if node.is_string else "number"
    return "number" if isinstance(node, (exp.AggFunc, exp.Binary, exp.Neg, exp.Paren)) else "text"


# --- trees --------------------------------------------------------------------------------------------------


def edited(tree: Tree, *edits: tuple[Tree, Tree | None]) -> Tree:
    """A copy of `tree` in which each node of `edits` is replaced by its partner (None: removed)."""
    copy = tree.copy()
    targets = []
    for node, new in edits:
        target = copy
        for key, index in _path(tree, node):
            target = target.args[key] if index is None else target.args[key][index]
        targets.append((target, new))
    for target, new in targets:
        if target is copy:
            assert new is not None, "the root can be replaced, but not removed"
            return new.copy()
        if new is None:
            target.pop()
        else:
            target.replace(new.copy())
    return copy


def _path(tree: Tree, node: Tree) -> list[tuple[str, int | None]]:
    """The arguments, and places in their lists, that lead from the root of a tree to a node of it."""
    path: list[tuple[str, int | None]] = []
    while node is not tree:
        assert node.parent is not None and node.arg_key is not None, "the node is not in the tree"
        path.append((node.arg_key, node.index))
        node = node.parent
    return path[::-1]


def copied(value: object) -> object:
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value.copy() if isinstance(value, exp.Expr) else value
