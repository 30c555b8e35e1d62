"""How the house is built: who may import whom, how long a file may be, what must be documented."""

import ast
import doctest
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from forked import forked

import lit_memories

PACKAGE = Path(__file__).parent.parent / "lit_memories"
FILES = sorted(PACKAGE.rglob("*.py"))
STANDARD = set(sys.stdlib_module_names)

LEVELS = (
    {"ops", "speed"},
    {"storage", "concept", "images"},
    {"recipe_names"},
    {"numbers", "schemas", "costs", "settings", "terminal", "recipe_files"},
    {"records", "processes", "lightning_files", "concept_options"},
    {"seeds", "lock"},
    {"runs"},
    {"shared_runs"},
    {"prompt_rows"},
    {"joint_conditioning"},
    {"conditioning", "denoisers", "autoencoder"},
    {"prompted"},
    {"guards"},
    {"diffusion", "erasure"},
    {"identity", "words"},
    {"inverters", "metrics", "data", "judges"},
    {"probes"},
    {"attacks"},
    {"audit", "erasers", "worlds", "statistics"},
    {"report"},
    {"leaderboard"},
    {"recipes"},
    {"tools"},
    {"cli", "__main__", "__init__"},
)
"""From the ground up; a part may import parts of its own level only within itself, or where `PEERS` says so."""

PEERS = {
    ("diffusion", "erasure"),  # applies it
    ("__main__", "cli"),
}


def part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path, runtime: bool = True) -> Iterator[str]:
    """Modules a file imports, inside functions too; those only type checkers see if not `runtime`."""
    tree = tree_of(file)
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if runtime and id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""
            if node.module == "lit_memories":
                yield from (f"lit_memories.{alias.name}" for alias in node.names if alias.name != "__version__")


def level(name: str) -> int:
    return next(number for number, parts in enumerate(LEVELS) if name in parts)


def test_what_the_package_promises_is_there() -> None:
    assert [getattr(lit_memories, name).__name__ for name in lit_memories.__all__] == lit_memories.__all__


def test_every_part_has_its_level() -> None:
    assert {part(file) for file in FILES} == set().union(*LEVELS)


def test_arrows_point_down() -> None:
    up = [
        f"{file.relative_to(PACKAGE)} must not import {module}"
        for file in FILES
        for module in imports(file)
        if module.startswith("lit_memories.") and (own := part(file)) != "__init__"
        if (other := module.split(".")[1]) != own and (own, other) not in PEERS
        if level(other) >= level(own)
    ]
    assert not up


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("ops", {"torch", "lit_memories.ops"}),
        ("metrics", {"torch", "numpy", "ot", "scipy", "torchmetrics", "lit_memories.metrics", "lit_memories.ops"}),
        ("inverters", {"torch", "lit_memories.ops", "lit_memories.inverters"}),
    ],
)
def test_the_mathematics_knows_tensors_only(folder: str, allowed: set[str]) -> None:
    for file in (PACKAGE / folder).glob("*.py"):
        for module in imports(file):
            ours = ".".join(module.split(".")[:2]) if module.startswith("lit_memories") else module.split(".")[0]
            assert ours in allowed | STANDARD, f"{file}: {module}"


def test_the_functional_metrics_know_no_metric_class() -> None:
    """Pure functions over tensors: of torchmetrics only its functional half."""
    seen, queue = set(), ["lit_memories.metrics.functional"]
    while queue:
        module = queue.pop()
        seen.add(module)
        for name in imports(PACKAGE / "metrics" / f"{module.rsplit('.', 1)[1]}.py"):
            root = name.split(".")[0]
            assert root in {"torch", "numpy", "ot", "scipy", "torchmetrics", "lit_memories"} | STANDARD, name
            assert root != "torchmetrics" or name.startswith("torchmetrics.functional"), name
            if root == "lit_memories":
                assert name.startswith("lit_memories.metrics."), name
                queue += [name] if name not in seen else []


def loaded(*statements: str) -> list[set[str]]:
    """Top-level modules in a process after each of some statements."""
    names = "print(*sorted({name.split('.')[0] for name in sys.modules}), sep=',')"
    code = "\n".join(["import sys", *(f"try: {statement}\nfinally: {names}" for statement in statements)])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return [set(line.split(",")) for line in run.stdout.splitlines() if ",sys," in line]


def test_nothing_is_loaded_that_a_command_has_no_use_for() -> None:
    """Help nothing heavy, the report no Lightning, a recipe's help no models; transformers is torchmetrics' own."""
    after_help, after_report, after_recipe = loaded(
        "from lit_memories.cli import main; main(['--help'])",
        "import lit_memories.report.main, lit_memories.leaderboard.main, lit_memories.tools.status",
        "main(['predict', '--help'])",
    )
    assert "lit_memories" in after_help
    assert not {"torch", "lightning", "diffusers", "transformers"} & after_help
    assert "torch" in after_report
    assert not {"lightning", "diffusers", "datasets"} & after_report
    assert "lightning" in after_recipe
    assert not {"diffusers", "datasets"} & after_recipe


def test_files_are_short() -> None:
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert not {file: length for file, length in lengths.items() if length > 350}


def undocumented(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    """Public classes and functions without a docstring; of overloads only the implementation counts."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if node.name.startswith("_") or any("overload" in ast.unparse(d) for d in node.decorator_list):
                continue
            if ast.get_docstring(node) is None:
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node, f"{prefix}{node.name}.")


def test_what_is_public_is_documented() -> None:
    assert not [str(file) for file in FILES if not ast.get_docstring(tree_of(file))], "they say nothing"
    assert not [f"{file.relative_to(PACKAGE)}: {name}" for file in FILES for name in undocumented(tree_of(file))]


@pytest.mark.parametrize(("where", "least"), [("ops", 40), ("metrics", 60), ("elsewhere", 15)])
def test_examples_are_true(where: str, least: int) -> None:
    """All examples in docstrings, run in a process of their own."""
    shown = [file for file in FILES if ">>> " in file.read_text(encoding="utf-8")]
    chosen = [file for file in shown if (part(file) if part(file) in ("ops", "metrics") else "elsewhere") == where]
    files = [str(file.relative_to(PACKAGE.parent)) for file in chosen]
    (ended,) = forked(examples, [file.removesuffix(".py").replace(os.sep, ".") for file in files])
    assert ended.code == 0, ended.said
    assert int(ended.said.split()[-1]) >= least


def examples(names: list[str]) -> None:
    results = [doctest.testmod(import_module(name)) for name in names]
    assert not any(result.failed for result in results)
    print(sum(result.attempted for result in results))  # noqa: T201


def without_encoding(tree: ast.AST) -> Iterator[str]:
    """Calls that read or write text and name no encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        receiver = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name not in {"open", "read_text", "write_text"} or receiver in {"Image", "os", "tarfile", "self.archive"}:
            continue
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if name == "open" and any(isinstance(mode, str) and "b" in mode for mode in modes):
            continue
        stated = {keyword.arg for keyword in node.keywords}
        if "encoding" not in stated and not (name == "open" and receiver in {"gallery", "self"}):
            yield ast.unparse(node)


def test_text_is_read_and_written_in_a_stated_encoding() -> None:
    """Without one it would be the locale's, and a caption another one on another machine."""
    assert not [f"{file.relative_to(PACKAGE)}: {call}" for file in FILES for call in without_encoding(tree_of(file))]
    assert list(without_encoding(ast.parse("file.read_text()"))) == ["file.read_text()"], "the control"


WRITING = {
    "write_text", "write_bytes", "savefig", "to_csv", "to_json", "to_parquet", "mkstemp", "NamedTemporaryFile",
    "save_file", "save_pretrained", "save", "dump", "touch", "copy", "copy2", "copyfile", "copytree", "mkfifo",
}  # fmt: skip
"""Methods and functions of libraries that make files."""
WRITERS = {
    "lock.py": "a lock is a file for as long as it is held",
    "audit/writer.py": "records are added to a file's end: its folder is checked for links, its last line is mended",
    "cli.py": "what nobody reads any more goes to the null device",
    "judges/nudity.py": "its detector reads files: they are in a temporary folder of its own",
    "lightning_files.py": "checkpoints are made in memory first",
    "report/figures.py": "figures are made in memory first",
    "storage/files.py": "this is the place",
    "worlds/autoencoder.py": "it is given the path of `whole_folder`",
    "worlds/classification.py": "it is given the path of `whole_folder`",
    "worlds/text_to_image.py": "it is given the path of `whole_folder`",
}
"""Files of this package that do so by themselves, and why they may."""
OWN = {
    "to_csv", "to_json", "record.to_json", "self.parser.dump", "super().dump", "super().save", "self.save",
    "self.info.save", "replace(self.info, metrics=metrics, complete=complete).save",
    "erasure.save",
}  # fmt: skip
"""Calls of this package's own functions, which give text, or are looked at where they stand."""


def opens_for_writing(call: ast.Call) -> bool:
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
    flags = {part.attr for part in ast.walk(call) if isinstance(part, ast.Attribute)}
    return bool(flags & {"O_CREAT", "O_WRONLY", "O_RDWR"}) or any(
        isinstance(mode, str) and set(mode) <= set("rwaxbt+") and bool(set(mode) & set("wax+")) for mode in modes
    )


def writes(tree: ast.AST) -> Iterator[str]:
    """Calls that make a file, or open one for writing, elsewhere than at the path that `whole` or its like gave."""
    given = {
        item.optional_vars.id
        for block in ast.walk(tree)
        if isinstance(block, ast.With)
        for item in block.items
        if isinstance(item.optional_vars, ast.Name) and ast.unparse(item.context_expr).startswith("whole")
    }
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and (called := ast.unparse(call.func)) not in OWN:
            name = called.rsplit(".", 1)[-1]
            used = {part.id for part in ast.walk(call) if isinstance(part, ast.Name)}
            if name in WRITING or (name in {"open", "fdopen"} and opens_for_writing(call)):
                yield from [] if given & used else [ast.unparse(call)]


def test_files_are_written_in_one_place() -> None:
    """There they are whole, behind no link, of the user's mode, and a full disk is named."""
    found = {str(file.relative_to(PACKAGE)): list(writes(tree_of(file))) for file in FILES}
    assert not {file: calls for file, calls in found.items() if bool(calls) != (file in WRITERS)}


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ('open(file, "w")', 1), ('file.open(mode="ab")', 1), ("os.open(file, os.O_RDWR | os.O_CREAT)", 1),
        ('file.write_text(text, encoding="utf-8")', 1), ("image.save(file)", 1), ("table.to_csv(file)", 1),
        ("torch.save(x, file)", 1), ("json.dump(x, stream)", 1), ('open(file, encoding="utf-8")', 0),
        ('file.open("rb")', 0), ("with whole(file) as part:\n    image.save(part)", 0),
        ("with whole(file) as part:\n    image.save(file)", 1), ("with whole_folder(f) as p:\n    x.save(p / 'y')", 0),
    ],
)  # fmt: skip
def test_what_counts_as_writing(code: str, count: int) -> None:
    assert len(list(writes(ast.parse(code)))) == count
