"""What will be asked of a model for one clip, decided from its manifest entry before any GPU second is spent. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from core.contract import Keyframe
from core.errors import Refused
from core.generate.family import Family, family
from core.generate.presets import HONOURED, PARAMETERS, Parameter, Preset
from core.generate.prompts import prompt_for
from core.generate.studio import GenerationSettings
from core.motion import CameraPath, Rect, Size, frame_count
from core.settings import Settings


@dataclass(frozen=True)
class Plan:
    """All that a model is asked for one clip. The same plan makes the same frames again."""

    preset: str
    canvas: Size
    """(width, height) in pixels of the frames that the model makes."""
    view: Rect
    """What the canvas shows of the keyframe, 0..1 of the whole image."""
    stretched: float
    """How many times wider than high a square of the keyframe is on the canvas: 1, but where the keyframe ends."""
    last_view: Rect | None
    """``endpoints``: what the last frame is to show."""
    frames: int
    """How many base frames are made."""
    rate: Fraction
    """At how many a second they are shown."""
    slowed: float
    """How many times slower than natural that is; 1 is not at all."""
    steps: int
    guidance: float
    """Of the whole clip; where it grows along the clip, of its last frame."""
    guidance_low: float | None
    seed: int
    prompt: str
    negative: str
    max_tokens: int
    values: dict[Parameter, Any]
    """The manifest's own parameters, those that are honoured and those that are translated."""
    parameters: dict[str, str]
    """What became of every parameter that the manifest names: ``honoured``, or ``translated: to what``."""

    @property
    def guided(self) -> bool:
        """Whether the model runs twice a step, with the prompt and without."""
        return max(self.guidance, self.guidance_low or 0) > 1


STEPS_MIN, STEPS_MAX = 2, 200
"""How many steps a manifest may ask for: a schedule has two ends, and a preset has no more than 200 either."""
STRETCH_MAX = 0.02
"""How much wider than high, at most, a square of the keyframe may be on the canvas. The clip has it square again."""
SHAPES = 1.25
"""A canvas up to so many times wider, or higher, than what is to be seen is looked at."""
STRETCH_COST = 25.0
"""How many times worse than a canvas larger or smaller by a share it is to stretch the picture by that share."""


def preset_of(entry: Keyframe, settings: Settings) -> Preset:
    """The preset that an entry names. Raises ``Refused``."""
    model = entry.generation_params.model
    if model not in settings.presets:
        raise Refused.because(
            "model_unknown",
            field="generation_params.model",
            value=model,
            message=f"There is no preset '{model}' here.",
            remedy=f"Choose one of: {', '.join(sorted(settings.presets))}.",
        )
    return settings.presets[model]


def plan_of(clip_seed: int, entry: Keyframe, picture: Size, caption: str, settings: Settings) -> Plan:
    """The plan of one clip of a keyframe of ``picture`` (width, height), by a preset that has a model.

    ``caption`` is empty where there is none. Raises ``Refused`` for all that the preset cannot honour.
    """
    preset, rules = preset_of(entry, settings), settings.generation
    output = settings.output.asked_by(entry.generation_params, picture)
    prompt = prompt_for(entry, caption, preset, rules) if family(preset.family).has_prompt else ""
    return make_plan(entry, picture, output, preset, seed=clip_seed, prompt=prompt, rules=rules)


def make_plan(
    entry: Keyframe, picture: Size, output: Size, preset: Preset, *, seed: int, prompt: str, rules: GenerationSettings
) -> Plan:
    """The plan of one clip of a keyframe of ``picture`` (width, height), delivered at ``output``.

    Raises ``Refused`` for all that the preset cannot honour, with what would pass.
    """
    kind = family(preset.family)
    parameters = judge_parameters(entry, preset)
    check_terms(preset, rules)
    frames, rate, slowed = _timing(entry, preset, kind)
    path = entry.motion.path.fitted(picture, output)
    shown: tuple[Rect, ...] = (path.start, path.end)
    closest = path.start.width
    if preset.camera == "virtual":
        shown, closest = (_hull(path),), min(path.start.width, path.end.width)
    canvas = _canvas(shown, preset.canvas.resolution_min * output[0] / (closest * picture[0]), picture, preset, kind)
    values = {name: getattr(entry.generation_params, name) for name in PARAMETERS if name in parameters}
    return Plan(
        preset=preset.name,
        canvas=canvas.size,
        view=canvas.views[0],
        stretched=canvas.stretched,
        last_view=canvas.views[1] if preset.camera == "endpoints" else None,
        frames=frames,
        rate=rate,
        slowed=slowed,
        steps=values["num_inference_steps"] if parameters.get("num_inference_steps") == HONOURED else preset.steps,
        guidance=_guidance(entry, preset)[1],
        guidance_low=preset.guidance_low,
        seed=seed,
        prompt=prompt,
        negative=preset.prompt.negative,
        max_tokens=preset.prompt.max_tokens,
        values=values,
        parameters=parameters,
    )


def judge_parameters(entry: Keyframe, preset: Preset) -> dict[str, str]:
    """What becomes of every parameter that the manifest names. Raises ``Refused`` for the first that is refused."""
    found: dict[str, str] = {}
    for name in PARAMETERS:
        given = getattr(entry.generation_params, name)
        if given is None:
            continue
        if name not in preset.parameters:
            takes = ", ".join(preset.parameters) or "none of them"
            raise Refused.because(
                "parameter_refused",
                field=f"generation_params.{name}",
                value=str(given),
                message=f"The preset '{preset.name}' has nothing that {name} could set.",
                remedy=f"Leave it out, or choose another model. This one takes: {takes}.",
            )
        found[name] = preset.parameters[name]
    steps = entry.generation_params.num_inference_steps
    if steps is not None and steps != preset.steps and found["num_inference_steps"] == HONOURED:
        _refuse_other_steps(steps, preset)
    least, most = _guidance(entry, preset)
    if least > most:
        named = "max" if entry.generation_params.min_guidance_scale is None else "min"
        raise Refused.because(
            "parameter_refused",
            field=f"generation_params.{named}_guidance_scale",
            value=least if named == "min" else most,
            limit=most if named == "min" else least,
            message=f"Guidance grows along a clip of '{preset.name}', and cannot from {least:g} to {most:g}.",
            remedy=f"Ask for a min_guidance_scale of at most {most:g}, or a max_guidance_scale of at least {least:g}.",
        )
    return found


def _refuse_other_steps(steps: int, preset: Preset) -> None:
    """Raise ``Refused`` where the model cannot work in so many steps, which are not the preset's."""
    if preset.fixed_steps:
        raise Refused.because(
            "parameter_refused",
            field="generation_params.num_inference_steps",
            value=steps,
            limit=preset.steps,
            message=f"'{preset.name}' is distilled to exactly {preset.steps} steps.",
            remedy=f"Leave it out, or ask for {preset.steps}.",
        )
    if not STEPS_MIN <= steps <= STEPS_MAX:
        raise Refused.because(
            "parameter_refused",
            field="generation_params.num_inference_steps",
            value=steps,
            limit=STEPS_MIN if steps < STEPS_MIN else STEPS_MAX,
            message=f"'{preset.name}' takes {STEPS_MIN} to {STEPS_MAX} steps.",
            remedy=f"Ask for so many, or leave it out, which makes {preset.steps}.",
        )


def _guidance(entry: Keyframe, preset: Preset) -> tuple[float, float]:
    """Of the first frame and of the last: the manifest's where they are honoured, else the preset's.

    Of most families it is one figure, and theirs alone.
    """
    last = preset.call.get("max_guidance_scale", preset.guidance)
    found = {"min_guidance_scale": preset.call.get("min_guidance_scale", min(1.0, last)), "max_guidance_scale": last}
    for name in preset.honoured & found.keys():
        if (asked := getattr(entry.generation_params, name)) is not None:
            found[name] = asked
    return found["min_guidance_scale"], found["max_guidance_scale"]


def check_terms(preset: Preset, rules: GenerationSettings) -> None:
    """Raise ``Refused`` where the licence, or the settings, do not allow the preset here."""
    if preset.approximate and not rules.approximate:
        raise Refused.because(
            "model_approximate",
            field="generation_params.model",
            value=preset.name,
            message=f"'{preset.name}' only approximates what is asked: {preset.approximate}.",
            remedy="Choose another model, or set generation.approximate = true in dropreel.toml.",
        )
    licence = preset.licence
    if licence is None or not licence.excludes:
        return
    excluded = ", ".join(licence.excludes)
    if not rules.region:
        raise Refused.because(
            "region_unknown",
            field="generation_params.model",
            value=preset.name,
            message=f"The licence of '{preset.name}' ({licence.name}) excludes {excluded}, and nothing says where this "
            "server works.",
            remedy='Set generation.region in dropreel.toml, such as "US", or choose another model.',
        )
    if rules.regions & set(licence.excludes):
        raise Refused.because(
            "licence_excludes",
            field="generation_params.model",
            value=preset.name,
            message=f"The licence of '{preset.name}' ({licence.name}) excludes {excluded}; this server works in "
            f"{rules.region}.",
            remedy=f"Choose another model. The terms: {licence.url}",
        )


def _timing(entry: Keyframe, preset: Preset, kind: Family) -> tuple[int, Fraction, float]:
    """How many base frames, at how many a second, and how many times slower than natural.

    The last base frame is not before the last delivered one. Raises ``Refused`` where that needs too many.
    """
    delivered = frame_count(entry.motion.duration_sec, entry.generation_params.fps)
    span = Fraction(max(delivered - 1, 1), entry.generation_params.fps)  # from the first frame shown to the last
    frames = kind.frames(math.ceil(span * preset.rate) + 1)
    if frames <= preset.frames_max:
        return frames, preset.rate, 1.0
    most = (preset.frames_max - 1) // kind.frame_step * kind.frame_step + 1
    natural = Fraction(most - 1) / preset.rate
    slowed = float(span / natural) if natural else math.inf
    if preset.long == "refuse" or slowed > preset.stretch_max:
        longest = float(natural) * (preset.stretch_max if preset.long == "stretch" else 1.0)
        raise Refused.because(
            "clip_too_long",
            field="motion.duration_sec",
            value=entry.motion.duration_sec,
            limit=round(longest, 3),
            message=f"{entry.motion.duration_sec:g} s need {frames} frames of '{preset.name}', which makes "
            f"{most} at most{f', shown {preset.stretch_max:g} times slower' if preset.long == 'stretch' else ''}.",
            remedy=f"Make it {math.floor(longest * 10) / 10:g} s or less, or choose another model.",
        )
    return most, (most - 1) / span, slowed


def _hull(path: CameraPath) -> Rect:
    """All that the camera ever sees."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = path.start, path.end
    return Rect(min(ax1, bx1), min(ay1, by1), max(ax2, bx2), max(ay2, by2))


class _Canvas(NamedTuple):
    size: Size
    views: tuple[Rect, ...]
    """What it shows, one for each rectangle that is to be on it; they lie alike on the canvas."""
    stretched: float


def _canvas(shown: tuple[Rect, ...], detail: float, picture: Size, preset: Preset, kind: Family) -> _Canvas:
    """The canvas for rectangles of one shape, with at least ``detail`` of its pixels for one of the keyframe.

    A canvas has sides of the family's multiples, and so hardly ever the shape of what is to be seen: the view grows
    into the rest of the keyframe, and only where that ends is the picture stretched. Of all canvases the one that
    wastes least is taken: near the area that the preset asks for, near the shape, and hardly stretched.
    """
    limits = preset.canvas
    width, height = shown[0].width * picture[0], shown[0].height * picture[1]
    needed = detail * detail * width * height
    target = max(needed, float(limits.pixels))
    best: tuple[float, _Canvas] | None = None
    for size in _sizes(width / height, preset, kind):
        views, stretched = _views(shown, size, picture)
        x_detail = size[0] / (views[0].width * picture[0])
        if min(x_detail, x_detail / stretched) < detail * (1 - 1e-9):
            continue
        waste = math.log(views[0].width * views[0].height / (shown[0].width * shown[0].height))
        cost = waste + abs(math.log(size[0] * size[1] / target)) + STRETCH_COST * abs(math.log(stretched))
        if best is None or cost < best[0]:
            best = cost, _Canvas(size, views, stretched)
    if best is None:
        raise Refused.because(
            "view_too_close",
            field="motion",
            value=round(needed),
            limit=limits.pixels_max,
            message=f"So close a view needs a picture of {needed / 1e6:.2f} megapixels; '{preset.name}' makes "
            f"{limits.pixels_max / 1e6:.2f} at most.",
            remedy="Make the smaller rectangle larger, or the larger one smaller.",
        )
    if abs(math.log(best[1].stretched)) > STRETCH_MAX:
        raise Refused.because(
            "canvas_impossible",
            field="motion",
            message=f"'{preset.name}' makes no picture of the shape that this camera path sees, "
            f"{width / height:.2f} times as wide as high.",
            remedy="Draw rectangles that keep away from the keyframe's edges, or choose another output size.",
        )
    return best[1]


def _sizes(shape: float, preset: Preset, kind: Family) -> Iterator[Size]:
    """The sizes that the family makes near a shape (width to height), up to the preset's largest."""
    step, most = kind.multiple, preset.canvas.pixels_max
    for across in range(step, int(math.sqrt(most * shape * SHAPES)) + step, step):
        fitting = across / shape / step
        for down in range(max(1, math.floor(fitting / SHAPES)) * step, (math.ceil(fitting * SHAPES) + 1) * step, step):
            if across * down <= most and kind.makes((across, down), preset):
                yield across, down


def _views(shown: tuple[Rect, ...], canvas: Size, picture: Size) -> tuple[tuple[Rect, ...], float]:
    """Views that have the canvas's shape about rectangles that share one, and how their pixels are stretched.

    Each grows by the same shares to the same sides, as far as the keyframe goes.
    """
    first = shown[0]
    shape = canvas[0] * picture[1] / (canvas[1] * picture[0])  # the canvas's, with the keyframe taken as square
    left, right = _grown(first.height * shape / first.width - 1, [(r.x1, 1 - r.x2, r.width) for r in shown])
    above, below = _grown(first.width / shape / first.height - 1, [(r.y1, 1 - r.y2, r.height) for r in shown])
    views = tuple(
        Rect(
            max(0.0, r.x1 - left * r.width),
            max(0.0, r.y1 - above * r.height),
            min(1.0, r.x2 + right * r.width),
            min(1.0, r.y2 + below * r.height),
        )
        for r in shown
    )
    return views, shape * views[0].height / views[0].width


def _grown(share: float, extents: list[tuple[float, float, float]]) -> tuple[float, float]:
    """How far rectangles grow at either end, as shares of themselves: by ``share`` in all, evenly if there is room.

    ``extents`` are what there is before each, behind it, and its length.
    """
    before = max(0.0, min(room / length for room, _, length in extents))
    behind = max(0.0, min(room / length for _, room, length in extents))
    share = min(max(share, 0.0), before + behind)
    first = min(max(share / 2, share - behind), before)
    return first, share - first
