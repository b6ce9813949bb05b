"""Draws the contact sheet of a clip that QA does not pass: the moments in question beside the keyframe, and traces."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from core.light import Frame
from core.qa.inspector import Place, Trace
from core.qa.plot import FAINT, HEIGHT, INK, MARK, PAPER, font, plot

MOST = 12
"""Moments on one sheet."""
MOST_TRACES = 5
_THUMBNAIL, _KEYFRAME = 256, 400
"""Pixels of the longer side of a moment, and of the keyframe."""
_MARGIN, _LINE = 14, 15
_WIDEST, _PLOT_WIDTH = 1500, 900
"""Pixels: the sheet is no wider than the one, and plots are no narrower than the other."""


@dataclass(frozen=True)
class Moment:
    """One picture on the sheet."""

    frame: Frame
    """``(H, W, 3)`` uint8."""
    caption: Sequence[str]
    """Lines, of which the first three are shown."""
    places: Sequence[Place] = ()
    """What to draw rectangles around."""


def contact_sheet(
    moments: Sequence[Moment], keyframe: Frame | None, traces: Sequence[Trace], fps: float, marked: Sequence[int]
) -> bytes:
    """A PNG of up to ``MOST`` moments beside the keyframe's view with which the clip ought to begin, and its traces.

    The traces run over the whole clip, at ``fps``; in them ``marked`` are the frames that are in question.
    """
    pictures = [_thumbnail(moment) for moment in moments[:MOST]]
    cell = max(picture.width for picture in pictures) + _MARGIN, max(p.height for p in pictures) + 3 * _LINE + _MARGIN
    beside = None if keyframe is None else _reduced(keyframe, _KEYFRAME)
    left = _MARGIN + (0 if beside is None else beside.width + 2 * _MARGIN)
    columns = min(len(pictures), max(1, (_WIDEST - left) // cell[0]), max(3, math.ceil(len(pictures) / 2)))
    rows = math.ceil(len(pictures) / columns)
    width = max(left + columns * cell[0], _PLOT_WIDTH)
    top = _MARGIN + max(rows * cell[1], 0 if beside is None else beside.height + 2 * _LINE)
    traces = sorted(traces, key=_is_kept)[:MOST_TRACES]
    sheet = Image.new("RGB", (width, top + len(traces) * (HEIGHT + _MARGIN)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if beside is not None:
        sheet.paste(beside, (_MARGIN, _MARGIN))
        draw.text((_MARGIN, _MARGIN + beside.height + 4), "keyframe", INK, font(13))
    for index, (picture, moment) in enumerate(zip(pictures, moments, strict=False)):
        across, down = left + index % columns * cell[0], _MARGIN + index // columns * cell[1]
        sheet.paste(picture, (across, down))
        for number, line in enumerate(moment.caption[:3]):
            place = across, down + picture.height + 4 + number * _LINE
            draw.text(place, _fitting(line, cell[0] - 6), FAINT if number else INK, font(12))
    for index, trace in enumerate(traces):
        place = _MARGIN, top + index * (HEIGHT + _MARGIN)
        sheet.paste(plot(trace, fps, marked, width - 2 * _MARGIN), place)
    png = io.BytesIO()
    sheet.save(png, "PNG", compress_level=6)
    return png.getvalue()


def _is_kept(trace: Trace) -> bool:
    """Whether a trace stays within its limit: what breaks one must not be missing on the sheet."""
    return trace.limit is not None and not any(value > trace.limit for value in trace.values)


def _thumbnail(moment: Moment) -> Image.Image:
    picture = _reduced(moment.frame, _THUMBNAIL)
    right, bottom = picture.width - 1, picture.height - 1
    for x1, y1, x2, y2 in moment.places:
        box = (x1 * right, y1 * bottom, x2 * right, y2 * bottom)
        ImageDraw.Draw(picture).rectangle(box, outline=MARK, width=2)
    return picture


def _reduced(frame: Frame, side: int) -> Image.Image:
    """The picture with so many pixels along its longer side, or as it is where it has fewer."""
    picture = Image.fromarray(frame)
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return picture


def _fitting(line: str, width: int) -> str:
    """The line, cut where it is too wide."""
    if font(12).getlength(line) <= width:
        return line
    while line and font(12).getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
