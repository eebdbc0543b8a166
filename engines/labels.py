"""Class names and colours of the data sets that models speak of."""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class LabelSet:
    """What the channels of a network mean.

    Attributes:
        names: one name a class, in channel order.
        palette: one sRGB colour (0–255) a class.
        background: index of the class that means "nothing", drawn transparent; None if there is none.
    """

    names: tuple[str, ...]
    palette: tuple[RGB, ...]
    background: int | None = None

    def __post_init__(self) -> None:
        if len(self.names) != len(self.palette):
            raise ValueError(f"{len(self.names)} class names but {len(self.palette)} colours")

    def __len__(self) -> int:
        return len(self.names)


def voc_palette(classes: int) -> tuple[RGB, ...]:
    """PASCAL VOC's colour map: the bits of the index spread over the channels, high bits first.

    Source: ``VOClabelcolormap.m`` of the VOC development kit.
    """
    colours = []
    for index in range(classes):
        channels = [0, 0, 0]
        for shift in range(8):
            for channel in range(3):
                channels[channel] |= ((index >> (3 * shift + channel)) & 1) << (7 - shift)
        colours.append((channels[0], channels[1], channels[2]))
    return tuple(colours)


CAMVID = LabelSet(
    names=(
        "sky", "building", "pole", "road", "pavement", "tree",
        "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip
"""CamVid's eleven classes and colours as of SegNet (Badrinarayanan et al. 2015)."""

VOC = LabelSet(
    names=(
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    ),
    palette=voc_palette(21),
    background=0,
)  # fmt: skip
"""PASCAL VOC 2012's twenty classes and background."""

CITYSCAPES = LabelSet(
    names=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    palette=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
        (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
        (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip
"""Cityscapes' nineteen train ids and colours (``labels.py`` of cityscapesScripts)."""

PASCAL_CONTEXT = LabelSet(
    names=(
        "background", "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle",
        "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain",
        "dog", "door", "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light",
        "motorbike", "mountain", "mouse", "person", "plate", "platform", "pottedplant", "road", "rock", "sheep",
        "shelves", "sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor",
        "wall", "water", "window", "wood",
    ),
    palette=voc_palette(60),
    background=0,
)  # fmt: skip
"""PASCAL-Context's 59 frequent classes (Mottaghi et al., CVPR 2014) by name, and background for its 400 others."""

PERSON_PART = LabelSet(
    names=("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs"),
    palette=voc_palette(7),
    background=0,
)
"""PASCAL-Person-Part's six parts (Chen et al., CVPR 2014 and 2016) and background."""

COCO_STUFF_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack,
umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl,
banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush,
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile,
cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other,
hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other,
towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood,
water-other, waterdrops, window-blind, window-other, wood
"""

COCO_STUFF = LabelSet(
    names=tuple(name.strip() for name in COCO_STUFF_NAMES.split(",")),
    palette=voc_palette(183)[1:],
)
"""COCO-Stuff's 91 things and 91 kinds of stuff (Caesar et al. 2018), of which 171 occur; the colours are VOC's."""
