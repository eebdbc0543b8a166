"""From bytes to what an encoder wants."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.networks.encoder import Encoder
from engines.networks.segmenter import Segmenter


def normalise(images: Tensor, encoder: Encoder) -> Tensor:
    """RGB uint8, N×H×W×3 → N×3×H×W float32, normalised as the encoder wants, channels last."""
    mean = torch.tensor(encoder.mean, device=images.device)
    std = torch.tensor(encoder.std, device=images.device)
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


class ByteNetwork(nn.Module):
    """A network that takes pictures as they are: RGB uint8, N×H×W×3 → N×classes×h×w scores."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.network(normalise(image, self.network.encoder))
        return scores
