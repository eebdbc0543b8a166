"""Several processes, one a device, that train one network: what `torchrun` starts.

Gradients are the mean over the processes (torch's DistributedDataParallel), so a step is that of one process with the
whole batch; batch norms see the whole batch on GPUs alone (SyncBatchNorm has no CPU code) and their share elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from engines.networks import Segmenter

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another: the first one measures on the validation while they wait."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: its number, from 0; the first one measures, saves and reports.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """This is the one that measures, saves and reports."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes, without gradients."""
        if self.count > 1:
            value = value.detach().clone()
            distributed.all_reduce(value)
            value /= self.count
        return value

    def agreed(self, value: float) -> float:
        """The first process's value, for all."""
        if self.count == 1:
            return value
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        told = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.broadcast(told, 0)
        return float(told)

    def with_shared_norms(self, network: Segmenter) -> Segmenter:
        """A network whose batch norms see the whole batch, on GPUs; elsewhere it is left as it is."""
        if self.count == 1 or next(network.parameters()).device.type != "cuda":
            return network
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        assert isinstance(converted, Segmenter)
        return converted

    def shared(self, network: nn.Module) -> nn.Module:
        """A network whose gradients are the mean over the processes."""
        if self.count == 1 or not any(each.requires_grad for each in network.parameters()):
            return network
        device = next(network.parameters()).device
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


ALONE = Processes()
"""This process, without others."""


def local_device(name: str) -> str:
    """The name of this process's own device, of a name that means all of a kind."""
    number = os.environ.get("LOCAL_RANK")
    plain = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return f"cuda:{number}" if number is not None and plain else name


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that `torchrun` started, joined; this one alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
