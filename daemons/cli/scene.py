"""A detailed picture that the demo draws for itself: hills at dusk, full of edges and texture to see a camera by."""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (1536, 864)
SKY = ((24, 28, 64), (92, 60, 110), (230, 126, 92), (255, 206, 140))
HILLS = ((96, 74, 118), (70, 58, 100), (48, 44, 80), (30, 32, 58), (16, 20, 36))


def draw_scene(seed: int = 7) -> bytes:
    """The picture as PNG bytes, 1536×864; the same for the same seed."""
    width, height = SIZE
    dice = np.random.default_rng(seed)
    across = np.arange(width)
    rows = np.linspace(0, len(SKY) - 1, height)
    sky = np.stack([np.interp(rows, range(len(SKY)), [colour[c] for colour in SKY]) for c in range(3)], axis=-1)
    picture = np.repeat(sky[:, None], width, axis=1)
    _sun(picture)
    _stars(picture, dice)
    for number, colour in enumerate(HILLS):
        ridge = height * (0.48 + 0.11 * number) + _ridge(across, number, dice)
        below = np.arange(height)[:, None] >= ridge[None]
        texture = dice.normal(0, 3 + 2 * number, (height, width, 1))
        picture = np.where(below[..., None], np.array(colour) + texture, picture)
        _trees(picture, ridge, colour, number, dice)
    file = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _sun(picture: NDArray[np.float64]) -> None:
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot(x - width * 0.62, y - height * 0.42)
    glow = np.exp(-((distance / 190) ** 2))[..., None]
    disc = np.clip(58 - distance, 0, 1)[..., None]
    picture += glow * (np.array((255, 190, 120)) - picture) * 0.6
    picture += disc * (np.array((255, 240, 200)) - picture)


def _stars(picture: NDArray[np.float64], dice: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    for x, y, light in zip(
        dice.integers(0, width, 260), dice.integers(0, height * 2 // 5, 260), dice.random(260), strict=True
    ):
        picture[y, x] += (255 - picture[y, x]) * light


def _ridge(across: NDArray[np.int64], number: int, dice: np.random.Generator) -> NDArray[np.float64]:
    waves = [(dice.uniform(20, 46) / k**1.1, dice.uniform(0.002, 0.004) * k, dice.uniform(0, 6)) for k in range(1, 24)]
    return sum((a * np.sin(across * f * (1 + number / 4) + p) for a, f, p in waves), np.zeros(len(across)))


def _trees(
    picture: NDArray[np.float64],
    ridge: NDArray[np.float64],
    colour: tuple[int, int, int],
    number: int,
    dice: np.random.Generator,
) -> None:
    for x in dice.integers(0, len(ridge), 26 * (number + 1)):
        tall = int(dice.uniform(6, 12) * (1 + number))
        foot = int(ridge[x]) + 3
        shape = np.array([(x - tall // 4, foot), (x, foot - tall), (x + tall // 4, foot)], np.int32)
        cv2.fillPoly(picture, [shape], tuple(0.8 * part for part in colour), lineType=cv2.LINE_8)
