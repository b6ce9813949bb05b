"""Opening an image that a stranger made: limits, orientation, colour, alpha; refuses bombs and truncation."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from core import fsops
from core.containers import Header, read_header
from core.errors import Finding, Refused
from core.limits import ImageLimits

# The content decides what a file is. A name that says otherwise is noted: every viewer shows such a file too.
_ENDINGS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WebP": (".webp",), "HEIC": (".heic", ".heif")}
_DECODERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WebP": WebPImageFile,
}
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_UPRIGHT = {  # EXIF orientation to what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Picture(NamedTuple):
    """A decoded image, and what is worth knowing about how it was read."""

    pixels: npt.NDArray[np.uint8]
    """sRGB, upright, ``(H, W, 3)``, read-only."""
    notes: tuple[Finding, ...] = ()


def open_image(path: Path, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    """Read an image file into sRGB pixels, upright, ``(H, W, 3)``, read-only.

    Raises ``Refused`` for whatever is wrong with the image, ``OSError`` if the file cannot be read.
    """
    return decode(_read(path, limits), path.name, limits).pixels


def decode(data: bytes, name: str, limits: ImageLimits) -> Picture:
    """Decode the bytes of the image file ``name`` to the last row. Raises ``Refused``, and nothing else."""
    notes: list[Finding] = []

    def note(code: str, message: str) -> None:
        notes.append(Finding(code=code, message=message, severity="note", file=name))

    with _refusing(name):
        header = _inspect(data, limits)
        if not name.lower().endswith(_ENDINGS[header.format]):
            note("image_misnamed", f"Whatever its name says, the file holds a {header.format} image.")
        colour, alpha = _channels(_load(header), header)
        if colour.mode == "CMYK" and not header.profile:
            note("image_profile_missing", "CMYK without a colour profile: the colours are approximate.")
        try:
            image = _to_srgb(colour, header.profile)
        except (OSError, TypeError, ValueError, ImageCms.PyCMSError):
            image = _to_srgb(colour, b"")
            note("image_profile_broken", "Its colour profile cannot be used; the colours are read as sRGB.")
        if alpha is not None:
            # Blended as encoded, not in linear light: so does every viewer in which its maker has seen it.
            ground = Image.new("RGB", image.size, limits.background)
            ground.paste(image, mask=alpha)
            image = ground
            note("image_transparent", f"Its transparent parts are laid over {limits.background}.")
        if header.turn > 1:
            image = image.transpose(_UPRIGHT[header.turn])
        return Picture(np.asarray(image), tuple(notes))


def _read(path: Path, limits: ImageLimits) -> bytes:
    size = path.stat().st_size
    with _refusing(path.name):
        _check("bytes", size, limits.max_bytes)
    return fsops.read(path, limits.max_bytes)


def _inspect(data: bytes, limits: ImageLimits) -> Header:
    """The header of an image that is within the limits, and all there."""
    _check("bytes", len(data), limits.max_bytes)
    try:
        header = _heic(data) if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS else read_header(data)
    except EOFError as error:
        raise _refusal("image_truncated", "The file ends before its picture.", "Copy it again.") from error
    if header is None and not data.strip(b"\0"):
        raise _refusal("image_empty", "The file is empty, or was never written.", "Copy it again.")
    if header is None:
        raise _refusal("image_not_supported", "This is no PNG, JPEG or WebP.", "Export it as PNG or JPEG.")
    width, height = header.size
    _check("pixels", width * height, limits.max_pixels)
    _check("pixels a side", max(header.size), limits.max_side)
    if min(header.size) < limits.min_side:
        message = f"It is {width}×{height} pixels; at least {limits.min_side} a side are needed."
        remedy = "Use a larger version of it."
        raise _refusal("image_too_small", message, remedy, min(header.size), limits.min_side)
    if header.frames > 1:
        message = f"This is an animation of {header.frames} frames."
        raise _refusal("image_animated", message, "Export the one frame that is meant.")
    return header


def _heic(data: bytes) -> Header:
    try:
        import pillow_heif
    except ImportError as error:
        message = "HEIC images need an extra that is not installed."
        remedy = "Convert it (Mac: sips -s format png A.heic --out A.png) or pip install 'dropreel[heic]'."
        raise _refusal("image_heic", message, remedy) from error
    image = pillow_heif.open_heif(io.BytesIO(data))  # decodes nothing yet; sets the picture upright itself
    return Header("HEIC", image.size, data, profile=image.info.get("icc_profile") or b"")


def _load(header: Header) -> Image.Image:
    """Decode to the last row, into whatever mode the file has."""
    image: Image.Image
    if header.format == "HEIC":
        import pillow_heif

        image = pillow_heif.open_heif(io.BytesIO(header.body)).to_pillow()
    else:
        image = _DECODERS[header.format](io.BytesIO(header.body))
    if image.size != header.size:  # before anything of that size is allocated
        raise ValueError("it has two headers")
    image.load()
    return image


def _channels(image: Image.Image, header: Header) -> tuple[Image.Image, Image.Image | None]:
    """Colour in 8 bits, mode L, RGB or CMYK; and alpha, mode L, unless the image is opaque."""
    clear = image.info.get("transparency")
    if header.bits == 16:
        image = _in_8_bits(header, clear)
    elif header.bits < 8 and header.grey and clear is not None:
        # Pillow scales the samples to 8 bits, but not the one that is transparent.
        image.info["transparency"] = min(clear * 255 // (2**header.bits - 1), 255)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if alpha is not None and alpha.getextrema() == (255, 255):
        alpha = None
    if image.mode in {"1", "LA"}:
        image = image.convert("L")
    elif image.mode not in {"L", "RGB", "CMYK"}:
        image = image.convert("RGBA").convert("RGB")
    return image, alpha


def _in_8_bits(png: Header, clear: Any) -> Image.Image:
    """A 16-bit PNG, each sample v as v/257 rounded: Pillow would clip them or cut off the lower byte.

    ``clear`` is the transparent grey of one without an alpha channel.
    """
    samples = cv2.imdecode(np.frombuffer(png.body, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise ValueError("its samples cannot be read")
    scaled = cv2.convertScaleAbs(samples, alpha=1 / 257)
    if samples.ndim == 2:
        image = Image.fromarray(scaled)
        if clear is not None:
            image.putalpha(Image.fromarray(np.where(samples == clear, 0, 255).astype(np.uint8)))
        return image
    if samples.shape[2] == 3:
        return Image.fromarray(cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB))
    image = Image.fromarray(cv2.cvtColor(scaled, cv2.COLOR_BGRA2RGBA))
    return image.convert("LA") if png.grey else image


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Mode L, RGB or CMYK to sRGB. Raises what ImageCms raises for a profile that does not fit."""
    if not profile:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode == "L" and profile[16:20] == b"RGB ":  # the colour space that the profile describes
        image = image.convert("RGB")
    transform = _transform(profile, image.mode)
    return transform.apply(image) if transform else image


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB, relative colorimetric with black point compensation, as picture editors do.

    None if the profile is sRGB by whatever name: no colour moves by more than one level of 255.
    """
    transform = ImageCms.ImageCmsTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        "RGB",
        intent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode != "RGB":
        return transform
    probe = np.indices((18, 18, 18), np.uint8).reshape(3, 18, -1).T * np.uint8(15)
    moved = np.abs(np.asarray(transform.apply(Image.fromarray(probe))).astype(int) - probe)
    return transform if moved.max() > 1 else None


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Whatever goes wrong inside is a refusal of the file ``name``."""
    try:
        yield
    except Exception as error:
        raise Refused(_reason(error).finding.model_copy(update={"file": name})) from error


def _reason(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, MemoryError):
        return _refusal("image_too_large", "There is not enough memory to decode it.", "Make it smaller.")
    message = f"It cannot be decoded: {str(error)[:200] or type(error).__name__}."
    return _refusal("image_damaged", message, "Export or copy it again.")


def _check(what: str, value: int, limit: int) -> None:
    if value > limit:
        message = f"It has {value:,} {what}; at most {limit:,} are allowed."
        raise _refusal("image_too_large", message, "Make it smaller.", value, limit)


def _refusal(code: str, message: str, remedy: str, value: int | None = None, limit: int | None = None) -> Refused:
    return Refused(Finding(code=code, message=message, remedy=remedy, value=value, limit=limit))
