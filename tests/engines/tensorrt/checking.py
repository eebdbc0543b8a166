"""Our sources checked by mypy against the type stubs of the published bindings."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.engines.tensorrt.bindings import cuda_stubs, tensorrt_stubs

ROOT = Path(__file__).parents[3]

SOURCES = tuple(
    ROOT / "engines" / "backends" / name
    for name in ("tensorrt.py", "nvidia/building.py", "nvidia/cuda.py", "nvidia/lanes.py", "nvidia/kernels.py")
)
"""All that speaks to TensorRT or CUDA."""

RELEASES = ((10, 12), (11, 13))
"""Major versions of TensorRT and of CUDA's bindings that are checked together."""

_SETTINGS = """\
[mypy]
follow_imports = silent
ignore_missing_imports = True
[mypy-tensorrt.*,cuda.*]
ignore_errors = True
"""


def complaints(sources: Mapping[str, str], releases: tuple[int, int], folder: Path) -> list[str]:
    """What mypy says of sources by their names, each a module of its own, against two major versions' bindings."""
    files = []
    for name, text in sources.items():
        path = folder / name
        path.write_text(text)
        files.append(path.name)
    settings = folder / "mypy.ini"
    settings.write_text(_SETTINGS)
    stubs = [tensorrt_stubs(releases[0]), cuda_stubs(releases[1])]
    command = [sys.executable, "-m", "mypy", "--config-file", settings.name, "--explicit-package-bases"]
    command += ["--cache-dir", str(stubs[0].parent / f"mypy-{releases[0]}"), "--no-error-summary", *files]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"MYPYPATH": os.pathsep.join(map(str, (*stubs, ROOT)))},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@dataclass(frozen=True, slots=True)
class Use:
    """A name of the bindings' in a source.

    Attributes:
        source: name of the file.
        line: counted from 1.
        start, end: columns of the name, in bytes.
    """

    source: str
    line: int
    start: int
    end: int


def misspelt(text: str, use: Use) -> str:
    """The source with one name misspelt."""
    lines = text.splitlines()
    line = lines[use.line - 1].encode()
    lines[use.line - 1] = (line[: use.end] + b"_" + line[use.end :]).decode()
    return "\n".join(lines) + "\n"


def uses(source: str, text: str, roots: Iterable[str], known: frozenset[str]) -> list[Use]:
    """Attributes and keywords of a source that are names of the bindings'.

    Args:
        source: name of the file.
        text: the source.
        roots: names that are the bindings' modules there: any attribute of theirs counts.
        known: names that classes of the bindings have.
    """
    found = []
    roots = frozenset(roots)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.end_lineno and node.end_col_offset:
            of_module = isinstance(node.value, ast.Name) and node.value.id in roots
            own = isinstance(node.value, ast.Name) and node.value.id == "self"
            if of_module or (node.attr in known and not own):
                end = node.end_col_offset
                found.append(Use(source, node.end_lineno, end - len(node.attr.encode()), end))
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in known:
                    start = keyword.col_offset
                    found.append(Use(source, keyword.lineno, start, start + len(keyword.arg.encode())))
    return found


def members(stub: Path) -> frozenset[str]:
    """Names of methods, attributes and parameters of the classes in a stub."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    names.add(item.name)
                    names.update(argument.arg for argument in (*item.args.args, *item.args.kwonlyargs))
                elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    names.add(item.target.id)
    return frozenset(name for name in names if not name.startswith("__")) - {"self"}
