"""Every name, enum and argument of TensorRT and CUDA that we use is in the bindings that they publish."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.engines.tensorrt.bindings import tensorrt_stubs
from tests.engines.tensorrt.checking import RELEASES, SOURCES, complaints, members, misspelt, uses

pytestmark = pytest.mark.timeout(300)

both = pytest.mark.parametrize("releases", RELEASES, ids=lambda pair: f"TensorRT {pair[0]}, CUDA {pair[1]}")


@both
def test_all_that_is_used_is_there(releases: tuple[int, int], tmp_path: Path) -> None:
    assert complaints({f"our_{path.name}": path.read_text() for path in SOURCES}, releases, tmp_path) == []


MISTAKES = {
    "a method": ("set_timing_cache(", "set_time_cache("),
    "an enumerator": ("BuilderFlag.TF32", "BuilderFlag.TF23"),
    "an enumerator that has gone": ("BuilderFlag.TF32", "BuilderFlag.FP61"),
    "a keyword": ("ignore_mismatch=", "ignore_mismatches="),
    "an attribute that is set": ("config.progress_monitor =", "config.progress_monitors ="),
    "an attribute's type": ("config.progress_monitor = progress", "config.progress_monitor = 3"),
    "an argument's type": ("config.add_optimization_profile(profile)", "config.add_optimization_profile(network)"),
    "an argument too many": ("builder.create_builder_config()", "builder.create_builder_config(network)"),
    "a method that is called back": (
        "def phase_start(self, phase_name: str, parent_phase: str,",
        "def phase_start(self, phase_name: str, parent_phase: int,",
    ),
    "a function of CUDA's": ("runtime.cudaStreamBeginCapture(", "runtime.cudaStreamStartCapture("),
    "an argument too few": ("runtime.cudaGraphInstantiate(recorded, 0)", "runtime.cudaGraphInstantiate(recorded)"),
    "a constant of CUDA's": ("cudaHostRegisterPortable", "cudaHostRegisterMovable"),
    "a field": (".totalGlobalMem", ".totalMem"),
}


@both
def test_mistakes_are_found(releases: tuple[int, int], tmp_path: Path) -> None:
    texts = {path.name: path.read_text() for path in SOURCES}
    copies = {}
    for index, (right, wrong) in enumerate(MISTAKES.values()):
        (source,) = (name for name, text in texts.items() if right in text)
        copies[f"mistake{index}.py"] = texts[source].replace(right, wrong, 1)
    told = complaints(copies, releases, tmp_path)
    missed = [what for index, what in enumerate(MISTAKES) if not any(f"mistake{index}.py:" in line for line in told)]
    assert missed == [], told


@pytest.mark.slow
@both
def test_no_name_can_be_misspelt(releases: tuple[int, int], tmp_path: Path) -> None:
    """Each use of each name is misspelt once: none is hidden from the check by a value of unknown type."""
    known = members(tensorrt_stubs(releases[0]) / "tensorrt" / "__init__.pyi")
    copies, where = {}, {}
    for path in SOURCES:
        text = path.read_text()
        for use in uses(path.name, text, ("trt", "runtime", "driver", "nvrtc"), known):
            name = f"copy{len(copies)}.py"
            copies[name] = misspelt(text, use)
            where[name] = f"{use.source}:{use.line}: {text.splitlines()[use.line - 1].strip()}"
    assert len(copies) > 100
    told = complaints(copies, releases, tmp_path)
    found = {match[0] for line in told if (match := re.match(r"copy\d+\.py", line))}
    missed = [where[name] for name in copies if name not in found]
    assert missed == [], "\n".join(missed)
