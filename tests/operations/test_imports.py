"""Imports: each package of the service imports only what its ``__init__`` says."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from service.settings import PACKAGE

# The flat modules that every package may import, except embedded, which imports none.
SHARED = {"limits", "logs", "metrics", "refusals", "rows", "settings"}

# What each package and each other flat module may import of the service besides itself.
MAY_IMPORT = {
    **dict.fromkeys(SHARED, SHARED),
    "embedded": set[str](),
    "database": SHARED,
    "write_path": SHARED | {"database"},
    "web": SHARED | {"database", "write_path"},
    "app": SHARED | {"database", "write_path", "web"},
    "serving": SHARED | {"database", "web", "embedded", "app"},
    "cli": SHARED | {"database", "embedded", "serving"},
    "__main__": {"cli"},
}

KNOW_NO_HTTP = {"database", "write_path", "embedded"} | SHARED
HTTP = {"starlette", "uvicorn", "httptools", "http"}


def imported_names(source: str) -> Iterator[str]:
    """Yield the full name of everything that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            # What is imported may be a module of the package, or a name in the module.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(folder: Path = PACKAGE) -> dict[str, str]:
    """Return the source of each module of the service, by its full name."""
    found = {}
    for file in folder.rglob("*.py"):
        name = ".".join([folder.name, *file.relative_to(folder).with_suffix("").parts])
        found[name.removesuffix(".__init__")] = file.read_text()
    return found


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return, for each module, the modules of the service that it imports."""
    return {
        module: {
            name if name in sources else name.rpartition(".")[0]
            for name in imported_names(source)
            if name.split(".")[0] == "service"
        }
        for module, source in sources.items()
    }


def upward(sources: dict[str, str]) -> list[str]:
    """Return the imports that no package may have."""
    found = []
    for module, source in sources.items():
        if module == "service":
            part, allowed = "service", set[str]()
        else:
            part = module.split(".")[1]
            allowed = MAY_IMPORT[part] | {part}
        for name in imported_names(source):
            top, *rest = name.split(".")
            if (
                top == "tests"
                or (top == "service" and (not rest or rest[0] not in allowed))
                or (top in HTTP and part in KNOW_NO_HTTP)
            ):
                found.append(f"{module} imports {name}")
    return found


def test_no_module_imports_upward() -> None:
    assert upward(modules()) == []


def test_no_modules_and_no_packages_import_in_a_circle() -> None:
    TopologicalSorter(graph(modules())).prepare()  # raises CycleError
    TopologicalSorter({part: MAY_IMPORT[part] - {part} - SHARED for part in MAY_IMPORT}).prepare()


def test_nothing_imports_from_a_module_of_tests() -> None:
    found = [
        f"{module} imports {name}"
        for module, source in modules(Path(__file__).parents[1]).items()
        for name in imported_names(source)
        if any(part.startswith("test_") for part in name.split(".")[:-1])
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("service.write_path.path", "from service.web.fields import identifier"),
        ("service.write_path.lanes", "def f():\n    import starlette.requests"),
        ("service.database.queries", "from service.write_path.path import WritePath"),
        ("service.database.queries", "from service import web"),
        ("service.database.queries", "from starlette.responses import Response"),
        ("service.web.routes", "import service.embedded.postgres"),
        ("service.rows", "from service.database import queries"),
        ("service.cli.commands", "from tests.benchmarks import bench"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str) -> None:
    assert len(upward({module: source})) == 1
