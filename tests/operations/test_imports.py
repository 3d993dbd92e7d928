"""Imports: each package of the service imports only the packages below it."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from service.settings import PACKAGE

# The flat modules that every package may import, except embedded, which imports only one.
SHARED = {"limits", "log_output", "logs", "metrics", "refusals", "rows", "settings", "temporary"}

# What each package and each other flat module may import of the service besides itself.
MAY_IMPORT = {
    **dict.fromkeys(SHARED, SHARED),
    "embedded": {"temporary"},
    "database": SHARED,
    "write_path": SHARED | {"database"},
    "web": SHARED | {"database", "write_path"},
    "app": SHARED | {"database", "write_path", "web"},
    "serving": SHARED | {"database", "web", "embedded", "app"},
    "cli": SHARED | {"database", "embedded", "serving"},
    "__main__": {"cli"},
}

WITHOUT_HTTP = {"database", "write_path", "embedded"} | SHARED
HTTP_PACKAGES = {"starlette", "uvicorn", "httptools", "http"}


def imported_names(source: str) -> Iterator[str]:
    """Yield the full name of everything that a source imports, also within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "use absolute imports"
            # The imported name may be a module or a name in a module.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(folder: Path = PACKAGE) -> dict[str, str]:
    """Return the source of each module in a folder by its full name."""
    sources = {}
    for file in folder.rglob("*.py"):
        name = ".".join([folder.name, *file.relative_to(folder).with_suffix("").parts])
        sources[name.removesuffix(".__init__")] = file.read_text()
    return sources


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return, for each module, the modules of the service that it imports."""
    return {
        module: {
            name if name in sources else name.rpartition(".")[0]
            for name in imported_names(source)
            if name.split(".")[0] == "service"
        }
        for module, source in sources.items()
    }


def find_upward_imports(sources: dict[str, str]) -> list[str]:
    """Return the imports that MAY_IMPORT does not allow."""
    imports = []
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
                or (top in HTTP_PACKAGES and part in WITHOUT_HTTP)
            ):
                imports.append(f"{module} imports {name}")
    return imports


def test_no_module_imports_upward() -> None:
    assert find_upward_imports(modules()) == []


def test_modules_and_packages_have_no_import_cycle() -> None:
    TopologicalSorter(import_graph(modules())).prepare()  # raises CycleError
    TopologicalSorter({part: MAY_IMPORT[part] - {part} - SHARED for part in MAY_IMPORT}).prepare()


def test_nothing_imports_from_a_test_module() -> None:
    imports = [
        f"{module} imports {name}"
        for module, source in modules(Path(__file__).parents[1]).items()
        for name in imported_names(source)
        if any(part.startswith("test_") for part in name.split(".")[:-1])
    ]
    assert imports == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("service.write_path.path", "from service.web.fields import parse_uuid"),
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
    assert len(find_upward_imports({module: source})) == 1
