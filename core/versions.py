"""What made a clip's bits: Python, the libraries whose release may change a pixel, and the card's driver."""

from __future__ import annotations

import functools
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version

from core.gpu import CARD_DRIVER

PACKAGES = ("dropreel", "numpy", "opencv-python-headless", "pillow", "imageio-ffmpeg", "torch", "diffusers",
            "transformers", "peft", "torchao")  # fmt: skip


@functools.cache
def installed(package: str) -> str:
    """The version of an installed package: as this process first saw it. Raises ``PackageNotFoundError``."""
    return version(package)


def versions() -> dict[str, str]:
    """The versions by name; what is not installed, and a driver that is not loaded, is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        loaded = getattr(sys.modules.get(package), "__version__", None)  # torch's own says for which CUDA it was built
        try:
            found[package] = str(loaded or installed(package))
        except PackageNotFoundError:  # an optional one
            continue
    try:
        driver = CARD_DRIVER.read_text(encoding="utf-8")
    except OSError:
        return found
    if named := re.search(r"\b\d+\.\d+(\.\d+)?\b", driver):
        found["nvidia-driver"] = named[0]
    return found
