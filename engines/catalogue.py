"""The named models: what is published of each, where its file is, on what terms.

Plain values, no code that runs a network: whoever lists models needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engines.labels import CAMVID, COCO_STUFF, VOC, LabelSet


@dataclass(frozen=True, slots=True)
class Download:
    """A published file of weights.

    Attributes:
        url: where it is.
        file: what it is called here.
        sha256: its hash, hexadecimal; its first digits where no more is published, None where nothing is.  What is
            not published is recorded at the first download.
        size: its length, in bytes; None where it is not known to the byte.
        about: its length as published or by its parameters, in bytes, in round figures.
    """

    url: str
    file: str
    sha256: str | None
    size: int | None = None
    about: int = 0

    @property
    def expected(self) -> int:
        """Bytes to be fetched, as far as known; 0 if nothing is."""
        return self.size or self.about


@dataclass(frozen=True, slots=True)
class Picture:
    """What a published network was trained to see; a file made here does this inside its graph.

    Attributes:
        mean, std: subtracted from pictures of 0–255 and divided into them, in the order of ``channels``.
        channels: ``"rgb"`` or ``"bgr"``.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "rgb"

    def in_rgb(self) -> Picture:
        """The same for pictures in RGB."""
        return self if self.channels == "rgb" else Picture(self.mean[::-1], self.std[::-1])


@dataclass(frozen=True, slots=True)
class PublishedCRF:
    """Parameters of the fully connected CRF that were published with a network.

    Attributes:
        pos_w, pos_xy: weight and deviation, in pixels, of the kernel of places.
        bi_w, bi_xy, bi_rgb: weight and deviations, in pixels and colours of 0–255, of the kernel of places and colours.
        iterations: of the mean field.
        preset: configuration of the stream that has them.
    """

    pos_w: float
    pos_xy: float
    bi_w: float
    bi_xy: float
    bi_rgb: float
    iterations: int
    preset: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """How `engines.networks` makes the network of a published file; for files that torch is needed for.

    Attributes:
        network: key of `engines.networks.NETWORKS`.
        scales: sizes at which it sees the picture, as it was published.
    """

    network: str
    scales: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """A named model.

    Attributes:
        name: what people type.
        about: the network and its data, in a line.
        labels: its classes.
        size: preferred short side of the input, in pixels.
        output_stride: input sides are multiples of this (plus one with ``align_corners``).
        align_corners: see `engines.base.Model`.
        licence: terms of the weights.
        accuracy: published or measured mean intersection over union, with its source; empty if unknown.
        download: what to fetch, None for a model in this package.
        picture: what it was trained to see, None for a model in this package.
        crf: published parameters of the CRF, None where there are none.
        recipe: the network, where torch has to make the model once (``python -m engines export NAME``).
        int8: name of the same network quantised, which precision int8 takes in its place; empty if there is none.
    """

    name: str
    about: str
    labels: LabelSet
    size: int
    output_stride: int
    align_corners: bool
    licence: str
    accuracy: str
    download: Download | None = None
    picture: Picture | None = None
    crf: PublishedCRF | None = None
    recipe: Recipe | None = None
    int8: str = ""


STREET = ZooEntry(
    name="street",
    about="DeepLabV3+ on MobileNetV2, trained on CamVid: streets seen from a car",
    labels=CAMVID,
    size=384,
    output_stride=16,
    align_corners=False,
    licence="research use (CamVid)",
    accuracy="its recipe: 48, 55 and 57 mIoU on three drives, each kept from training (models/street.md)",
    int8="street-int8",
)

STREET_INT8 = replace(
    STREET,
    name="street-int8",
    about="street quantised to int8: for processors that multiply bytes faster (AVX-512 VNNI, AMX, ARM dot product)",
    accuracy="57.7 mIoU where float has 57.1 on a drive kept from training (models/street.md)",
    int8="",
)

QUANTISED_PICTURE = Picture((128, 128, 128), (128, 128, 128))
FLOAT_PICTURE = Picture((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
"""Of Google's MobileNets in 8 bits, and in float: -1 to 1."""

VOC_MOBILENET = ZooEntry(
    name="voc",
    about="DeepLabV3 on MobileNetV2, trained on COCO and PASCAL VOC 2012: people, animals, vehicles, furniture",
    labels=VOC,
    # Trained at 513.  On 640×360 video 385 costs half the time and draws the same people (IoU 0.94 with
    # 513); below 321 furniture begins to appear where a cat sits.
    size=385,
    output_stride=16,
    align_corners=True,
    licence="Apache-2.0",
    accuracy="74.26 VOC 2012 val, the 8-bit network at 513 (tensorflow/models, deeplab/g3doc/quantize.md)",
    download=Download(
        url="https://github.com/google-coral/test_data/raw/master/deeplabv3_mnv2_pascal_quant.tflite",
        file="deeplabv3_mnv2_pascal_quant.tflite",
        # The publisher gives none: computed from a copy of the file.
        sha256="350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398",
        size=2_193_224,
    ),
    picture=QUANTISED_PICTURE,
)

VOC_HALF = replace(
    VOC_MOBILENET,
    name="voc-dm05",
    about="voc with half the channels",
    accuracy="69.65 VOC 2012 val, the 8-bit network at 513 (tensorflow/models, deeplab/g3doc/quantize.md)",
    download=Download(
        url="https://github.com/google-coral/test_data/raw/master/deeplabv3_mnv2_dm05_pascal_quant.tflite",
        file="deeplabv3_mnv2_dm05_pascal_quant.tflite",
        sha256=None,
        about=751_000,
    ),
)

VOC_HALF_257 = replace(
    VOC_HALF,
    name="voc-dm05-257",
    about="voc with half the channels in float, for small pictures: TensorFlow Lite's example",
    size=257,
    output_stride=8,
    licence="not stated (Google)",
    accuracy="",
    download=Download(
        url="https://storage.googleapis.com/download.tensorflow.org/models/tflite/gpu/deeplabv3_257_mv_gpu.tflite",
        file="deeplabv3_257_mv_gpu.tflite",
        sha256=None,
        size=2_779_264,
    ),
    picture=FLOAT_PICTURE,
)

TORCHVISION_PICTURE = Picture((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
TORCHVISION = "https://download.pytorch.org/models/"
TORCHVISION_ACCURACY = "{} COCO val2017 with VOC's classes, short side 520 (torchvision, COCO_WITH_VOC_LABELS_V1)"

TORCHVISION_RESNET50 = ZooEntry(
    name="deeplabv3-resnet50-voc",
    about="DeepLabV3 on ResNet-50, torchvision's: COCO with VOC's classes",
    labels=VOC,
    size=520,
    output_stride=8,
    align_corners=False,
    licence="BSD-3-Clause (torchvision)",
    accuracy=TORCHVISION_ACCURACY.format("66.4"),
    download=Download(
        url=TORCHVISION + "deeplabv3_resnet50_coco-cd0a2569.pth",
        file="deeplabv3_resnet50_coco-cd0a2569.pth",
        sha256="cd0a2569",
        about=168_312_000,
    ),
    picture=TORCHVISION_PICTURE,
    recipe=Recipe("deeplabv3-resnet50"),
)

TORCHVISION_RESNET101 = replace(
    TORCHVISION_RESNET50,
    name="deeplabv3-resnet101-voc",
    about="DeepLabV3 on ResNet-101, torchvision's: COCO with VOC's classes",
    accuracy=TORCHVISION_ACCURACY.format("67.4"),
    download=Download(
        url=TORCHVISION + "deeplabv3_resnet101_coco-586e9e4e.pth",
        file="deeplabv3_resnet101_coco-586e9e4e.pth",
        sha256="586e9e4e",
        about=244_546_000,
    ),
    recipe=Recipe("deeplabv3-resnet101"),
)

TORCHVISION_MOBILENET = replace(
    TORCHVISION_RESNET50,
    name="deeplabv3-mobilenetv3-large-voc",
    about="DeepLabV3 on MobileNetV3-Large, torchvision's: COCO with VOC's classes",
    output_stride=16,
    accuracy=TORCHVISION_ACCURACY.format("60.3"),
    download=Download(
        url=TORCHVISION + "deeplabv3_mobilenet_v3_large-fc3c493d.pth",
        file="deeplabv3_mobilenet_v3_large-fc3c493d.pth",
        sha256="fc3c493d",
        about=44_356_000,
    ),
    recipe=Recipe("deeplabv3-mobilenetv3-large"),
)

KAZUTO = "https://github.com/kazuto1011/deeplab-pytorch/releases/download/v1.0/"
KAZUTO_ACCURACY = "{}, {} with the CRF (kazuto1011/deeplab-pytorch, README)"

V2_VOC = ZooEntry(
    name="deeplabv2-resnet101-voc",
    about="DeepLabV2 on ResNet-101 with ASPP at three scales, kazuto1011's: VOC 2012 with SBD",
    labels=VOC,
    # Evaluated at the pictures' own size, 500×375 most often; the next multiple of the output stride.
    size=376,
    output_stride=8,
    align_corners=False,
    licence="MIT (kazuto1011)",
    accuracy=KAZUTO_ACCURACY.format("76.65 VOC 2012 val", "77.93"),
    download=Download(
        url=KAZUTO + "deeplabv2_resnet101_msc-vocaug-20000.pth",
        file="deeplabv2_resnet101_msc-vocaug-20000.pth",
        sha256=None,
        about=176_500_000,
    ),
    picture=Picture((104.008, 116.669, 122.675), (1, 1, 1), "bgr"),
    crf=PublishedCRF(pos_w=3, pos_xy=1, bi_w=4, bi_xy=67, bi_rgb=3, iterations=10, preset="deeplabv2-crf"),
    recipe=Recipe("deeplabv2-resnet101-aspp", scales=(1.0, 0.75, 0.5)),
)

V2_COCO_STUFF = replace(
    V2_VOC,
    name="deeplabv2-resnet101-cocostuff",
    about="DeepLabV2 on ResNet-101 with ASPP at three scales, kazuto1011's: COCO-Stuff 164k",
    labels=COCO_STUFF,
    size=480,
    accuracy=KAZUTO_ACCURACY.format("39.1 COCO-Stuff 164k val", "39.7"),
    download=Download(
        url=KAZUTO + "deeplabv2_resnet101_msc-cocostuff164k-100000.pth",
        file="deeplabv2_resnet101_msc-cocostuff164k-100000.pth",
        sha256=None,
        about=224_000_000,
    ),
)

V2_COCO_STUFF_10K = replace(
    V2_COCO_STUFF,
    name="deeplabv2-resnet101-cocostuff10k",
    about="DeepLabV2 on ResNet-101 with ASPP at three scales, kazuto1011's: COCO-Stuff 10k",
    size=512,  # trained and evaluated on pictures warped to 513×513
    accuracy=KAZUTO_ACCURACY.format("34.8 COCO-Stuff 10k val", "35.6"),
    download=Download(
        url=KAZUTO + "deeplabv2_resnet101_msc-cocostuff10k-20000.pth",
        file="deeplabv2_resnet101_msc-cocostuff10k-20000.pth",
        sha256=None,
        about=224_000_000,
    ),
)

ZOO: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        STREET,
        STREET_INT8,
        VOC_MOBILENET,
        VOC_HALF,
        VOC_HALF_257,
        TORCHVISION_MOBILENET,
        TORCHVISION_RESNET50,
        TORCHVISION_RESNET101,
        V2_VOC,
        V2_COCO_STUFF,
        V2_COCO_STUFF_10K,
    )
}
"""The named models; docs/zoo.md has a table of them."""
