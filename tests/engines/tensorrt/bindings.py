"""TensorRT's published Python bindings, both major releases, without a GPU and without TensorRT itself.

The wheels hold the compiled module alone. It imports once the nine C symbols that it wants from TensorRT's
libraries are stubbed, and mypy's stubgen then reads the signature of every function from it. What comes out are
type stubs, which mypy checks our code against, and which the fake of `tests.engines.tensorrt.fake` is made of.
CUDA's bindings need no such help: they import anywhere.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

from tests.conftest import absent, need_program

TENSORRT = {10: "10.16.1.11", 11: "11.4.0.106"}
"""Release of tensorrt-cu13-bindings by its major version."""

CUDA = {12: "12.9.10", 13: ""}
"""Release of cuda-bindings by its major version; of none that which is installed here."""

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")

SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip

KEPT = platformdirs.user_cache_path("deeplab-stream-tests")
"""The user's own, whatever a test makes of its environment later."""

CUDA_MODULES = ("runtime", "driver", "nvrtc")


def tensorrt_stubs(major: int) -> Path:
    """A directory that holds ``tensorrt/__init__.pyi`` as the release has it; made once, kept in the user's cache."""
    version = TENSORRT[major]
    return _kept(f"tensorrt-{version}", lambda folder: _read_tensorrt(folder, major, version))


def cuda_stubs(major: int) -> Path:
    """A directory that holds ``cuda/bindings/runtime.pyi`` and others as the release has them."""
    if CUDA[major]:
        return _kept(f"cuda-{CUDA[major]}", lambda folder: _read_cuda(folder, CUDA[major]))
    try:
        from cuda.bindings import __version__ as installed
    except ImportError:
        absent("cuda-bindings")
    return _kept(f"cuda-{installed}", lambda folder: _read_cuda(folder, ""))


def _kept(name: str, make: object) -> Path:
    assert callable(make)
    kept = KEPT / f"{name}-{sys.implementation.cache_tag}"
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
            made = Path(temporary) / "stubs"
            made.mkdir()
            make(made)
            try:
                made.rename(kept)
            except OSError:  # another process was faster
                assert kept.is_dir()
    return kept


def _read_tensorrt(folder: Path, major: int, version: str) -> None:
    package = folder.parent / "package"
    download("tensorrt-cu13-bindings", version, package)
    source = package / "stub.c"
    source.write_text("".join(f"void* {symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"  # found beside the module, by its run path
        command = [need_program("cc"), "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", name, "stub.c"]
        subprocess.run(command, cwd=package, check=True, timeout=60)
        shutil.copy(package / name, package / "tensorrt_bindings")
    _stubgen("tensorrt_bindings.tensorrt", folder, package)
    (folder / "tensorrt").mkdir()
    lines = (folder / "tensorrt_bindings" / "tensorrt.pyi").read_text().splitlines()
    shutil.rmtree(folder / "tensorrt_bindings")
    text = "\n".join(map(_readable, lines))
    (folder / "tensorrt" / "__init__.pyi").write_text(f"{text}\n__version__: str\n")


def _readable(line: str) -> str:
    """A line of stubs that mypy can use.

    pybind11 tells of a parameter without a default after one with: any parameters are taken there.  The type of
    elements that is called ``bool`` would hide Python's own.
    """
    if line.startswith("bool:"):
        return ""
    try:
        ast.parse(line.strip() if line.strip().startswith("def ") else "")
    except SyntaxError:
        return line[: line.index("(")] + "(self, *args: object, **kwargs: object): ..."
    return line


# Cython's functions tell their parameters to `inspect`, but not to stubgen.
_TELL_CUDA = """
import enum, importlib, inspect, sys
module = importlib.import_module(sys.argv[1])
print("from typing import Any")
for name, value in vars(module).items():
    if name.startswith("_") or name == "Any":
        continue
    if isinstance(value, type):
        print(f"class {name}:")
        if issubclass(value, int) or hasattr(value, "__members__"):
            print("    def __int__(self) -> int: ...")
            kind = name
        else:
            print("    def __init__(self, *args: Any) -> None: ...\\n    def __int__(self) -> int: ...")
            kind = "Any"
        for member in dir(value):
            if not member.startswith("_") and member.isidentifier():
                print(f"    {member}: {kind}")
    elif isinstance(value, int):
        print(f"{name}: int")
    elif callable(value):
        names = list(inspect.signature(value).parameters)
        print(f"def {name}({', '.join(n + ': Any' for n in names)}) -> tuple[Any, ...]: ...")
"""


def _read_cuda(folder: Path, version: str) -> None:
    package = folder.parent / "package"
    if version:
        download("cuda-bindings", version, package)
    target = folder / "cuda" / "bindings"
    target.mkdir(parents=True)
    for module in CUDA_MODULES:
        told = _run([sys.executable, "-c", _TELL_CUDA, f"cuda.bindings.{module}"], package)
        (target / f"{module}.pyi").write_text(told)
    for part in (target, target.parent):
        (part / "__init__.pyi").touch()


def download(project: str, version: str, package: Path) -> None:
    """Unpack what a published wheel holds into a directory; where it cannot be had the test is skipped."""
    wheels = package / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(wheels), f"{project}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        absent(f"{project} {version} ({done.stderr.strip().splitlines()[-1:]})")
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(package)
    wheel.unlink()


def _stubgen(module: str, folder: Path, package: Path) -> None:
    command = [sys.executable, "-c", "from mypy.stubgen import main; main()"]
    _run([*command, "--inspect-mode", "--quiet", "-m", module, "-o", str(folder)], package)


def _run(command: list[str], package: Path) -> str:
    """What a command says that finds the modules of ``package`` first."""
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
