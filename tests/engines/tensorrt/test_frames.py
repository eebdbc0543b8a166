"""Frames as they were decoded into TensorRT's engine, labels out of it; on fakes, and the same on a GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from engines.base import EngineError, EngineOptions, FrameMap, FrameSession, Model, PageLocking, RawFrame
from pipeline.frame import Colour, Geometry
from pipeline.stages.colour import yuv_to_rgb
from pipeline.stages.upsample import upsample_argmax
from tests.engines.support import WAIT_S, open_engine_for, score
from tests.engines.tensorrt.conftest import Machine
from tests.engines.tensorrt.test_pixels import by_kernel, decoded

pytestmark = pytest.mark.timeout(600)  # a real plan takes its time

SIZE = (32, 48)


@pytest.mark.parametrize("layout", ["nv12", "yuv420p", "p010le", "yuv422p10le", "rgb24"])
@pytest.mark.parametrize("locked", [False, True])
def test_a_frame_costs_its_bytes_in_and_its_labels_out(
    machine: Machine, layout: str, locked: bool, dynamic: Model
) -> None:
    """Labels are those of the scores that the kernels' own picture gives; all is done on the device, in order."""
    colour = Colour(space=1)
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", requests=2)) as engine:
        session = engine.session(*SIZE)
        for turn, frame_size in enumerate([(64, 96), (50, 70), (96, 144), (64, 96)]):
            geometry = Geometry.inside(*frame_size, input_height=SIZE[0], input_width=SIZE[1])
            _, planes = decoded(layout, frame_size)
            labels = np.full(frame_size, 255, np.uint8)
            scores = session.score_shape
            where = FrameMap(
                layout, frame_size, (geometry.picture_height, geometry.picture_width),
                yuv_to_rgb(colour, 8).tolist(), geometry.score_map(*scores[1:]),
            )  # fmt: skip
            if locked:
                assert isinstance(engine, PageLocking)
                for array in (*planes, labels):
                    engine.page_lock(array)
            copied = len(machine.cuda.copies) if machine.cuda else 0
            assert isinstance(session, FrameSession)
            assert session.takes(layout)
            request = session.start_frames([RawFrame(tuple(planes), where, labels)])
            assert not machine.cuda or (labels == 255).all()
            request.wait(WAIT_S)
            image = by_kernel(layout, planes, dynamic, geometry, colour)
            expected, _ = upsample_argmax(score(session, image), geometry)
            assert (labels == expected).mean() > 0.999, turn
            if machine.cuda:
                moved = machine.cuda.copies[copied : copied + len(planes) + 1]
                assert moved == [*(("in", plane.nbytes) for plane in planes), ("out", labels.nbytes)]
            if locked:
                for array in (*planes, labels):
                    engine.page_unlock(array)  # type: ignore[attr-defined]
    if machine.pixels:
        assert machine.pixels.launched == ["prepare_rgb" if layout == "rgb24" else "prepare_yuv", "label"] * 4


def test_frames_of_any_size_and_layout_share_a_request(machine: Machine, dynamic: Model) -> None:
    """What a batch gives is what each of its frames gives alone, with memory that is large enough for all."""
    matrix = yuv_to_rgb(Colour(space=1), 8).tolist()
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32", batch=4)) as engine:
        session = engine.session(*SIZE)
        assert isinstance(session, FrameSession)

        def frame(layout: str, size: tuple[int, int]) -> RawFrame:
            geometry = Geometry.inside(*size, input_height=SIZE[0], input_width=SIZE[1])
            picture = (geometry.picture_height, geometry.picture_width)
            where = FrameMap(layout, size, picture, matrix, geometry.score_map(*session.score_shape[1:]))
            return RawFrame(tuple(decoded(layout, size)[1]), where, np.full(size, 255, np.uint8))

        kinds = [("yuv420p", (51, 71)), ("yuv420p10le", (64, 96)), ("nv12", (96, 144)), ("rgb24", (33, 47))]
        for chosen in (kinds[:2], kinds[::-1], kinds[1:]):
            together = [frame(*kind) for kind in chosen]
            session.start_frames(together).wait(WAIT_S)
            for kind, each in zip(chosen, together, strict=True):
                alone = frame(*kind)
                session.start_frames([alone]).wait(WAIT_S)
                assert len(np.unique(alone.labels)) > 1
                assert (each.labels == alone.labels).mean() > 0.999, kind


def test_a_frame_that_is_none_is_told(fake: Machine, dynamic: Model) -> None:
    planes = [np.zeros((64, 96), np.uint8), np.zeros((32, 48, 2), np.uint8)]
    labels = np.zeros((64, 96), np.uint8)
    where = FrameMap("nv12", (64, 96), (32, 48), [[1.0] * 4] * 3, (0.5, 0.0, 0.5, 0.0))
    with open_engine_for(dynamic, "tensorrt", EngineOptions("fp32")) as engine:
        session = engine.session(*SIZE)
        assert isinstance(session, FrameSession)
        for change, message in (
            ({"where": replace(where, layout="yuyv422")}, "frames of yuyv422 cannot be taken: choose from rgb24, nv12"),
            ({"planes": planes[:1]}, "a frame of nv12 has planes of 64×96, 32×48×2 uint8"),
            ({"planes": [plane.astype(np.uint16) for plane in planes]}, "has planes of 64×96, 32×48×2 uint8"),
            ({"labels": labels[:1]}, "the labels of a frame of 96×64"),
            ({"labels": np.zeros((96, 64), np.uint8).T}, "must be contiguous"),
        ):
            given = {"planes": planes, "where": where, "labels": labels} | change
            with pytest.raises(EngineError, match=message):
                session.start_frames([RawFrame(**given)])  # type: ignore[arg-type]
        for frames in ([], [RawFrame(tuple(planes), where, labels)] * 2):
            with pytest.raises(EngineError, match=f"a batch of {len(frames)} pictures: .* opened for 1 to 1 at once"):
                session.start_frames(frames)
        with ThreadPoolExecutor(1) as thread:  # one that has not spoken to the GPU before
            thread.submit(session.start_frames, [RawFrame(tuple(planes), where, labels)]).result().wait(WAIT_S)
