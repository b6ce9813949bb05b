"""What is said to a model: the caption, or the settings' prompt, with a word on what moves and what the camera does."""

from __future__ import annotations

import re
from pathlib import Path

from core.contract import Keyframe
from core.errors import Refused
from core.generate.presets import Preset
from core.generate.studio import GenerationSettings
from core.motion import MotionType

CAPTION_SUFFIX = ".caption"
MAX_CAPTION_BYTES = 64 << 10
BYTES_A_TOKEN = 3
"""A tokenizer rarely makes more tokens of a text: about four letters of English are one, and one sign of Chinese."""

CAMERA_WORDS = {
    MotionType.static: "The camera is static.",
    MotionType.zoom_in: "The camera slowly moves closer.",
    MotionType.zoom_out: "The camera slowly moves back.",
    MotionType.pan_left: "The camera slowly pans to the left.",
    MotionType.pan_right: "The camera slowly pans to the right.",
}
BUCKET_WORDS = {
    32: "Almost nothing moves.",
    96: "Everything moves gently.",
    160: "Everything moves naturally.",
    256: "Everything moves vividly.",
}
"""What is said for a ``motion_bucket_id`` below so much."""

_QUALITY = re.compile(
    r"(masterpiece|(best|high|good|amazing|highest) quality|high ?res|absurdres|ultra[- ]detailed|highly detailed|"
    r"[48]k|u?hdr?|score \d( up)?|rating:? ?\w+|newest|very aesthetic)",
    re.IGNORECASE,
)
"""Tags that grade a picture and show nothing."""
_NUMBERED = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six"}


def caption_text(data: bytes, file: str) -> str:
    """A caption's text: one line, without control characters. Raises ``Refused`` where it is no text, or huge."""
    if len(data) > MAX_CAPTION_BYTES:
        raise Refused.because(
            "file_too_large",
            file=file,
            value=len(data),
            limit=MAX_CAPTION_BYTES,
            message=f"{len(data)} bytes are too many for a caption.",
            remedy=f"At most {MAX_CAPTION_BYTES} bytes are read of such a file.",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused.because(
            "caption_not_text",
            file=file,
            message=f"The caption is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}.",
            remedy="Save it as UTF-8, or take it away: then generation.prompt is used.",
        ) from None
    if "\0" in text:
        raise Refused.because(
            "caption_not_text",
            file=file,
            message="The caption holds NUL characters: it is no text, or UTF-16.",
            remedy="Save it as UTF-8, or take it away: then generation.prompt is used.",
        )
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def clip_caption(folder: Path) -> str:
    """The caption that lies in a clip's folder; empty where there is none. Raises ``Refused``, ``OSError``."""
    file = folder / f"keyframe{CAPTION_SUFFIX}"
    return caption_text(file.read_bytes(), file.name) if file.exists() else ""


def prompt_for(entry: Keyframe, caption: str, preset: Preset, rules: GenerationSettings) -> str:
    """The prompt of an entry; ``caption`` is empty where it has none. Not longer than the model hears."""
    places = {"{motion}": _motion_word(entry, preset), "{camera}": _camera_word(entry, preset)}
    said = as_sentence(caption) or rules.prompt
    fixed = sum(len(word.encode()) + 1 for word in (preset.prompt.template, *places.values()))
    places["{caption}"] = _cut(said, max(0, BYTES_A_TOKEN * preset.prompt.max_tokens - fixed))
    filled = re.sub(r"\{(caption|motion|camera)\}", lambda found: places[found[0]], preset.prompt.template)
    return " ".join(filled.split())


def as_sentence(caption: str) -> str:
    """A caption as models for video were trained on them: one that is a list of tags is made a sentence."""
    tags = [_tag(part) for part in re.split(r"[,\n;]", caption)]
    tags = [tag for tag in tags if tag]
    if not _is_tags(caption, tags):
        return caption if not caption or caption[-1] in ".!?…。！？\"'”" else f"{caption}."
    shown = [tag for tag in tags if not _QUALITY.fullmatch(tag)] or tags
    listed = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"The picture shows {listed}."


def _is_tags(caption: str, tags: list[str]) -> bool:
    """Whether this is a list of tags: several short parts, none of them with a sentence's words."""
    if len(tags) < 2 or re.search(r"[.!?](\s|$)|[。！？]", caption):
        return False
    words = [tag.split() for tag in tags]
    if any(len(part) > 4 for part in words) or sum(map(len, words)) > 2.5 * len(words):
        return False
    sentence_words = r"(?i)\b(a|an|the|is|are|was|were|his|her|their|its)\b"
    return "_" in caption or not re.search(sentence_words, caption)


def _tag(part: str) -> str:
    """A tag in plain words: no weight (``(blue_hair:1.2)``), no underscores, ``1girl`` as ``one girl``."""
    plain = re.sub(r":[\d.]+$", "", part.strip().strip("()[]{} ")).replace("_", " ").strip("()[]{} ")
    return re.sub(r"^([1-6])\+?(?=(girl|boy|woman|man|other|person|people)s?$)",
                  lambda found: f"{_NUMBERED[found[1]]} ", plain)  # fmt: skip


def _motion_word(entry: Keyframe, preset: Preset) -> str:
    bucket = entry.generation_params.motion_bucket_id
    if bucket is None or not preset.parameters.get("motion_bucket_id", "").startswith("translated"):
        return ""
    return next(word for limit, word in BUCKET_WORDS.items() if bucket < limit)


def _camera_word(entry: Keyframe, preset: Preset) -> str:
    """Of a virtual camera the model sees nothing: its own stands still."""
    asked = entry.generation_params.camera_motion or entry.motion.type
    return CAMERA_WORDS[asked if preset.camera == "endpoints" else MotionType.static]


def _cut(text: str, limit: int) -> str:
    """The text's beginning, in so many bytes of UTF-8, ended where a sentence or else a word ends."""
    if len(text.encode()) <= limit:
        return text
    head = text.encode()[:limit].decode(errors="ignore")
    for end in (r".*[.!?。！？]", r".*(?=\s)"):
        if (found := re.match(end, head, re.DOTALL)) and len(found[0]) > len(head) // 2:
            return found[0]
    return head
