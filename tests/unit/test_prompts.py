"""What is said to a model: captions of any kind, the camera's words, and never more than it hears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Keyframe
from core.errors import Refused
from core.generate.presets import Preset
from core.generate.prompts import (
    BYTES_A_TOKEN,
    CAMERA_WORDS,
    MAX_CAPTION_BYTES,
    as_sentence,
    caption_text,
    clip_caption,
    prompt_for,
)
from core.generate.studio import GenerationSettings
from core.motion import MotionType
from core.settings import Settings

RULES = GenerationSettings(prompt="A quiet room.")


def entry(motion: str = "zoom_in", **params: Any) -> Keyframe:
    """An entry whose path does not matter."""
    move = {"type": motion, "start_rect": [0, 0, 1, 1], "end_rect": [0.1, 0.1, 0.9, 0.9], "duration_sec": 6}
    return Keyframe.model_validate(
        {"image_path": "a.png", "motion": move, "generation_params": {"model": "m"} | params}
    )


def preset(camera: str = "virtual", **prompt: Any) -> Preset:
    """A preset of words alone."""
    return Preset.model_validate({
        "name": "m", "family": "wan", "weights": {"folder": "m"}, "camera": camera, "prompt": prompt,
        "parameters": {"motion_bucket_id": "translated: words", "camera_motion": "translated: words"},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("caption", "sentence"),
    [
        ("1girl, solo, blue hair", "The picture shows one girl, solo and blue hair."),
        (
            "masterpiece, best quality, 2girls, (red_dress:1.2), {smile}, score_9, 8k",
            "The picture shows two girls, red dress and smile.",
        ),
        ("best quality, masterpiece", "The picture shows best quality and masterpiece."),
        ("long_hair, looking_at_viewer", "The picture shows long hair and looking at viewer."),
        ("1girl\nsolo\noutdoors", "The picture shows one girl, solo and outdoors."),
        ("A girl, smiling, by the river", "A girl, smiling, by the river."),
        ("A woman stands in the rain. Her coat, red, shines.", "A woman stands in the rain. Her coat, red, shines."),
        ("On a hill, under old oaks, two children fly kites", "On a hill, under old oaks, two children fly kites."),
        ("Mountains", "Mountains."),
        ("日没の海。", "日没の海。"),
        ("", ""),
    ],
)
def test_tags_become_a_sentence_and_sentences_stay(caption: str, sentence: str) -> None:
    assert as_sentence(caption) == sentence


def test_the_caption_comes_before_the_settings_prompt() -> None:
    assert prompt_for(entry(), "A red barn.", preset(), RULES) == "A red barn. The camera is static."
    assert prompt_for(entry(), "", preset(), RULES) == "A quiet room. The camera is static."
    assert prompt_for(entry(), "", preset(), GenerationSettings()) == "The camera is static."


@pytest.mark.parametrize("motion", MotionType)
def test_a_virtual_camera_is_said_to_be_static_and_one_of_endpoints_to_move(motion: MotionType) -> None:
    for asked in (entry(motion), entry("static", camera_motion=motion)):
        assert prompt_for(asked, "A barn.", preset(), RULES) == "A barn. The camera is static."
        assert prompt_for(asked, "A barn.", preset("endpoints"), RULES) == f"A barn. {CAMERA_WORDS[motion]}"


@pytest.mark.parametrize(
    ("bucket", "word"),
    [
        (0, "Almost nothing"),
        (31, "Almost nothing"),
        (32, "gently"),
        (96, "naturally"),
        (159, "naturally"),
        (255, "vividly"),
    ],
)
def test_a_translated_bucket_says_how_much_moves(bucket: int, word: str) -> None:
    assert word in prompt_for(entry(motion_bucket_id=bucket), "A barn.", preset(), RULES)


def test_the_template_places_its_words_and_a_caption_is_never_a_template() -> None:
    said = prompt_for(entry(), "Curly {camera} braces {x}.", preset(template="{camera} || {caption}"), RULES)
    assert said == "The camera is static. || Curly {camera} braces {x}."


@given(st.text(max_size=3000), st.integers(64, 512), st.integers(0, 255))
def test_a_prompt_is_bounded_and_keeps_the_cameras_words(caption: str, tokens: int, bucket: int) -> None:
    caption = caption_text(caption.encode(errors="ignore").replace(b"\0", b""), "a.caption")
    said = prompt_for(entry(motion_bucket_id=bucket), caption, preset(max_tokens=tokens), RULES)
    assert len(said.encode()) <= BYTES_A_TOKEN * tokens
    assert said.endswith(CAMERA_WORDS[MotionType.static])
    assert said == " ".join(said.split())


def test_a_long_caption_ends_where_a_sentence_ends() -> None:
    said = prompt_for(entry(), "The tide comes in over the sand. " * 20, preset(max_tokens=64), RULES)
    assert said.startswith("The tide comes in over the sand. The tide comes in over the sand. ")
    assert said.endswith("The tide comes in over the sand. The camera is static.")


def test_a_caption_is_read_as_plain_text() -> None:
    assert caption_text("\ufeffEin  Hügel\r\n\tim Abend\x07rot.\n".encode(), "a") == "Ein Hügel im Abend rot."


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"caf\xe9 in the morning", "caption_not_text"),
        ("A barn.".encode("utf-16-le"), "caption_not_text"),
        ("A barn.".encode("utf-16"), "caption_not_text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "caption_not_text"),
        (b"a" * (MAX_CAPTION_BYTES + 1), "file_too_large"),
    ],
)
def test_what_is_no_caption_is_refused_with_its_name_and_a_remedy(data: bytes, code: str) -> None:
    with pytest.raises(Refused) as error:
        caption_text(data, "bild.caption")
    finding = error.value.finding
    assert (finding.code, finding.file) == (code, "bild.caption")
    assert finding.remedy


def test_a_clips_caption_lies_beside_its_keyframe(tmp_path: Path) -> None:
    assert clip_caption(tmp_path) == ""
    (tmp_path / "keyframe.caption").write_text("A barn.\n")
    assert clip_caption(tmp_path) == "A barn."


def test_no_shipped_negative_prompt_pushes_a_virtual_camera_away_from_standing_still() -> None:
    for shipped in Settings().presets.values():
        if shipped.camera == "virtual":
            assert not any(word in shipped.prompt.negative.lower() for word in ("静", "static", "still", "motionless"))
            assert "{camera}" in shipped.prompt.template
