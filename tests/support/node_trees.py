"""What PostgreSQL has understood of a statement: its node tree, as `pg_node_tree` is written."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

UPDATE = {"2", "4"}
WRITES = {"2", "3", "4"}
"""The commandType of update and delete, and of these and insert."""

_TOKEN = re.compile(
    r"\\.|\{(?P<opens>\w+)|(?P<closes>\})|:(?P<field>\w+) (?=(?P<value>[^\s{}()]*))"
)


@dataclass
class Node:
    """One node, such as `{VAR :varno 1 …}`."""

    kind: str
    fields: dict[str, str] = field(default_factory=dict)
    children: list["Node"] = field(default_factory=list)

    def all(self, *kinds: str) -> Iterator["Node"]:
        """Yield the nodes of some kinds in it, itself included."""
        if self.kind in kinds:
            yield self
        for child in self.children:
            yield from child.all(*kinds)

    def own(self, *kinds: str) -> Iterator["Node"]:
        """Yield the nodes of some kinds below it that belong to no query inside of it."""
        for child in self.children:
            if child.kind != "QUERY":
                if child.kind in kinds:
                    yield child
                yield from child.own(*kinds)

    def has(self, kind: str) -> bool:
        """Whether there is a node of a kind in it."""
        return any(True for _ in self.all(kind))

    @property
    def type(self) -> str:
        """The oid of the type of an expression."""
        types = (self.fields[name] for name in self.fields if re.search(r"type$", name))
        return next(oid for oid in types if oid.isdigit())


def parse_nodes(text: str) -> Node:
    """Parse a node tree; a list of several becomes the children of one node."""
    root = Node("")
    open_nodes = [root]
    for token in _TOKEN.finditer(text):
        if token["opens"]:
            node = Node(token["opens"])
            open_nodes[-1].children.append(node)
            open_nodes.append(node)
        elif token["closes"]:
            open_nodes.pop()
        elif token["field"]:
            open_nodes[-1].fields.setdefault(token["field"], token["value"])
    return root
