"""What is measured of an input's way."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.telemetry import CRFMeter, PropagationMeter, StageMeter


@dataclass(frozen=True, slots=True)
class LaneMeters:
    """How busy each of a lane's stages is, what the CRF did, and how long labelling waited for refined frames."""

    decode: StageMeter
    prepare: StageMeter
    infer: StageMeter
    propagate: StageMeter
    propagation: PropagationMeter
    upsample: StageMeter
    refine: StageMeter
    crf: CRFMeter
    render: StageMeter
    for_refined: StageMeter

    @classmethod
    def new(cls) -> LaneMeters:
        """All at zero; those of stages that do all of their work in their own thread count its processor time."""
        own = time.thread_time_ns
        return cls(
            decode=StageMeter(),
            prepare=StageMeter(own),
            infer=StageMeter(),
            propagate=StageMeter(own),
            propagation=PropagationMeter(),
            upsample=StageMeter(own),
            refine=StageMeter(),
            crf=CRFMeter(),
            render=StageMeter(own),
            for_refined=StageMeter(),
        )
