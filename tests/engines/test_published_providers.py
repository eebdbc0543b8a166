"""Our options before ONNX Runtime's own providers, which are fetched for it: PUBLISHED_PROVIDERS=1 and 400 MB."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from engines.backends.providers import CUDA, PROVIDERS, RTX, TENSORRT, Provider
from engines.zoo import load_model
from tests.conftest import need_program
from tests.engines.published_providers import Published, publish
from tests.engines.test_onnxruntime_gpu import PRECISIONS, known_options

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.environ.get("PUBLISHED_PROVIDERS") != "1", reason="PUBLISHED_PROVIDERS=1 fetches 400 MB"),
]

REFUSED = re.compile(
    r"[Uu]nknown provider option|Invalid TensorRT EP option|Failed to parse provider option|should be '"
)

built_in = pytest.mark.parametrize("provider", [CUDA, TENSORRT], ids=lambda provider: provider.backend)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("providers"))


@built_in
def test_every_option_and_value_is_taken(provider: Provider, published: Published, tmp_path: Path) -> None:
    model = load_model("street").path
    given = {pair for precision in PRECISIONS for pair in provider.options(precision, tmp_path).items()}
    assert len(given) > 4
    for option, value in given:
        told = published.told(provider.name, {option: value}, model)
        assert not REFUSED.search(told), told


@built_in
def test_a_misspelt_option_is_not(provider: Provider, published: Published, tmp_path: Path) -> None:
    for option, value in provider.options("fp16", tmp_path).items():
        told = published.told(provider.name, {f"{option}_": value}, load_model("street").path)
        assert REFUSED.search(told), told
        assert f"{option}_" in told


TAKEN = """
import logging, sys
from engines.backends.nvidia.typed_graph import typed_graph
from engines.backends.onnxruntime_gpu import provider_network
from engines.backends.providers import CUDA
from engines.zoo import load_model
logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
model = load_model("street")
for precision, batch in (("fp32", 1), ("fp16", 1), ("fp16", 4)):
    graph = typed_graph(model, precision, (96, 128), batch)
    network = provider_network(CUDA, graph, CUDA.options(precision, None), model.name)
    print(precision, batch, network.get_providers()[0], network.get_provider_options()[CUDA.name]["enable_cuda_graph"])
"""


def test_cuda_takes_all_of_the_network_and_records_it(published: Published) -> None:
    """No warning of an operator on the CPU, and none of a network that runs without a CUDA graph."""
    done = published.run(TAKEN)
    told = [f"{each} CUDAExecutionProvider 1" for each in ("fp32 1", "fp16 1", "fp16 4")]
    assert done.stdout.splitlines() == told, done.stderr


LEFT_OUT = """
import sys
from engines.backends import open_engine
from engines.zoo import load_model
for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
    try:
        print(open_engine(load_model("street"), name).info)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_provider_without_its_libraries_is_an_error_that_names_them(published: Published) -> None:
    """ONNX Runtime itself prints a warning in colour and computes on the CPU."""
    done = published.run(LEFT_OUT, stubs=False)
    assert done.stderr == ""
    cuda, tensorrt = done.stdout.splitlines()
    for line, library in ((cuda, r"libcu\w+\.so"), (tensorrt, r"lib(cu\w+|nv\w+)\.so")):
        assert re.match(rf"MissingEngineError ONNX Runtime's \w+ provider cannot be loaded \({library}", line), line
        assert "pip install 'deeplab-stream[onnxruntime-gpu]'" in line


def test_the_list_of_options_is_theirs(published: Published) -> None:
    for provider in (CUDA, TENSORRT):
        command = [need_program("strings"), "-n", "5", str(published.library(provider.library))]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert known_options(provider) <= set(told.splitlines())
    header = next(published.packages.rglob("tensorrt_rtx_provider_options.h")).read_text()
    _, _, names = header.partition("namespace provider_option_names")
    names, _, _ = names.partition("}  // namespace provider_option_names")
    assert known_options(RTX) == set(re.findall(r'constexpr const char\* \w+ = "(\w+)"', names))
    assert set(PROVIDERS.values()) == {CUDA, TENSORRT, RTX}
