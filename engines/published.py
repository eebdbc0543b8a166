"""A published file of weights into the network that the zoo says it is of."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from engines.base import ModelError
from engines.catalogue import ZooEntry
from engines.model_file import file_sha256
from engines.networks import NETWORKS
from engines.networks.registry import assemble
from engines.networks.trained import TrainedNetwork
from engines.weights import open_weights


def read_published(entry: ZooEntry, path: Path) -> TrainedNetwork:
    """The network of an entry with a recipe, filled with the weights of its published file.

    Args:
        entry: says network, classes, output stride, corners and picture; the file's layout says the rest.
        path: the published file.

    Raises:
        ModelError: the file cannot be read, does not fit, or contradicts the entry.
    """
    assert entry.recipe
    assert entry.picture
    weights = open_weights(path)
    if weights.layout.bgr != (entry.picture.channels == "bgr"):
        raise ModelError(f"{path} ({weights.layout.name}) is not of {entry.name}: its pictures have another order")
    spec = replace(NETWORKS[entry.recipe.network], scales=entry.recipe.scales)
    picture = entry.picture.in_rgb()
    conventions = replace(weights.conventions(spec), mean=picture.mean, std=picture.std)
    if conventions.align_corners != entry.align_corners:
        raise ModelError(f"{path} ({weights.layout.name}) is not of {entry.name}: its corners are others")
    network = assemble(replace(spec, conventions=conventions), len(entry.labels), entry.output_stride)
    weights.load_into(network)
    return TrainedNetwork(
        spec=network.spec,
        output_stride=entry.output_stride,
        labels=entry.labels,
        size=entry.size,
        weights=network.state_dict(),
        facts=_facts(entry, path),
    )


def _facts(entry: ZooEntry, path: Path) -> dict[str, object]:
    """Where it comes from, for whoever finds the exported file alone."""
    assert entry.download
    facts: dict[str, object] = {
        "published": entry.download.url,
        "sha256": file_sha256(path),
        "accuracy": entry.accuracy,
    }
    if entry.crf is not None:
        facts["crf"] = asdict(entry.crf)
    return facts
