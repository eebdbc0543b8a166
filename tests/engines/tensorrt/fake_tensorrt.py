"""TensorRT that is none: its classes have the methods, parameters and attributes of the published ones, and no others.

Networks are run by ONNX Runtime, as work of a stream of `FakeCuda`, with the typed graph that the builder was given.
"""

from __future__ import annotations

import ast
import enum
import json
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from inspect import Parameter, Signature
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.engines.tensorrt.fake_cuda import FakeCuda

PLAIN = {"str": str, "bool": bool, "int": int, "float": float, "tuple": tuple, "list": list}
PHASES = ("Building", "Tactics")
WORK_BYTES = 4096


def fake_tensorrt(stub: Path, version: str, cuda: FakeCuda) -> ModuleType:
    """A module as ``tensorrt``; ``module.log`` lists what was called, as (class, method, arguments)."""
    module = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)  # libraries look whether it is there
    module.__version__ = version  # type: ignore[attr-defined]
    module.cuda, module.log, module.faults = cuda, [], {}  # type: ignore[attr-defined]
    classes = {
        node.name: node for node in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
    }
    for name, node in classes.items():
        setattr(module, name, _make(module, name, node))
    return module


def _make(module: ModuleType, name: str, node: ast.ClassDef) -> type:
    """A class of the stub's: an enum, or one whose methods do what `DOES` says."""
    members = [
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    if "__members__" in members:
        return enum.IntEnum(name, [member for member in members if not member.startswith("__")], start=0)
    signatures: dict[str, list[tuple[Signature, list[str]]]] = {}
    readable: set[str] = set()
    inner = {}
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            if any(isinstance(mark, ast.Name) and mark.id == "property" for mark in item.decorator_list):
                readable.add(item.name)
            elif not item.name.startswith("__") or (name, item.name) in DOES or item.name == "__init__":
                signatures.setdefault(item.name, []).append(_signature(item))
        elif isinstance(item, ast.ClassDef):
            inner[item.name] = _make(module, item.name, item)
    namespace: dict[str, Any] = {method: _method(module, name, method, found) for method, found in signatures.items()}
    namespace |= inner | {"_settable": frozenset(members), "_readable": readable}
    namespace["__setattr__"], namespace["__getattr__"] = _set, _get
    if name == "IHostMemory":
        namespace["__bytes__"] = lambda self: self._data  # in the place of the buffer protocol
    return type(name, (), namespace)


def _signature(item: ast.FunctionDef) -> tuple[Signature, list[str]]:
    """Parameters after ``self``, and the names of their types."""
    arguments = item.args.args[1:]
    first_default = len(arguments) - len(item.args.defaults)
    parameters = [
        Parameter(arg.arg, Parameter.POSITIONAL_OR_KEYWORD, default=None if i >= first_default else Parameter.empty)
        for i, arg in enumerate(arguments)
    ]
    if item.args.vararg:
        parameters.append(Parameter("args", Parameter.VAR_POSITIONAL))
        parameters.append(Parameter("kwargs", Parameter.VAR_KEYWORD))
    kinds = [ast.unparse(arg.annotation).rpartition(".")[2] if arg.annotation else "" for arg in arguments]
    return Signature(parameters), kinds


def _method(module: ModuleType, owner: str, name: str, found: list[tuple[Signature, list[str]]]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        for signature, kinds in found:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                continue
            if all(_fits(module, value, kind) for value, kind in zip(bound.args, kinds, strict=False)):
                break
        else:
            raise TypeError(f"{owner}.{name}: incompatible function arguments: {args} {kwargs}")
        if name != "__init__":
            module.log.append((owner, name, bound.args))  # type: ignore[attr-defined]
        does = DOES.get((owner, name))
        assert does is not None or name == "__init__", f"the fake does not do {owner}.{name}"
        return does(module, self, *bound.args) if does else None

    return call


def _fits(module: ModuleType, value: Any, kind: str) -> bool:
    if kind in ("SupportsInt", "SupportsIndex"):
        return hasattr(value, "__int__") and not isinstance(value, str)
    if kind == "Buffer":
        return isinstance(value, bytes | bytearray | memoryview)
    wanted = PLAIN.get(kind) or getattr(module, kind, None)
    return not isinstance(wanted, type) or isinstance(value, wanted)


def _set(self: Any, name: str, value: Any) -> None:
    derived = "_settable" not in type(self).__dict__  # a class of ours, with attributes of its own
    assert derived or name.startswith("_") or name in self._settable, f"{type(self).__name__} has no attribute {name!r}"
    object.__setattr__(self, name, value)


def _get(self: Any, name: str) -> Any:
    if name in type(self)._readable or name in type(self)._settable:
        reads = READS.get((type(self).__name__, name))
        assert reads is not None, f"the fake does not tell {type(self).__name__}.{name}"
        return reads(self)
    raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _bare(module: ModuleType, name: str, **values: Any) -> Any:
    thing = object.__new__(getattr(module, name))
    for key, value in values.items():
        object.__setattr__(thing, f"_{key}", value)
    return thing


def _keep(**names: int) -> Callable[..., Any]:
    """An initialiser that keeps its arguments."""

    def does(module: ModuleType, self: Any, *args: Any) -> None:
        for name, index in names.items():
            object.__setattr__(self, f"_{name}", args[index])

    return does


def _dims(module: ModuleType, self: Any, shape: Iterable[int] = ()) -> None:
    self._sides = tuple(int(side) for side in shape)


def _builder(module: ModuleType, self: Any, logger: Any) -> None:
    if "builder" in module.faults:  # type: ignore[attr-defined]
        logger.log(module.ILogger.Severity.ERROR, module.faults["builder"])  # type: ignore[attr-defined]
        raise TypeError("pybind11::init(): factory function returned nullptr")
    self._logger = logger


def _parse(module: ModuleType, self: Any, model: bytes, path: str | None = None) -> bool:
    try:
        proto = onnx.load_model_from_string(model)
        onnx.checker.check_model(proto)
    except Exception as error:
        self._errors = [str(error)]
        return False
    self._network._onnx = model
    self._network._inputs = [value.name for value in proto.graph.input]
    return True


def _build(module: ModuleType, self: Any, network: Any, config: Any) -> Any:
    """Tell of phases, be called off by a step, and keep in the plan all that it was given."""
    monitor = config.__dict__.get("progress_monitor")
    outer, inner = PHASES
    fault = module.faults.get("build")  # type: ignore[attr-defined]
    monitor.phase_start(outer, "", 2)
    monitor.phase_start(inner, outer, 20)
    for step in range(20):
        if callable(fault):
            fault(step)
        if not monitor.step_complete(inner, step):
            monitor.phase_finish(inner)
            monitor.phase_finish(outer)
            return None
    monitor.phase_finish(inner)
    monitor.step_complete(outer, 0)
    monitor.phase_finish(outer)
    if isinstance(fault, str):
        self._logger.log(module.ILogger.Severity.ERROR, fault)
        return None
    (profile,) = config._profiles
    try:
        _run_once(network._onnx, {name: shapes[0]._sides for name, shapes in profile._shapes.items()})
    except Exception:  # ONNX Runtime's have no common class
        self._logger.log(module.ILogger.Severity.ERROR, "IShuffleLayer Reshape_0: reshaping failed")
        return None
    header = {
        "shapes": {name: [list(dims._sides) for dims in shapes] for name, shapes in profile._shapes.items()},
        "flags": sorted(config.__dict__.get("_flags", ())), "cleared": sorted(config.__dict__.get("_cleared", ())),
        "hardware": getattr(config.__dict__.get("hardware_compatibility_level"), "name", ""), "network": network._flags,
    }  # fmt: skip
    return _bare(module, "IHostMemory", data=b"PLAN" + json.dumps(header).encode() + b"\n" + network._onnx)


def _run_once(graph: bytes, shapes: dict[str, tuple[int, ...]]) -> None:
    """See that a network can be run at all, as whoever times its layers does."""
    session = _session(graph)
    blanks = {one.name: np.zeros(shapes[one.name], np.dtype(TYPES[one.type])) for one in session.get_inputs()}
    session.run(None, blanks)


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _flag(name: str) -> Callable[..., Any]:
    def does(module: ModuleType, self: Any, flag: Any) -> None:
        object.__setattr__(self, name, {*self.__dict__.get(name, ()), flag.name})

    return does


def _add_profile(module: ModuleType, self: Any, profile: Any) -> int:
    self._profiles = [*self.__dict__.get("_profiles", ()), profile]
    return len(self._profiles) - 1


def _set_shape(module: ModuleType, self: Any, name: str, *shapes: Any) -> None:
    self._shapes = {**self.__dict__.get("_shapes", {}), name: shapes}


def _deserialise(module: ModuleType, self: Any, plan: Any) -> Any:
    if not bytes(plan).startswith(b"PLAN"):
        self._logger.log(module.ILogger.Severity.ERROR, "Serialization assertion failed: magic tag does not match")
        return None
    header, _, graph = bytes(plan)[4:].partition(b"\n")
    return _bare(module, "ICudaEngine", session=_session(graph), header=json.loads(header), runtime=self)


def _context(module: ModuleType, self: Any, strategy: Any = None) -> Any:
    assert strategy == module.ExecutionContextAllocationStrategy.USER_MANAGED  # type: ignore[attr-defined]
    if "context" in module.faults:  # type: ignore[attr-defined]
        self._runtime._logger.log(module.ILogger.Severity.ERROR, module.faults["context"])  # type: ignore[attr-defined]
        return None
    return _bare(module, "IExecutionContext", engine=self, addresses={}, shapes={}, memory=None)


def _set_memory(module: ModuleType, self: Any, at: int, size: int) -> None:
    self._memory = (at, size)


def _set_input_shape(module: ModuleType, self: Any, name: str, shape: Any) -> bool:
    smallest, _, largest = self._engine._header["shapes"][name]
    sides = shape._sides
    if not all(low <= side <= high for low, side, high in zip(smallest, sides, largest, strict=True)):
        return False
    self._shapes[name] = sides
    return True


def _tensor_shape(module: ModuleType, self: Any, name: str) -> Any:
    (picture,) = self._engine._session.get_inputs()
    blank = np.zeros(self._shapes[picture.name], np.dtype(TYPES[picture.type]))
    (scores,) = self._engine._session.run([name], {picture.name: blank})
    return module.Dims(scores.shape)  # type: ignore[attr-defined]


TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


def _execute(module: ModuleType, self: Any, handle: Any) -> bool:
    """Give the network to a stream; contexts share no memory while they run, and keep their shapes in a recording."""
    cuda: FakeCuda = module.cuda  # type: ignore[attr-defined]
    if "execute" in module.faults:  # type: ignore[attr-defined]
        raise AssertionError(module.faults["execute"])  # type: ignore[attr-defined]
    session, addresses, shapes = self._engine._session, dict(self._addresses), dict(self._shapes)
    (picture,), (scores,) = session.get_inputs(), session.get_outputs()
    work_at, work_size = self._memory
    dtype = np.dtype(TYPES[picture.type])
    recording = cuda.stream(handle).recording is not None
    if recording and "recording" in module.faults:  # type: ignore[attr-defined]
        module.faults["recording"]()  # type: ignore[attr-defined]
    if recording and module.faults.get("capture"):  # type: ignore[attr-defined]
        self._engine._runtime._logger.log(module.ILogger.Severity.ERROR, "operation not permitted")  # type: ignore[attr-defined]
        return False

    def work() -> None:
        shape = shapes[picture.name]
        cuda.view(work_at, work_size).fill(1)
        given = cuda.view(addresses[picture.name], int(np.prod(shape)) * dtype.itemsize)
        (found,) = session.run([scores.name], {picture.name: given.view(dtype).reshape(shape).copy()})
        assert found.dtype == np.dtype(TYPES[scores.type])
        cuda.view(addresses[scores.name], found.nbytes)[:] = found.reshape(-1).view(np.uint8)

    cuda.stream(handle).give(work)
    return True


def _assign(name: str) -> Callable[..., Any]:
    def does(module: ModuleType, self: Any, key: str, value: int) -> bool:
        getattr(self, name)[key] = int(value)
        return True

    return does


DOES: dict[tuple[str, str], Callable[..., Any]] = {
    ("Dims", "__init__"): _dims,
    ("Dims", "__len__"): lambda module, self: len(self._sides),
    ("Dims", "__getitem__"): lambda module, self, index: self._sides[index],
    ("ILogger", "log"): lambda module, self, severity, msg: None,
    ("Builder", "__init__"): _builder,
    ("Builder", "create_network"): lambda module, self, flags=0: _bare(module, "INetworkDefinition", flags=int(flags)),
    ("Builder", "create_builder_config"): lambda module, self: _bare(module, "IBuilderConfig"),
    ("Builder", "create_optimization_profile"): lambda module, self: _bare(module, "IOptimizationProfile"),
    ("Builder", "build_serialized_network"): _build,
    ("OnnxParser", "__init__"): _keep(network=0, logger=1),
    ("OnnxParser", "parse"): _parse,
    ("OnnxParser", "get_error"): lambda module, self, index: _bare(module, "ParserError", text=self._errors[index]),
    ("ParserError", "desc"): lambda module, self: self._text,
    ("INetworkDefinition", "get_input"): lambda module, self, i: _bare(module, "ITensor", label=self._inputs[i]),
    ("IOptimizationProfile", "set_shape"): _set_shape,
    ("IBuilderConfig", "add_optimization_profile"): _add_profile,
    ("IBuilderConfig", "set_flag"): _flag("_flags"),
    ("IBuilderConfig", "clear_flag"): _flag("_cleared"),
    ("IBuilderConfig", "create_timing_cache"): lambda module, self, data: (
        None if data == b"broken" else _bare(module, "ITimingCache", data=data)
    ),
    ("IBuilderConfig", "set_timing_cache"): lambda module, self, cache, mismatch: cache._data in (b"", b"times"),
    ("ITimingCache", "serialize"): lambda module, self: _bare(module, "IHostMemory", data=b"times"),
    ("Runtime", "__init__"): _keep(logger=0),
    ("Runtime", "deserialize_cuda_engine"): _deserialise,
    ("ICudaEngine", "create_execution_context"): _context,
    ("IExecutionContext", "set_device_memory"): _set_memory,
    ("IExecutionContext", "set_input_shape"): _set_input_shape,
    ("IExecutionContext", "get_tensor_shape"): _tensor_shape,
    ("IExecutionContext", "set_tensor_address"): _assign("_addresses"),
    ("IExecutionContext", "execute_async_v3"): _execute,
}  # fmt: skip

READS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("ITensor", "name"): lambda self: self._label,
    ("OnnxParser", "num_errors"): lambda self: len(self._errors),
    ("ICudaEngine", "device_memory_size_v2"): lambda self: WORK_BYTES,
}
