"""The layouts that are known; `LAYOUTS` has them in the order in which they are tried."""

from engines.weights.layout import Layout
from engines.weights.layouts.alone import EfficientNetLite, TensorFlow, TorchvisionEncoder
from engines.weights.layouts.own import Exported, Own
from engines.weights.layouts.version2 import Caffe, Isht7, Kazuto
from engines.weights.layouts.version3 import Jfzhang95, Smp, Torchvision, VainF

LAYOUTS: tuple[Layout, ...] = (
    Own(),
    Exported(),
    Caffe(),
    Kazuto(),
    Isht7(),
    Torchvision(),
    VainF(),
    Jfzhang95(),
    Smp(),
    TensorFlow(),
    EfficientNetLite(),
    TorchvisionEncoder(),
)
