"""ONNX Runtime's published libraries for GPUs, loaded where there is no GPU, so that they themselves judge our options.

They load once the libraries of CUDA's and TensorRT's that they want are there. Those made here have all the symbols
that are asked for; nearly all do nothing and succeed, memory "on the GPU" is the process's own, and TensorRT ends the
process as soon as it shall build something: by then the options have been read.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import need_program
from tests.engines.tensorrt.bindings import download

ROOT = Path(__file__).parents[2]

ORT, RTX = ("onnxruntime-gpu", "1.31.1"), ("onnxruntime-ep-nv-tensorrt-rtx-cu13", "0.5.0")
"""Published projects and their releases: 256 and 146 MB."""

ACCEPTED = 42
"""How a process ends when TensorRT is asked to build."""

BODIES = {
    "cudaGetDeviceCount": "*(int*)a = 1;",
    "cudaMalloc": "*(void**)a = malloc((long)b + 1);",
    "cudaHostAlloc": "*(void**)a = malloc((long)b + 1);",
    "cudaMallocHost": "*(void**)a = malloc((long)b + 1);",
    "cudaFree": "free(a);",
    "cudaFreeHost": "free(a);",
    "cudaMemcpy": "memcpy(a, b, (long)c);",
    "cudaMemcpyAsync": "memcpy(a, b, (long)c);",
    "cudaStreamCreateWithFlags": "*(void**)a = &zero;",
    "cudaEventCreateWithFlags": "*(void**)a = &zero;",
    "cudaMemGetInfo": "*(long*)a = *(long*)b = 1L << 33;",
    "createInferBuilder_INTERNAL": f"_exit({ACCEPTED});",
    "createInferRuntime_INTERNAL": f"_exit({ACCEPTED});",
    "getInferLibVersion": "return 101600;",
    "getPluginRegistry": "return (long)&registry;",
}
"""What functions do that do something."""

PREAMBLE = """\
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static long zero;
static long none(void* self, int* count) { if (count) *count = 0; return 0; }
static void* table[64];
static struct { void** methods; } registry = { table };
__attribute__((constructor)) static void fill(void) { for (int i = 0; i < 64; ++i) table[i] = none; }
"""

TELL = """
import json, sys
import onnxruntime
name, options, model = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
onnxruntime.set_default_logger_severity(4)
try:
    session = onnxruntime.InferenceSession(model, providers=[(name, options)], enable_fallback=0)
    print(session.get_providers()[0])
except Exception as error:
    print(" ".join(str(error).split()))
"""


@dataclass(frozen=True, slots=True)
class Published:
    """The published packages.

    Attributes:
        packages: directory to import them from.
        stubs: directory of the libraries that they want.
    """

    packages: Path
    stubs: Path

    def library(self, name: str) -> Path:
        """A library of ONNX Runtime's."""
        return self.packages / "onnxruntime" / "capi" / name

    def run(self, program: str, *words: str, stubs: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Python with ONNX Runtime's build for GPUs."""
        path = os.pathsep.join(map(str, (self.packages, ROOT)))
        environment = os.environ | {"PYTHONPATH": path, "LD_LIBRARY_PATH": str(self.stubs) if stubs else ""}
        command = [sys.executable, "-c", program, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)

    def told(self, provider: str, options: dict[str, str], model: Path) -> str:
        """What a provider says of options; empty where TensorRT went on to build."""
        done = self.run(TELL, provider, json.dumps(options), str(model))
        assert done.returncode in (0, ACCEPTED), done.stderr
        return done.stdout.strip()


def publish(folder: Path) -> Published:
    """Fetch and unpack the packages, and make what they want."""
    published = Published(folder / "packages", folder / "stubs")
    for project, version in (ORT, RTX):
        download(project, version, published.packages)
    published.stubs.mkdir()
    wanted: dict[str, set[str]] = defaultdict(set)
    for name in ("cuda", "tensorrt"):
        for library, symbol in _wants(published.library(f"libonnxruntime_providers_{name}.so")):
            wanted[library].add(symbol)
    for library, symbols in wanted.items():
        _make(library, symbols - {""}, published.stubs)
    return published


def _wants(library: Path) -> list[tuple[str, str]]:
    """Libraries of NVIDIA's that a library wants, with the symbols that it wants of each."""
    told = subprocess.run(
        [need_program("readelf"), "--wide", "--dynamic", "--dyn-syms", str(library)],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    libraries = [name for name in re.findall(r"NEEDED.*\[(.*)\]", told) if name.startswith(("libcu", "libnv"))]
    found = [(library, "") for library in libraries]
    for symbol in re.findall(r" UND (\S+)", told):
        name, _, version = symbol.partition("@")
        if version in libraries:
            found.append((version, name))
        elif not version and name.startswith(("cu", "create", "getInfer", "getPlugin")):
            of = "libcuda." if name.startswith("cu") else "libnvinfer."
            found += [(library, name) for library in libraries if library.startswith(of)]
    return found


def _make(library: str, symbols: set[str], folder: Path) -> None:
    functions = (f"long {name}(void* a, void* b, void* c) {{ {BODIES.get(name, '')} return 0; }}" for name in symbols)
    source, versions = folder / "stub.c", folder / "versions"
    source.write_text("\n".join((PREAMBLE, *functions, "")))
    versions.write_text(f"{library} {{ global: *; }};")
    versioned = library.startswith(("libcudart", "libcublas", "libcudnn"))
    command = [need_program("cc"), "-shared", "-fPIC", "-w", f"-Wl,-soname,{library}", "-o", str(folder / library)]
    command += [f"-Wl,--version-script={versions}"] if versioned else []
    subprocess.run([*command, str(source)], check=True, timeout=60)
