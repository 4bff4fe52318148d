"""The house rules that a machine can read off the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import redoubtable

ROOT = Path(redoubtable.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TESTS = Path(__file__).parent
TEST_FILES = sorted(TESTS.rglob("*.py"))

# Bottom up. A module imports only from layers below its own; modules of one layer are siblings.
LAYERS = (
    ("types", "version"),
    ("registry", "seeding", "files", "parts", "processes", "bfloat16"),
    ("threat", "losses", "statistics", "masks"),
    ("gradients",),
    ("saliency",),
    ("models", "data", "attacks", "defenses", "detectors", "certification", "explanations"),
    ("training", "evaluation"),
    ("papers", "reports", "demo"),
    ("cli",),
    ("__main__", "__init__"),
)
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}


def unit_of(path: Path) -> str:
    """The part of the house that a file belongs to: the first name below the package."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """(line, full name) of all imports from our package, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            # `from redoubtable import x` names the unit only after the `import`.
            names = [f"{module}.{a.name}" for a in node.names]
        else:
            continue
        yield from ((node.lineno, n) for n in names if n.split(".")[0] == "redoubtable")


def downward(unit: str, other: str) -> bool:
    top = len(LAYERS)  # a stranger may import anything; the test above refuses it
    return unit == other or LEVEL.get(other, top) < LEVEL.get(unit, top)


def test_every_module_has_a_place_in_the_house() -> None:
    strangers = {unit_of(f) for f in FILES} - set(LEVEL)
    assert not strangers, f"say in LAYERS where {sorted(strangers)} stand"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_strictly_down(path: Path) -> None:
    unit = unit_of(path)
    package = ("redoubtable", *path.relative_to(ROOT).parent.parts)
    wrong = []
    for line, name in imports_of(ast.parse(path.read_text(encoding="utf-8")), package):
        other = name.split(".")[1] if "." in name else "__init__"
        if other not in LEVEL:  # a name of the package's own front page
            other = "__init__"
        if not downward(unit, other):
            wrong.append(f"{path.name}:{line} {unit} imports {name}")
    assert not wrong


def test_the_import_rule_sees_upward_sideways_relative_and_nested_imports() -> None:
    package = ("redoubtable", "attacks")
    code = (
        "from redoubtable import evaluation\n"
        "def f():\n    import redoubtable.defenses.voting\n"
        "from ..detectors import Entropy\n"
        "from .registry import ATTACKS\n"
        "from redoubtable.losses import margin\n"
    )
    found = [n.split(".")[1] for _, n in imports_of(ast.parse(code), package)]
    assert sorted(found) == ["attacks", "defenses", "detectors", "evaluation", "losses"]
    allowed = {n for n in found if downward("attacks", n)}
    assert allowed == {"attacks", "losses"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda p: str(p.relative_to(TESTS)))
def test_test_files_are_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def unpickling(tree: ast.AST) -> list[str]:
    """Calls and imports that can run code hidden in a data file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names]
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            bad = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
            found += [f"{node.lineno}: import {m}" for m in modules if m.split(".")[0] in bad]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in ("torch.load", "load_pickle") and given.get("weights_only") != "True":
            found.append(f"{node.lineno}: {called} without weights_only=True")
        if given.get("allow_pickle", "False") != "False":
            found.append(f"{node.lineno}: allow_pickle")
        if called == "np.load" and given.get("allow_pickle") != "False":
            found.append(f"{node.lineno}: np.load without allow_pickle=False")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_ever_unpickled(path: Path) -> None:
    assert not unpickling(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "import pickle",
        "from joblib import load",
        "np.load(f, allow_pickle=True)",
        "np.load(f)",
    ],
)
def test_the_pickle_rule_sees(code: str) -> None:
    assert unpickling(ast.parse(code))


_TYPE_QUESTIONS = ("isinstance", "issubclass")


def norm_branches(tree: ast.AST) -> list[int]:
    """Lines that decide something by the norm of a threat."""
    norms = {"Linf", "L2", "L1", "L0"}

    def names_a_norm(node: ast.AST) -> bool:
        return any(
            (isinstance(n, ast.Name) and n.id in norms)
            or (isinstance(n, ast.Attribute) and n.attr in norms)
            or (isinstance(n, ast.Constant) and n.value in norms)
            for n in ast.walk(node)
        )

    def asks_a_threat(node: ast.AST) -> bool:
        return any(
            (isinstance(n, ast.Attribute) and n.attr in ("name", "norm", "key"))
            or (isinstance(n, ast.Name) and n.id in ("norm", "ord"))
            for n in ast.walk(node)
        )

    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and (names_a_norm(node) or asks_a_threat(node)):
            lines.append(node.lineno)
        asks_type = isinstance(node, ast.Call) and ast.unparse(node.func) in _TYPE_QUESTIONS
        if asks_type and names_a_norm(node.args[1]):
            lines.append(node.lineno)
        if isinstance(node, ast.match_case):
            pattern = ast.unparse(node.pattern)
            if any(n in pattern for n in norms):
                lines.append(node.pattern.lineno)
        if isinstance(node, ast.Dict) and any(k is not None and names_a_norm(k) for k in node.keys):
            lines.append(node.lineno)
    return lines


ATTACK_FILES = sorted((ROOT / "attacks").glob("*.py"))
TABLES = {"square_windows.py": "the paper has one algorithm for Linf and another one for L2"}
"""Where a table by norm may stand, and why."""


@pytest.mark.parametrize("path", ATTACK_FILES, ids=lambda p: p.name)
def test_attacks_never_ask_which_norm_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tables = [n.lineno for n in tree.body if isinstance(n, ast.AnnAssign)]
    found = set(norm_branches(tree)) - set(tables if path.name in TABLES else [])
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "if norm == 2: pass",
        "if threat.name == 'L2': pass",
        "x = 1 if isinstance(threat, Linf) else 2",
        "isinstance(threat, (L1, L0))",
        "type(threat) is Linf",
        "match threat:\n    case L0(): pass",
        "step = {'Linf': 1, 'L2': 2}[threat.name]",
        "step = {Linf: 1}[type(threat)]",
    ],
)
def test_the_norm_rule_sees(code: str) -> None:
    assert norm_branches(ast.parse(code))


def test_slow_libraries_wait_until_they_are_needed() -> None:
    """`redoubt --help` and every process of `--processes` would wait for them."""
    slow = ["torchvision", "sklearn", "scipy.stats"]
    code = f"import sys, redoubtable.cli; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
