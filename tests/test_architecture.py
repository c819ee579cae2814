"""Rules of the code base, as tests: one direction of imports, and nothing heavy before it is needed."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stable_audio"

ORDER = (
    "public",
    "characters",
    "wording",
    "incidents",
    "folder_lock",
    "options",
    "ranges",
    "types",
    "shipped",
    "network",
    "audio",
    "stored",
    "data",
    "optim",
    "nn",
    "adapters",
    "diffusion",
    "pretransforms",
    "conditioning",
    "backbones",
    "model",
    "diffusion_autoencoder",
    "transforms",
    "config",
    "factory",
    "checkpoints",
    "inference",
    "evaluation",
    "training",
    "interface",
    "cli",
    "__main__",
)
"""A module imports from its own part and from parts to the left."""

HEAVY = (
    "lightning",
    "pytorch_lightning",
    "transformers",
    "wandb",
    "gradio",
    "matplotlib",
    "tensorboard",
    "av",
)
"""Libraries that are imported inside the function that needs them."""

HEAVY_ALLOWED = {"lightning": ("training",)}
"""Parts that may import a heavy library at module level."""

SHELVES = ("reporting", "schemas", "sections", "rules", "reading", "load", "schema", "__init__")
"""Of `config`: a module imports from its own shelf and from shelves to the left."""

TRAINING_SHELVES = (
    "errors",
    "modes",
    "demo",
    "window",
    "precision_names",
    "options",
    "teacher",
    "transforms",
    "speed",
    "processes",
    "devices",
    "guards",
    "optimisation",
    "saving",
    "base",
    "batches",
    "diffusion",
    "autoencoder",
    "methods",
    "build",
    "memory_plan",
    "record",
    "starting",
    "callbacks",
    "lightning_trainer",
    "run",
    "trainer",
    "bakeoff",
    "from_files",
    "check",
    "finetune",
    "__init__",
)
"""Of `training`: as `SHELVES`."""

HELD_ELSEWHERE = ("stable_audio", "stable_audio.config", "stable_audio.data")
"""Packages some of whose public names are held by modules to their right, and imported on first use."""

TORCH_FREE = ("cli", "__init__", "__main__")


def _files() -> Iterator[tuple[Path, str]]:
    """(file, its part of the package)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Sequence[tuple[int, str, bool]]:
    """(line, dotted name, whether it runs when the module is imported) of every import in a file."""
    module = ("stable_audio", *path.relative_to(PACKAGE).with_suffix("").parts)
    return _imports_in(path.read_text(encoding="utf-8"), module[:-1])


@cache
def _imports_in(source: str, package: tuple[str, ...]) -> Sequence[tuple[int, str, bool]]:
    """As `_imports`, of a module of a package."""
    imports = []
    for node, at_import in _walk(ast.parse(source), True):
        if isinstance(node, ast.Import):
            imports += [(node.lineno, alias.name, at_import) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            dotted = ".".join([*base, *([node.module] if node.module else [])])
            imports += [(node.lineno, f"{dotted}.{alias.name}", at_import) for alias in node.names]
    return tuple(imports)


def _walk(node: ast.AST, at_import: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from _walk(ast.Module(child.orelse, []), at_import)
            continue
        inside = at_import and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield child, at_import
        yield from _walk(child, inside)


def test_every_part_is_in_the_order() -> None:
    unknown = sorted({part for _, part in _files()} - {*ORDER, "__init__"})
    assert not unknown, f"parts without a place in ORDER: {unknown}"


def test_imports_go_left() -> None:
    wrong = [edge for path, part in _files() for edge in _edges_to_the_right(path, part)]
    assert not wrong, "\n".join(wrong)


def _edges_to_the_right(path: Path, part: str) -> Iterator[str]:
    # The package's own __init__ only maps public names to the modules that hold them.
    if part == "__init__":
        return
    for line, name, _ in _imports(path):
        steps = name.split(".")
        if steps[0] != "stable_audio" or len(steps) < 2 or steps[1] not in ORDER:
            continue
        if ORDER.index(steps[1]) > ORDER.index(part):
            yield f"{path.relative_to(ROOT)}:{line}: {part} -> {steps[1]} ({name}); only parts to its left"


@pytest.mark.parametrize(("part", "shelves"), [("config", SHELVES), ("training", TRAINING_SHELVES)])
def test_shelves_import_from_shelves_to_the_left(part: str, shelves: Sequence[str]) -> None:
    files = sorted((PACKAGE / part).rglob("*.py"))
    assert {_shelf(path, part) for path in files} == {*shelves}, "shelves without a place, or without a file"
    wrong = [edge for path in files for edge in _shelves_to_the_right(path, part, shelves)]
    assert not wrong, "\n".join(wrong)


def _shelf(path: Path, part: str) -> str:
    return path.relative_to(PACKAGE / part).parts[0].removesuffix(".py")


def _shelves_to_the_right(path: Path, part: str, shelves: Sequence[str]) -> Iterator[str]:
    own = _shelf(path, part)
    for line, name, _ in _imports(path):
        if name.startswith(f"stable_audio.{part}."):
            shelf = name.split(".")[2]
            # A name of the part itself is held by its `__init__`.
            shelf = shelf if shelf in shelves else "__init__"
            if shelves.index(shelf) > shelves.index(own):
                yield f"{path.relative_to(ROOT)}:{line}: {own} -> {shelf} ({name}); only shelves to its left"


def test_the_check_notices_a_shelf_to_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from stable_audio.training.errors import TrainingError\n"
        "def f():\n    from stable_audio.training import trainer\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda self, **_: source)
    file = PACKAGE / "training" / "saving" / "room.py"
    assert list(_shelves_to_the_right(file, "training", TRAINING_SHELVES)) == [
        "stable_audio/training/saving/room.py:3: saving -> trainer (stable_audio.training.trainer); "
        "only shelves to its left"
    ]
    assert not list(
        _shelves_to_the_right(PACKAGE / "training" / "finetune" / "ways.py", "training", TRAINING_SHELVES)
    )


def test_few_packages_have_public_names_that_others_hold() -> None:
    users = {m for m, path in _modules().items() for _, n, _ in _imports(path) if n.startswith(PUBLIC)}
    assert users == {*HELD_ELSEWHERE}


PUBLIC = "stable_audio.public."


def test_the_check_notices_an_edge_to_the_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PACKAGE / "types.py"
    monkeypatch.setattr(
        Path, "read_text", lambda self, **_: "def f():\n    from stable_audio.cli import main\n"
    )
    assert list(_edges_to_the_right(file, "types")) == [
        "stable_audio/types.py:2: types -> cli (stable_audio.cli.main); only parts to its left"
    ]


def _modules() -> dict[str, Path]:
    """Dotted name -> file, packages under their own name."""
    steps = {path: ("stable_audio", *path.relative_to(PACKAGE).with_suffix("").parts) for path, _ in _files()}
    return {".".join(s[:-1] if s[-1] == "__init__" else s): path for path, s in steps.items()}


def _module_graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> the modules that it imports, wherever in it, other than for type checkers."""
    graph = {}
    for module, path in modules.items():
        names = {name for _, name, _ in _imports(path)}
        # `from package import x` takes a module x, or else a name of the package.
        graph[module] = {n if n in modules else n.rpartition(".")[0] for n in names} & {*modules} - {module}
    return graph


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other by some way, one list for each circle."""
    reached = {module: _reached(graph, module) for module in graph}
    circular = [m for m in graph if m in reached[m]]
    together = {tuple(sorted(n for n in circular if n in reached[m] and m in reached[n])) for m in circular}
    return sorted(map(list, together))


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += graph[module]
    return reached


def test_no_module_needs_itself_by_any_way() -> None:
    circles = _circles(_module_graph(_modules()))
    assert not circles, "modules that import each other:\n" + "\n".join(map(", ".join, circles))


def test_the_check_notices_a_circle(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set(), "e": {"a"}}
    assert _circles(graph) == [["a", "b", "c"]]
    texts = {
        "types.py": "from stable_audio import network\n",
        "network.py": "def f():\n    from . import types\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda self, **_: texts[self.name])
    modules = {f"stable_audio.{n.removesuffix('.py')}": PACKAGE / n for n in texts}
    assert _circles(_module_graph(modules)) == [["stable_audio.network", "stable_audio.types"]]


INFERENCE_SHELVES = ("generation", "codec", "rendering")
"""Sub-packages of inference: the first two know neither each other nor the third, which uses `generation`."""


def test_generation_knows_neither_codecs_nor_jobs_and_recipes() -> None:
    allowed = {"generation": set(), "codec": set(), "rendering": {"generation"}}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for shelf in INFERENCE_SHELVES
        for path in sorted((PACKAGE / "inference" / shelf).glob("*.py"))
        for line, name, _ in _imports(path)
        for other in {*INFERENCE_SHELVES} - {shelf} - allowed[shelf]
        if name.startswith(f"stable_audio.inference.{other}.")
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name} at module level; import it inside the function"
        for path, part in _files()
        for line, name, at_import in _imports(path)
        if at_import and name.split(".")[0] in HEAVY and part not in HEAVY_ALLOWED.get(name.split(".")[0], ())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", ["lightning"])
def test_only_training_uses(library: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, part in _files()
        for line, name, _ in _imports(path)
        if name.split(".")[0] == library and part not in HEAVY_ALLOWED[library]
    ]
    assert not wrong, "\n".join(wrong)


def test_components_do_not_know_pydantic() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, part in _files()
        for line, name, _ in _imports(path)
        if name.split(".")[0] == "pydantic" and part not in ("config", "interface")
    ]
    assert not wrong, "\n".join(wrong)


MOST_ARGUMENTS = 12
"""Of one function, without `self`: more belong together in options that are taken whole (`options.Flat`)."""


def _long_signatures(source: str) -> list[tuple[int, str, int]]:
    """(line, name, number of arguments) of every function that names too many."""
    functions = (
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    counted = ((n.lineno, n.name, _arguments(n)) for n in functions)
    return [(line, name, count) for line, name, count in counted if count > MOST_ARGUMENTS]


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def test_no_function_names_more_arguments_than_one_can_read() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name} has {count} arguments, at most {MOST_ARGUMENTS}"
        for path, _ in _files()
        for line, name, count in _long_signatures(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_check_counts_arguments() -> None:
    names = ", ".join(f"a{i}" for i in range(MOST_ARGUMENTS))
    source = f"class C:\n    def f(self, *, {names}): ...\n    def g(self, b, *, {names}, **more): ...\n"
    assert _long_signatures(source) == [(3, "g", MOST_ARGUMENTS + 1)]


MOST_REPEATED, MOST_REPEATED_BY_SECTIONS = 4, 2
"""Settings (name and default) that two constructors, classes or functions may share, and that a section of a
file may share with one: more stand once, in a dataclass that both take (`options.Flat`, `keys_of`)."""


def _settings(source: str) -> Iterator[tuple[int, str, frozenset[tuple[str, str]]]]:
    """(line, name, {(setting, default)}) of every function and class, without defaults of None."""
    for node in ast.walk(ast.parse(source)):
        pairs: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named = [*node.args.posonlyargs, *node.args.args]
            pairs += zip([a.arg for a in named][len(named) - len(node.args.defaults) :], node.args.defaults)
            pairs += zip([a.arg for a in node.args.kwonlyargs], node.args.kw_defaults)
        elif isinstance(node, ast.ClassDef):
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
            pairs += [(ast.unparse(n.target), _default_of(n.value)) for n in fields]
        else:
            continue
        told = {(name, ast.unparse(default)) for name, default in pairs if default is not None}
        yield node.lineno, node.name, frozenset(pair for pair in told if pair[1] != "None")


def _default_of(value: ast.expr | None) -> ast.expr | None:
    """The default of a field, also within `Field(default=...)`."""
    if not isinstance(value, ast.Call) or ast.unparse(value.func) not in ("Field", "field"):
        return value
    told = {keyword.arg: keyword.value for keyword in value.keywords}
    return told.get("default") or told.get("default_factory") or next(iter(value.args), None)


def _repetitions(sources: dict[str, str]) -> list[str]:
    places = [
        (file, *entry)
        for file, source in sources.items()
        for entry in _settings(source)
        if len(entry[2]) > MOST_REPEATED_BY_SECTIONS
    ]
    wrong = []
    for number, (file, line, name, settings) in enumerate(places):
        for other, other_line, other_name, others in places[number + 1 :]:
            sections = ["config/sections/" in path for path in (file, other)]
            most = MOST_REPEATED_BY_SECTIONS if any(sections) and not all(sections) else MOST_REPEATED
            if len(shared := settings & others) > most:
                names = ", ".join(sorted(setting for setting, _ in shared))
                wrong.append(f"{file}:{line}: {name} and {other}:{other_line}: {other_name} repeat {names}")
    return wrong


def test_settings_stand_once() -> None:
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path, _ in _files()}
    wrong = _repetitions(sources)
    assert not wrong, "\n".join(wrong)


def test_the_check_notices_a_repetition() -> None:
    section = "class S(Section):\n    a: int = 1\n    b: float = Field(default=2.0, gt=0)\n    c: str = 'x'\n"
    function = "class T:\n    def __init__(self, *, a: int = 1, b: float = 2.0, c: str = {c}) -> None: ...\n"
    file = "stable_audio/config/sections/s.py"
    (wrong,) = _repetitions({file: section, "stable_audio/t.py": function.format(c="'x'")})
    assert wrong == f"{file}:1: S and stable_audio/t.py:2: __init__ repeat a, b, c"
    assert not _repetitions({file: section, "stable_audio/t.py": function.format(c="'y'")})
    assert not _repetitions({"stable_audio/s.py": section, "stable_audio/t.py": function.format(c="'x'")})


LAYERS_OF_PAPERS = frozenset(
    {
        "Attention",
        "Bottleneck",
        "ConvBlock",
        "ConvNeXtBlock",
        "CrossAttention",
        "DecoderBlock",
        "Down",
        "EncoderBlock",
        "FeedForward",
        "ResidualUnit",
        "ResnetBlock",
        "SelfAttention",
        "TransformerBlock",
        "Up",
    }
)
"""Layers of published networks, which keep the names of their papers, each in the folder of its network."""

SHARED_NAMES = {
    "Draws": "generation's sources of noise had this name, which still works",
    "Network": "the function that objectives see, and the U-Net that is one",
}
"""Names that are both a class and a type elsewhere, and why."""


def _names_of_types(sources: dict[str, str]) -> dict[str, list[tuple[str, bool]]]:
    """Name -> (place, whether it is a class) of every class, and of every type that a module gives a name."""
    places: dict[str, list[tuple[str, bool]]] = {}
    for file, source in sources.items():
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append((f"{file}:{node.lineno}", True))
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                places.setdefault(node.targets[0].id, []).append((f"{file}:{node.lineno}", False))
    return places


def _shared_names(sources: dict[str, str]) -> dict[str, str]:
    """Name -> its places, of every name that a class has and anything else, too."""
    return {
        name: ", ".join(place for place, _ in places)
        for name, places in _names_of_types(sources).items()
        if len(places) > 1 and any(is_class for _, is_class in places)
    }


def test_a_name_is_that_of_one_class() -> None:
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path, _ in _files()}
    shared = _shared_names(sources)
    wrong = [f"{name}: {places}" for name, places in shared.items() if name not in ALLOWED_NAMES]
    assert not wrong, "rename the less public one:\n" + "\n".join(wrong)
    assert not ALLOWED_NAMES - shared.keys(), "names that need no permission any more"


ALLOWED_NAMES = LAYERS_OF_PAPERS | SHARED_NAMES.keys()


def test_layers_of_papers_are_networks() -> None:
    from torch import nn

    for name in LAYERS_OF_PAPERS:
        for module, path in _modules().items():
            if f"class {name}(" in path.read_text(encoding="utf-8"):
                assert issubclass(getattr(importlib.import_module(module), name), nn.Module), module


def test_the_check_notices_a_second_class() -> None:
    one, other, alias = "class Plan:\n    pass\n", "\nclass Plan(Base): ...\n", "Plan = dict[str, int]\n"
    assert _shared_names({"a.py": one, "b.py": other}) == {"Plan": "a.py:1, b.py:2"}
    assert _shared_names({"a.py": one, "b.py": alias}) == {"Plan": "a.py:1, b.py:1"}
    assert not _shared_names({"a.py": alias, "b.py": alias})


def test_nothing_outside_the_command_line_knows_its_arguments() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, part in _files()
        for line, name, _ in _imports(path)
        if name.split(".")[0] == "argparse" and part not in ("cli", "__main__")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_printed_outside_the_command_line() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: print; use logging"
        for path, part in _files()
        if part not in ("cli", "__main__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, "\n".join(wrong)


def _modules_after(code: str) -> set[str]:
    listing = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import stable_audio",
        "import stable_audio.cli as c, importlib\n[importlib.import_module(m) for m in c.COMMANDS.values()]",
        "import contextlib, io, stable_audio.cli as c\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): c.main(['--help'])",
    ],
    ids=["package", "commands", "help"],
)
def test_starting_up_imports_nothing_heavy(code: str) -> None:
    heavy = {*HEAVY, "torch", "numpy", "pydantic", "scipy", "soundfile"} & _modules_after(code)
    assert not heavy, f"imported too early: {sorted(heavy)}"


def test_the_whole_library_imports_no_optional_dependency() -> None:
    modules = [
        "stable_audio." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for path, part in _files()
        if part not in ("training", "interface", "cli", "__init__", "__main__")
    ]
    found = _modules_after("\n".join(f"import {m}" for m in modules)) & {*HEAVY, "vector_quantize_pytorch"}
    assert not found, f"imported too early: {sorted(found)}"


HELPS = [["-m", "stable_audio", "--help"], ["train.py", "--help"], ["infer.py", "--help"]]


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_answers_within_a_second(command: list[str]) -> None:
    best = min(_seconds(command) for _ in range(3))
    assert best < 1, f"{' '.join(command)} took {best:.2f} s"


def _seconds(command: list[str]) -> float:
    """Processor time, which other programs do not lengthen as they do the time on the clock."""
    start = _children_seconds()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60)
    return _children_seconds() - start


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system
