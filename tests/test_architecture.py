"""The rules of the house, checked on the syntax trees: sizes, names, annotations, and where ray and pickle may appear.

The arrows between packages, and who may import ray, are listed in pyproject.toml under [tool.importlinter].
Each message says where and what to do.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("raysys", "tuning", "serving")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50
BANNED_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}
PURE = ("raysys.model", "raysys.tasks", "raysys.training.loop", "raysys.evaluation", "raysys.data.batches")
HEAVY = ("ray", "torch", "transformers", "pandas", "optuna")
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
PICKLING_CALLS = {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle"}
VALIDATORS = {"field_validator", "model_validator", "field_serializer", "model_serializer", "overload"}
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:work|root|Users|home/(?!ray\b))/")
TEXT_SUFFIXES = {
    "",
    ".py",
    ".md",
    ".toml",
    ".yaml",
    ".yml",
    ".txt",
    ".cfg",
    ".ini",
    ".json",
    ".html",
    ".css",
    ".js",
    ".sh",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """A Python file: its dotted name, its lines and its syntax tree."""

    path: Path
    module: str
    num_lines: int
    tree: ast.Module

    def at(self, node: ast.AST) -> str:
        """Return `file:line` of a node, for messages."""
        return f"{self.path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]


@cache
def sources(*folders: str) -> list[Source]:
    """Parse every Python file below the given folders of the repository."""
    found = []
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(path, module, text.count("\n"), ast.parse(text, str(path))))
    return found


def functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def assert_none(found: list[str], advice: str) -> None:
    assert not found, "\n  ".join([advice, *found])


def test_the_packages_are_found():
    found = {source.module.split(".")[0] for source in sources(*PACKAGES)}
    assert found == set(PACKAGES), f"no Python files below {set(PACKAGES) - found}: the rules would pass for nothing"


def test_no_file_is_too_long():
    found = [f"{s.path.relative_to(ROOT)}: {s.num_lines}" for s in sources(*PACKAGES) if s.num_lines > MAX_FILE_LINES]
    assert_none(found, f"split these files by noun; at most {MAX_FILE_LINES} lines:")


def test_no_function_is_too_long():
    found = []
    for source in sources(*PACKAGES):
        for node in functions(source.tree):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                found.append(f"{source.at(node)} {node.name}: {num_lines}")
    assert_none(found, f"split these functions by verb; at most {MAX_FUNCTION_LINES} lines:")


def test_no_module_has_a_name_that_says_nothing():
    found = []
    for source in sources(*PACKAGES, "tests", "benchmarks"):
        relative = source.path.relative_to(ROOT).with_suffix("")
        if BANNED_NAMES & set(relative.parts):
            found.append(str(relative))
    assert_none(found, "name these modules after the noun they hold, or move the code to where it is used:")


def test_public_names_are_documented():
    found = []
    for source in sources(*PACKAGES):
        for owner, node in public_definitions(source):
            if ast.get_docstring(node) is None and not (decorators(node) & VALIDATORS) and not is_setter(node):
                found.append(f"{source.at(node)} {owner}{node.name}")
    assert_none(found, "give these public names a docstring of one line (or a leading underscore):")


def test_modules_are_documented():
    found = [str(s.path.relative_to(ROOT)) for s in sources(*PACKAGES) if ast.get_docstring(s.tree) is None]
    assert_none(found, "begin these files with a docstring: what the module does and what it deliberately does not:")


def test_public_functions_are_annotated():
    found = []
    for source in sources(*PACKAGES):
        for owner, node in public_definitions(source):
            if isinstance(node, Function) and (missing := unannotated(node, is_method=bool(owner))):
                found.append(f"{source.at(node)} {owner}{node.name}: {', '.join(missing)}")
    assert_none(found, "annotate these arguments and returns:")


def public_definitions(source: Source) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Yield (prefix of the owner, definition) of a module's public names; contract tests are no interface."""
    if source.module.startswith("raysys.contracts"):
        return
    yield from _public(source.tree.body, "")


def _public(body: list[ast.stmt], owner: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield owner, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{owner}{node.name}.")


def decorators(node: Function | ast.ClassDef) -> set[str]:
    """Return the last names of a definition's decorators: `field_validator` for `@pydantic.field_validator("x")`."""
    targets = [item.func if isinstance(item, ast.Call) else item for item in node.decorator_list]
    return {target.attr if isinstance(target, ast.Attribute) else ast.unparse(target) for target in targets}


def is_setter(node: Function | ast.ClassDef) -> bool:
    return bool(decorators(node) & {"setter", "deleter"})


def unannotated(node: Function, is_method: bool) -> list[str]:
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args]
    if is_method and "staticmethod" not in decorators(node):
        named = named[1:]
    extra = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    missing = [item.arg for item in [*named, *arguments.kwonlyargs, *extra] if item.annotation is None]
    return missing if node.returns is not None else [*missing, "return"]


def test_the_import_contracts_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"an arrow of pyproject.toml [tool.importlinter] is broken:\n{done.stdout[-4000:]}"


def test_ray_is_imported_only_at_the_edge():
    edge = may_import_ray()
    found = [
        f"{source.at(node)} {source.module}"
        for source in sources(*PACKAGES)
        for node, name in imports(source.tree)
        if name.split(".")[0] == "ray" and not f"{source.module}.".startswith(edge)
    ]
    assert_none(found, f"ray stays at the edge, lazy imports too; move the code to one of {', '.join(edge)}:")


def may_import_ray() -> tuple[str, ...]:
    """Return the allowed importers of ray in the import contracts, each with a dot behind it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if contract.get("protected_modules") == ["ray"]]
    return tuple(f"{name}." for name in contract["allowed_importers"])


def test_nothing_is_pickled():
    found = []
    for source in sources(*PACKAGES):
        for node, name in imports(source.tree):
            if name.split(".")[0] in PICKLES or name in PICKLING_CALLS:
                found.append(f"{source.at(node)} import {name}")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in PICKLING_CALLS:
                found.append(f"{source.at(node)} {ast.unparse(node)}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                found.append(f"{source.at(node.value)} allow_pickle")
    assert_none(found, "artifacts load without pickle: write safetensors, JSON or Arrow instead:")


def imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield (node, dotted name) of every absolute import, inside functions too; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def test_pure_modules_load_no_ray():
    code = f"import sys, {', '.join(PURE)}\nprint(*[name for name in ('ray',) if name in sys.modules])"
    loaded = run_python(code)
    assert loaded == "", f"one of {PURE} loads ray: import it inside the function that needs it, at the edge"


def test_help_loads_no_heavy_library():
    code = f"""
import sys
sys.argv = ["raysys", "--help"]
from raysys.__main__ import main
try:
    main()
finally:
    print("\\nloaded:", *[name for name in {HEAVY} if name in sys.modules])
"""
    loaded = run_python(code).rpartition("loaded:")[2].strip()
    assert loaded == "", (
        f"`raysys --help` loads {loaded}: import it inside the verb, so that help answers in under a second"
    )


def run_python(code: str) -> str:
    """Run code in a fresh interpreter at the repository's root and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"this failed in a fresh interpreter:\n{code}\n{done.stderr[-2000:]}"
    return done.stdout.strip()


def test_every_test_asserts_something():
    found = []
    for source in sources("tests", "raysys/contracts"):
        asserting = asserting_functions(source.tree)
        tests = [node for node in functions(source.tree) if node.name.startswith("test_")]
        found += [f"{source.at(node)} {node.name}" for node in tests if node.name not in asserting]
    assert_none(found, "these tests cannot fail; assert what should be true, or delete them:")


def asserting_functions(tree: ast.AST) -> set[str]:
    """Return the functions of a file that assert, expect an error, or call one of the file's functions that does."""
    called = {node.name: names_called(node) for node in functions(tree)}
    asserting = {node.name for node in functions(tree) if any(isinstance(part, ast.Assert) for part in ast.walk(node))}
    asserting |= {
        name for name, calls in called.items() if any(re.match(r"assert_|raises$|warns$|fail$", call) for call in calls)
    }
    while more := {name for name, calls in called.items() if calls & asserting} - asserting:
        asserting |= more
    return asserting


def names_called(node: ast.AST) -> set[str]:
    """Return the last names of everything that is called inside a node."""
    targets = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    return names | {target.attr for target in targets if isinstance(target, ast.Attribute)}


def test_no_committed_text_names_a_machine_path():
    found = []
    for path in committed_texts():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if match := MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number} {match[0]}")
    assert_none(found, "write these paths relative to the repository, or through an environment variable:")


def committed_texts() -> list[Path]:
    """Return the text files that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.split("\0")
    paths = [ROOT / name for name in names if name]
    return [path for path in paths if path.suffix in TEXT_SUFFIXES and path.is_file() and not path.is_symlink()]
