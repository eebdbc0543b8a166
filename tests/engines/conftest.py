"""What every test of engines may ask for: the real networks, a server."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from engines.backends import ON_GPU, has_nvidia_driver, open_engine
from engines.base import MissingEngineError, Model
from engines.zoo import load_model
from tests.engines.camvid_like import write_pictures
from tests.engines.serving import PUBLISHED, Server, point_at

if TYPE_CHECKING:
    from tests.engines.small_network import Exported


class Models(dict[str, Model]):
    """Real networks, and on demand any network of the registry, exported: "NAME" whole, "narrow NAME" at an eighth."""

    def __init__(self, folder: Path, known: dict[str, Model]) -> None:
        super().__init__(known)
        self.folder = folder

    def __missing__(self, name: str) -> Model:
        from tests.engines.networks_like import export_network

        self[name] = export_network(name.removeprefix("narrow "), self.folder, narrow=name.startswith("narrow "))
        return self[name]


@pytest.fixture(scope="session")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """The real networks: V3+ at stride 4 with a decoder, and V3 at stride 16; others when they are asked for."""
    home = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        known = {
            "street": load_model("street"),
            "voc": load_model("voc", weights_dir=data / "weights"),
        }
    return Models(tmp_path_factory.mktemp("networks"), known)


@pytest.fixture(autouse=True)
def _gpu_for_its_backends(request: pytest.FixtureRequest) -> None:
    """Backends of GPUs are tested where they are installed; with REQUIRE_GPU=1 there must be a GPU."""
    callspec = getattr(request.node, "callspec", None)
    backend = callspec.params.get("backend") if callspec else None
    if backend not in ON_GPU or backend == "tensorrt":  # of which there are fakes
        return
    if not has_nvidia_driver():
        absent_gpu("no NVIDIA driver is loaded")
    if why := why_not(backend):
        pytest.skip(why)


def absent_gpu(why: str) -> NoReturn:
    """Skip a test of GPUs; with REQUIRE_GPU=1 it fails."""
    if os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail(f"REQUIRE_GPU is set, and {why}")
    pytest.skip(why)


@cache
def why_not(backend: str) -> str:
    """Why a backend cannot be used here; empty where it can."""
    try:
        open_engine(load_model("street"), backend).close()
    except MissingEngineError as error:
        return str(error)
    return ""


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("engines.fetch.PAUSE_S", 0.01)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.does.go_on.set()
        server.shutdown()
        thread.join(10)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a cache, a weights directory or a proxy, for whom the real server does not exist."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("DEEPLAB_STREAM_WEIGHTS", *PROXIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("engines.fetch.PAUSE_S", 0.01)
    point_at("https://weights.invalid/net.tflite", monkeypatch)
    return tmp_path


@pytest.fixture
def publisher(home: Path, server: Server, data: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that has the published file, where ``voc`` comes from."""
    server.does.body = (data / "weights" / PUBLISHED).read_bytes()
    point_at(server.url, monkeypatch)
    return server


@pytest.fixture
def one_thread() -> None:
    """Tiny maps gain nothing by threads, and lose much where other tests run beside."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labelled pictures (`camvid_like.write_pictures`), and a network ``tiny`` to learn them."""
    from engines.networks import NETWORKS
    from tests.engines.small_network import SPEC

    monkeypatch.setitem(NETWORKS, "tiny", SPEC)
    return write_pictures(tmp_path / "data")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A small network, as ``export`` writes it; made once, since torch needs seconds for that."""
    from tests.engines.small_network import export_small

    return export_small(tmp_path_factory.mktemp("export"))
