"""Draws the contact sheet of a clip that QA does not pass: the moments in question beside the keyframe."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from core.light import Frame

MOST = 11
"""Moments on one sheet; of more, as many are shown, spread evenly."""
_THUMBNAIL = 300
"""Pixels of the longer side."""
_MARGIN, _CAPTION = 10, 34
_PAPER, _INK, _MARK = (32, 32, 32), (230, 230, 230), (255, 80, 40)


@dataclass(frozen=True)
class Moment:
    """One picture on the sheet."""

    frame: Frame
    """``(H, W, 3)`` uint8."""
    caption: str
    """Two lines at most."""
    place: tuple[float, float, float, float] | None = None
    """What to draw a rectangle around: (x1, y1, x2, y2) as shares of the frame's width and height."""


def contact_sheet(moments: Sequence[Moment], keyframe: Frame | None) -> bytes:
    """A PNG of the moments, in rows, after the view of the keyframe that the clip ought to begin with."""
    if len(moments) > MOST:
        moments = [moments[index * (len(moments) - 1) // (MOST - 1)] for index in range(MOST)]
    if keyframe is not None:
        moments = [Moment(keyframe, "keyframe"), *moments]
    pictures = [_thumbnail(moment) for moment in moments]
    width = max(picture.width for picture in pictures) + _MARGIN
    height = max(picture.height for picture in pictures) + _CAPTION + _MARGIN
    columns = min(len(pictures), max(1, round(math.sqrt(len(pictures) * height / width * 16 / 9))))
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for index, (picture, moment) in enumerate(zip(pictures, moments, strict=True)):
        left, top = _MARGIN + index % columns * width, _MARGIN + index // columns * height
        sheet.paste(picture, (left, top))
        draw.text((left, top + picture.height + 2), moment.caption, _INK, font)
    png = io.BytesIO()
    sheet.save(png, "PNG", compress_level=3)
    return png.getvalue()


def _thumbnail(moment: Moment) -> Image.Image:
    picture = Image.fromarray(moment.frame)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    if moment.place is not None:
        x1, y1, x2, y2 = moment.place
        right, bottom = picture.width - 1, picture.height - 1
        box = (x1 * right, y1 * bottom, x2 * right, y2 * bottom)
        ImageDraw.Draw(picture).rectangle(box, outline=_MARK, width=2)
    return picture
