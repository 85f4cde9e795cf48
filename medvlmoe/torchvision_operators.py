"""Let torchvision import beside a torch build that its compiled operators were not built for.

PyPI's torchvision for Linux is built against CUDA. Beside a CPU-only torch its operator library does not load, and
then even ``import torchvision`` fails, and with it timm and transformers. We use none of those operators (they are
for detection); declaring the two whose absence breaks the import is enough.
"""

import importlib.util
from pathlib import Path

import torch

_NEEDED_AT_IMPORT = ("nms", "qnms")
_declared: list[torch.library.Library] = []  # a Library's declarations live as long as the object


def declare_missing_operators() -> None:
    """Declare torchvision's missing operators. Does nothing where the compiled ones load. Call before timm."""
    if _declared or _operators_load():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _NEEDED_AT_IMPORT:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


def _operators_load() -> bool:
    specification = importlib.util.find_spec("torchvision")
    if specification is None or specification.origin is None:
        return True
    libraries = sorted(Path(specification.origin).parent.glob("_C*.so"))
    if not libraries:
        return True  # not the layout we know: leave it to torchvision
    try:
        torch.ops.load_library(libraries[0])
    except OSError:
        return False
    return True
