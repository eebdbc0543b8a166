"""Google's DeepLabV3 on MobileNetV2, from tables of its layers' weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

BLOCK_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


def reference(
    tables: Mapping[str, np.ndarray], image: np.ndarray, stride: int, middle: float, scale: float
) -> np.ndarray:
    """DeepLabV3 on MobileNetV2 as the paper draws it, from tables of folded weights."""

    def conv(x: torch.Tensor, name: str, stride: int = 1, rate: int = 1, limit: float | None = None) -> torch.Tensor:
        weight, bias = (torch.from_numpy(tables[f"{name}.{part}"]) for part in ("weight", "bias"))
        groups = x.shape[1] if weight.shape[1] == 1 and x.shape[1] > 1 else 1
        padding = rate * (weight.shape[2] // 2)
        y = functional.conv2d(x, weight, bias, stride, padding, rate, groups)
        return y if limit is None else y.clamp(0, limit)

    x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - middle) * scale
    x = conv(x, "Conv", 2, limit=6)
    reached, rate = 2, 1
    for index, wanted in enumerate(BLOCK_STRIDES):
        block = f"expanded_conv_{index}" if index else "expanded_conv"
        step, own = (wanted, rate) if reached < stride or wanted == 1 else (1, rate)
        if wanted == 2 and reached == stride:
            rate *= 2
        reached *= step
        y = conv(x, f"{block}/expand", limit=6) if index else x
        y = conv(conv(y, f"{block}/depthwise", step, own, limit=6), f"{block}/project")
        x = x + y if step == 1 and x.shape == y.shape else y
    pooled = conv(x.mean((2, 3), keepdim=True), "image_pooling", limit=np.inf)
    local = conv(x, "aspp0", limit=np.inf)
    both = torch.cat([pooled.expand_as(local), local], 1)
    return conv(conv(both, "concat_projection", limit=np.inf), "logits/semantic")[0].numpy()
