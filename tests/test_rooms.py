"""The house keeps its order: a room imports from lower rooms only, also within functions."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import leukemia

PACKAGE = Path(leukemia.__file__).parent
ROOMS = (  # from low to high: folders, and files at the root
    "terminal",
    "errors",
    "storage",
    "precision",
    "evaluation",
    "data",
    "runs",
    "identity",
    "models",
    "config",
    "inference",
    "reporting",
    "commands",
    "training",
    "app",
    "cli",
    "train",
)
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(text: str) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of each import in a module, also within its functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write the whole name of the module"
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def module_of(name: str) -> str | None:
    """The module of this package that an import reads: `leukemia.runs` for `leukemia.runs.Run` and `leukemia.Run`."""
    package, _, rest = name.partition(".")
    if package != "leukemia":
        return None
    if rest in leukemia._HOMES:
        return leukemia._HOMES[rest]
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def room(module: str) -> str:
    return module.split(".")[1]


IMPORTS = [
    (module, line, target)
    for module, path in MODULES.items()
    for line, name in imported(path.read_text(encoding="utf-8"))
    if (target := module_of(name)) not in (None, "leukemia", module)
]


def against(order: tuple[str, ...], imports: list[tuple[str, int, str]]) -> list[str]:
    """The imports from a lower room to a higher one; the package itself is the door and opens every room by name."""
    height = {name: number for number, name in enumerate(order)}
    return [
        f"{module} line {line} imports {target}"
        for module, line, target in imports
        if module != "leukemia" and height[room(module)] < height[room(target)]
    ]


def test_every_folder_and_file_of_the_package_has_its_place_in_the_order():
    assert {room(module) for module in MODULES if module != "leukemia"} == set(ROOMS)


def test_no_import_runs_from_a_lower_room_to_a_higher_one():
    assert against(ROOMS, IMPORTS) == []


def test_an_import_against_the_order_is_found_within_a_function_and_by_a_short_name():
    text = "def score():\n    from leukemia import CellClassifier\n    import leukemia.runs\n"
    found = [("leukemia.data.files", line, module_of(name)) for line, name in imported(text)]
    assert against(ROOMS, found) == [
        "leukemia.data.files line 2 imports leukemia.models.classifier",
        "leukemia.data.files line 3 imports leukemia.runs",
    ]


def test_no_module_imports_itself_by_way_of_others():
    graph: dict[str, set[str]] = {}
    for module, _, target in IMPORTS:
        if module != "leukemia":
            graph.setdefault(module, set()).add(target)
    TopologicalSorter(graph).prepare()  # a CycleError names the modules


@pytest.mark.parametrize("library", ["torch", "pytorch_lightning", "torchmetrics"])
def test_evaluation_imports_no_torch(library):
    names = [name for module, path in MODULES.items() if module.startswith("leukemia.evaluation")
             for _, name in imported(path.read_text(encoding="utf-8"))]  # fmt: skip
    assert not [name for name in names if name.partition(".")[0] == library]


def test_the_root_of_the_package_holds_nine_files_at_most():
    assert len(list(PACKAGE.glob("*.py"))) <= 9
