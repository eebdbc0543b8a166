"""CamVid in eleven classes: as its makers publish it, as SegNet does, and plainly laid out."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from engines.labels import CAMVID, LabelSet
from engines.training.datasets.folder import Folder, by_name
from engines.training.datasets.layout import demand, listed_splits, paired, read_list
from engines.training.datasets.reading import IGNORE, DataError, LabelCodes, Sample

CODES = LabelCodes("CamVid (0 to 10, 11 and 255 for none)", {**{i: i for i in range(11)}, 11: IGNORE, 255: IGNORE})

COLOURS = (
    (0x808080,),  # Sky
    (0x800000, 0x008040, 0x40C000, 0x400040, 0xC00080),  # Building, Bridge, Wall, Tunnel, Archway
    (0xC0C080, 0x000040),  # Column_Pole, TrafficCone
    (0x804080, 0x8000C0, 0xC00040),  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    (0x0000C0, 0x40C080, 0x8080C0),  # Sidewalk, ParkingBlock, RoadShoulder
    (0x808000, 0xC0C000),  # Tree, VegetationMisc
    (0xC08080, 0x808040, 0x004040),  # SignSymbol, Misc_Text, TrafficLight
    (0x404080,),  # Fence
    (0x400080, 0x4080C0, 0xC080C0, 0xC04080, 0x804040),  # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    (0x404000, 0xC08040, 0x4000C0, 0x408040),  # Pedestrian, Child, CartLuggagePram, Animal
    (0x0080C0, 0xC000C0),  # Bicyclist, MotorcycleScooter
)
"""By class of `CAMVID` those of the 32 (their ``label_colors.txt``) that SegNet counts to it, 0xRRGGBB.

The grouping is that of SegNet's data as MathWorks' example "Semantic Segmentation Using Deep Learning" spells it out.
"""

COLOUR_CODES = LabelCodes(
    "CamVid's 32 colours",
    {0: IGNORE} | {colour: label for label, colours in enumerate(COLOURS) for colour in colours},
    coloured=True,
)

STILLS, APPROVED = "701_StillsRaw_full", "LabeledApproved_full"
REMEDY = f"unpack 701_StillsRaw_full.zip and LabeledApproved_full.zip into ROOT/{STILLS} and ROOT/{APPROVED}"
LISTS_REMEDY = "put SegNet's train.txt, val.txt and test.txt into ROOT, or give a drive as split"

_DRIVE = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")


class CamVid(Folder):
    """CamVid (Brostow et al. 2008, 2009) in SegNet's eleven classes (Badrinarayanan et al. 2015).

    Its makers' directories hold no lists: splits are SegNet's lists beside them, or the drives by name.
    """

    labels: LabelSet | None = CAMVID
    codes: LabelCodes | None = CODES

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether its directories or pictures have the names of CamVid's."""
        pictures = itertools.chain(root.glob("*/images/*"), root.glob("*annot/*"))
        return (root / APPROVED).is_dir() or any(_DRIVE.match(path.name) for path in pictures)

    def splits(self) -> list[str]:
        """Names of the splits, of any of the layouts."""
        annotated = [path.name.removesuffix("annot") for path in self._root.glob("*annot/")]
        drives = [match[1] for path in (self._root / APPROVED).glob("*_L.png") if (match := _DRIVE.match(path.name))]
        listed = listed_splits(self._root) if (self._root / APPROVED).is_dir() else []
        return sorted({*super().splits(), *annotated, *drives, *({*listed} - {"label_colors"})})

    def samples(self, split: str) -> list[Sample]:
        """The labelled pictures of a split, by name or in its list's order; errors as of `Folder`."""
        if (self._root / APPROVED).is_dir():
            return self._published(split)
        annotated = self._root / f"{split}annot"
        if not annotated.is_dir():
            return super().samples(split)
        remedy = "give every picture ROOT/SPLIT/NAME.png a label picture ROOT/SPLITannot/NAME.png"
        return by_name(demand(self._root, split, remedy), annotated, self.codes, remedy)

    def _published(self, split: str) -> list[Sample]:
        images, labels = (demand(self._root, part, REMEDY) for part in (STILLS, APPROVED))
        names = sorted(path.stem.removesuffix("_L") for path in labels.glob(f"{split}_*_L.png"))
        if not _DRIVE.match(f"{split}_"):
            names = read_list(self._root / f"{split}.txt", self.splits(), LISTS_REMEDY)
        if not names:
            raise DataError(f"{labels}: no labels of the drive {split}: {REMEDY}")
        return paired(names, lambda name: (images / f"{name}.png", labels / f"{name}_L.png"), COLOUR_CODES, REMEDY)
