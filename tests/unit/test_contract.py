"""The contract is the design's to the letter, keeps what it is given, and says clearly what it refuses."""

from __future__ import annotations

import itertools
import json
import re
import string
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.contract import (
    MAX_JSON_BYTES,
    SCHEMAS,
    Clip,
    GenerationParams,
    Keyframe,
    Manifest,
    Motion,
    MotionSidecar,
    PayloadFile,
    Record,
    Rejection,
    clip_id,
    now,
    parse,
    seed_from,
    work_key,
)
from core.errors import Finding, Refused
from core.motion import Easing, MotionType, Rect

# As the design prints them, to the last space.
SIDECAR = """\
{"keyframe": [0.0, 0.0, 1.0, 1.0], "motion_type": "zoom_in", "motion_intensity": 0.6,
 "start_frame": [0.1, 0.1, 0.9, 0.9], "end_frame": [0.3, 0.3, 0.7, 0.7], "duration_sec": 6.0}
"""
MANIFEST = """\
{"project_id": "video_gen_001", "batch_id": "20250704_143022",
 "keyframes": [{"image_path": "__video_keyframes/img_001.png",
   "motion": {"type": "zoom_in", "start_rect": [0.1, 0.1, 0.9, 0.9], "end_rect": [0.3, 0.3, 0.7, 0.7],
              "duration_sec": 6.0, "easing": "ease_in_out"},
   "generation_params": {"model": "stable_video_diffusion_v1.1", "motion_bucket_id": 127, "fps": 30,
                         "noise_aug_strength": 0.02, "seed": 42}}]}
"""
SHA256 = "0123456789abcdef" * 4


def _refusal(model: type[Record], text: str | bytes) -> Finding:
    with pytest.raises(Refused) as refused:
        parse(model, text if isinstance(text, bytes) else text.encode(), "it.json")
    finding = refused.value.finding
    assert finding.file == "it.json"
    assert finding.remedy, "says what to do"
    return finding


def _changed(text: str, *place: str | int, to: object = ...) -> str:
    """The JSON with another value at a place, or with nothing there."""
    whole = at = json.loads(text)
    for key in place[:-1]:
        at = at[key]
    if to is ...:
        del at[place[-1]]
    else:
        at[place[-1]] = to
    return json.dumps(whole)


def test_the_designs_sidecar_parses_as_it_stands() -> None:
    sidecar = parse(MotionSidecar, SIDECAR.encode(), "img_001.motion.json")
    assert sidecar.motion_type is MotionType.zoom_in
    assert sidecar.end_frame == Rect(0.3, 0.3, 0.7, 0.7)
    assert (sidecar.duration_sec, sidecar.motion_intensity) == (6.0, 0.6)
    assert sidecar.easing is Easing.ease_in_out, "the design's default"


def test_the_designs_manifest_parses_as_it_stands() -> None:
    manifest = parse(Manifest, MANIFEST.encode(), "manifest.json")
    (entry,) = manifest.keyframes
    assert (manifest.project_id, manifest.batch_id) == ("video_gen_001", "20250704_143022")
    assert (entry.image_path, entry.image_name, entry.stem) == (
        "__video_keyframes/img_001.png",
        "img_001.png",
        "img_001",
    )
    assert entry.motion.path.start == Rect(0.1, 0.1, 0.9, 0.9)
    params = entry.generation_params
    assert (params.model, params.fps, params.seed, params.motion_bucket_id) == (
        "stable_video_diffusion_v1.1",
        30,
        42,
        127,
    )
    assert not entry.files, "it carries no hashes"


@pytest.mark.parametrize(("model", "text"), [(MotionSidecar, SIDECAR), (Manifest, MANIFEST)])
def test_what_was_written_by_hand_is_kept_and_only_added_to(model: type[Record], text: str) -> None:
    def kept(given: Any, written: Any) -> bool:
        if isinstance(given, dict):
            return all(kept(value, written[key]) for key, value in given.items())
        if isinstance(given, list):
            return len(given) == len(written) and all(map(kept, given, written))
        return bool(given == written)

    record = parse(model, text.encode(), "it.json")
    assert kept(json.loads(text), json.loads(record.to_json()))
    assert parse(model, record.to_json(), "it.json") == record


UNREADABLE = {
    "empty": b"",
    "truncated": SIDECAR.encode()[:60],
    "not UTF-8": SIDECAR.encode().replace(b"zoom_in", b"zoom\xff"),
    "UTF-16": SIDECAR.encode("utf-16"),
    "nested too deep": b"[" * 100_000,
    "two documents": SIDECAR.encode() * 2,
    "a surrogate alone": SIDECAR.replace("zoom_in", "\\ud800").encode(),
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("model", SCHEMAS.values(), ids=SCHEMAS)
def test_what_is_no_json_is_refused(model: type[Record], text: bytes) -> None:
    assert _refusal(model, text).code == "json_invalid"


@pytest.mark.parametrize("text", [b"null", b"[]", b"7", b'"zoom_in"'])
def test_json_that_is_no_object_is_refused(text: bytes) -> None:
    assert _refusal(Manifest, text).code == "field_invalid"


def test_json_that_is_too_large_is_refused_unread() -> None:
    finding = _refusal(MotionSidecar, b" " * (MAX_JSON_BYTES + 1))
    assert (finding.code, finding.limit) == ("json_too_large", MAX_JSON_BYTES)


@pytest.mark.parametrize("version", [0, 2, "1.1", None], ids=repr)
@pytest.mark.parametrize(("model", "text"), [(MotionSidecar, SIDECAR), (Manifest, MANIFEST)])
def test_an_unknown_version_is_refused(model: type[Record], text: str, version: object) -> None:
    finding = _refusal(model, _changed(text, "schema_version", to=version))
    assert (finding.code, finding.field) == ("version_unknown", "schema_version")


@pytest.mark.parametrize(
    ("model", "text", "place", "field"),
    [
        (MotionSidecar, SIDECAR, ("easeing",), "easeing"),
        (Manifest, MANIFEST, ("keyframes", 0, "sidecar"), "keyframes[0].sidecar"),
        (Manifest, MANIFEST, ("keyframes", 0, "motion", "speed"), "keyframes[0].motion.speed"),
        (Manifest, MANIFEST, ("keyframes", 0, "generation_params", "steps"), "keyframes[0].generation_params.steps"),
    ],
)
def test_an_unknown_field_is_refused(model: type[Record], text: str, place: tuple[str | int, ...], field: str) -> None:
    finding = _refusal(model, _changed(text, *place, to=1))
    assert (finding.code, finding.field) == ("field_unknown", field)


@pytest.mark.parametrize("field", json.loads(SIDECAR))
def test_a_missing_field_is_refused(field: str) -> None:
    finding = _refusal(MotionSidecar, _changed(SIDECAR, field))
    assert (finding.code, finding.field) == ("field_missing", field)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("model", "text", "before", "field"),
    [
        (MotionSidecar, SIDECAR, '"motion_intensity": ', "motion_intensity"),
        (MotionSidecar, SIDECAR, '"duration_sec": ', "duration_sec"),
        (MotionSidecar, SIDECAR, '"start_frame": [', "start_frame[0]"),
        (Manifest, MANIFEST, '"end_rect": [0.3, ', "keyframes[0].motion.end_rect[1]"),
        (Manifest, MANIFEST, '"noise_aug_strength": ', "keyframes[0].generation_params.noise_aug_strength"),
    ],
)
def test_what_is_no_finite_number_is_refused(
    model: type[Record], text: str, before: str, field: str, number: str
) -> None:
    given = re.sub(re.escape(before) + r"[\d.]+", before + number, text, count=1)
    assert number in given
    finding = _refusal(model, given)
    assert (finding.code, finding.field) == ("field_invalid", field)


PATHS = {
    "absolute": "/etc/passwd.png",
    "two slashes": "//host/img.png",
    "a drive": "C:/img.png",
    "climbs": "../img.png",
    "climbs within": "__video_keyframes/../../img.png",
    "climbs at the end": "__video_keyframes/..",
    "backslash": "__video_keyframes\\img.png",
    "backslash on a second line": "a\nb\\..\\img.png",
    "hidden": "__video_keyframes/.img.png",
    "hidden folder": ".ssh/img.png",
    "no name": "",
    "the folder itself": ".",
    "NUL": "img\0.png",
    "longer than a name may be": "ä" * 126 + ".png",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    finding = _refusal(Manifest, _changed(MANIFEST, "keyframes", 0, "image_path", to=path))
    assert (finding.code, finding.field) == ("field_invalid", "keyframes[0].image_path")


@pytest.mark.parametrize(
    "name", ["a/b.png", "../b.png", ".b.png", "b c.png", "bücher.png", "b\n.png", "", "-rf", "b" * 129]
)
def test_a_name_on_the_wire_is_plain_in_every_shell(name: str) -> None:
    file = {"name": "img_001.png", "path": name, "size": 1, "sha256": SHA256, "inode": 1, "mtime_ns": 1}
    finding = _refusal(Manifest, _changed(MANIFEST, "keyframes", 0, "files", to=[file]))
    assert finding.field == "keyframes[0].files[0].path"


@pytest.mark.parametrize(
    "batch_id",
    ["", "20250704", "20250704-143022", "20250704_143022\n", "../../20250704_143022", "٢٠٢٥٠٧٠٤_١٤٣٠٢٢",
     "20251304_143022", "20250230_143022", "20250704_246060", "99999999_999999"],
)  # fmt: skip
def test_a_batch_id_is_a_moment_in_ascii(batch_id: str) -> None:
    finding = _refusal(Manifest, _changed(MANIFEST, "batch_id", to=batch_id))
    assert (finding.code, finding.field) == ("field_invalid", "batch_id")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("seed",), -1),
        (("seed",), 2**63),
        (("fps",), 0),
        (("fps",), 29.97),
        (("fps",), 121),
        (("width",), 577),
        (("model",), "../../models/x"),
        (("motion_bucket_id",), 256),
    ],
    ids=str,
)
def test_parameters_beyond_their_range_are_refused(place: tuple[str], value: object) -> None:
    finding = _refusal(Manifest, _changed(MANIFEST, "keyframes", 0, "generation_params", *place, to=value))
    assert finding.field == f"keyframes[0].generation_params.{place[0]}"


@pytest.mark.parametrize(
    "twin",
    ["__video_keyframes/img_001.jpg", "elsewhere/img_001.png", "IMG_001.png"],
)
def test_two_entries_of_one_stem_are_refused(twin: str) -> None:
    entry = json.loads(MANIFEST)["keyframes"][0]
    finding = _refusal(Manifest, _changed(MANIFEST, "keyframes", to=[entry, {**entry, "image_path": twin}]))
    assert "img_001" in finding.message


def test_one_stem_in_two_unicode_forms_is_one_stem() -> None:
    entry = json.loads(MANIFEST)["keyframes"][0]
    twins = [{**entry, "image_path": unicodedata.normalize(form, "é.png")} for form in ("NFC", "NFD")]
    assert "é" in _refusal(Manifest, _changed(MANIFEST, "keyframes", to=twins)).message


def test_files_must_begin_with_the_image() -> None:
    file = {"name": "img_002.png", "path": "001.png", "size": 1, "sha256": SHA256, "inode": 1, "mtime_ns": 1}
    assert _refusal(Manifest, _changed(MANIFEST, "keyframes", 0, "files", to=[file])).field == "keyframes[0]"


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=40).filter(
    lambda name: not name.startswith(".")
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SHAS = st.text("0123456789abcdef", min_size=64, max_size=64)
RECTS = st.builds(Rect, FINITE, FINITE, FINITE, FINITE)
MOTIONS = st.builds(
    Motion,
    type=st.sampled_from(MotionType),
    start_rect=RECTS,
    end_rect=RECTS,
    duration_sec=st.floats(0, 3600, exclude_min=True),
    easing=st.sampled_from(Easing),
)
PARAMS = st.builds(
    GenerationParams,
    model=st.text(string.ascii_letters, min_size=1, max_size=60),
    fps=st.integers(1, 120),
    seed=st.none() | st.integers(0, 2**63 - 1),
    noise_aug_strength=st.none() | st.floats(0, 1),
    camera_motion=st.none() | st.sampled_from(MotionType),
    start_rect=st.none() | RECTS,
)


@st.composite
def keyframes(draw: st.DrawFn, name: str, number: int) -> Keyframe:
    """Entries with files whose first is the image."""
    image = PayloadFile(
        name=name,
        path=f"{number:03d}.png",
        size=draw(st.integers(0, 2**40)),
        sha256=draw(SHAS),
        inode=draw(st.integers(0, 2**64)),
        mtime_ns=draw(st.integers(-(2**63), 2**63)),
    )
    files = draw(st.sampled_from([[], [image]]))
    return Keyframe(
        image_path=f"__video_keyframes/{name}",
        motion=draw(MOTIONS),
        generation_params=draw(PARAMS),
        files=files,
        priority=draw(st.integers(-100, 100)),
    )


def _same_clip_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


MANIFESTS = st.lists(NAMES.map(lambda name: name + ".png"), min_size=1, max_size=3, unique_by=_same_clip_name).flatmap(
    lambda names: st.builds(
        Manifest,
        project_id=st.just("video_gen_001"),
        batch_id=st.datetimes().map(lambda moment: f"{moment:%Y%m%d_%H%M%S}".zfill(15)),
        keyframes=st.tuples(*map(keyframes, names, itertools.count(1))).map(list),
    )
)


@given(MANIFESTS)
def test_every_manifest_survives_json(manifest: Manifest) -> None:
    assert parse(Manifest, manifest.to_json(), "manifest.json") == manifest


@settings(max_examples=30)
@given(MANIFESTS)
def test_a_clip_id_is_one_that_the_contract_takes(manifest: Manifest) -> None:
    entry = manifest.keyframes[0]
    for number, run in ((1, 1), (999, 2), (10_000, 9999)):
        name = clip_id(manifest.batch_id, number, SHA256, run)
        clip = Clip(clip_id=name, run=run, batch_id=manifest.batch_id, entry=entry, image="keyframe.png",
                    seed=seed_from(SHA256), taken_at=now())  # fmt: skip
        assert parse(Clip, clip.to_json(), "clip.json") == clip


def test_a_work_key_tells_clips_apart_that_are_not_the_same() -> None:
    file = PayloadFile(name="img_001.png", path="001.png", size=1, sha256=SHA256, inode=1, mtime_ns=1)
    entry = parse(Manifest, MANIFEST.encode(), "m").keyframes[0].model_copy(update={"files": [file]})
    caption = file.model_copy(update={"name": "img_001.caption", "path": "001.caption"})
    elsewhere = file.model_copy(update={"inode": 2, "mtime_ns": 2, "path": "002.png", "name": "other.png"})
    assert work_key(entry.model_copy(update={"files": [elsewhere], "image_path": "x/other.png"})) == work_key(entry)
    different: list[dict[str, Any]] = [
        {"files": [file.model_copy(update={"sha256": SHA256[::-1]})]},
        {"files": [file, caption]},
        {"motion": entry.motion.model_copy(update={"duration_sec": 5.0})},
        {"generation_params": entry.generation_params.model_copy(update={"seed": 43})},
    ]
    assert len({work_key(entry.model_copy(update=change)) for change in different} | {work_key(entry)}) == 5


def test_a_reason_leads_with_the_first_error_whatever_the_names() -> None:
    findings = [
        Finding(code="soft", message="It is soft.", severity="warning"),
        Finding(code="too_fast", message="It is too fast.", field="end_frame", remedy="Slow down."),
    ]
    reason = Rejection.of(findings, ["a.png", "b\udcff.png"])
    assert (reason.code, reason.field, reason.remedy) == ("too_fast", "end_frame", "Slow down.")
    assert parse(Rejection, reason.to_json(), "reason.json") == reason


# The published schemas: checked by the part of JSON Schema 2020-12 that they use.

TYPES: dict[object, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def _breaks(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield from _breaks(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema and all(any(_breaks(value, option, root)) for option in schema["anyOf"]):
        yield "anyOf"
    kind = schema.get("type")
    if kind == "null" and value is not None:
        yield "type"
    elif kind in TYPES and (not isinstance(value, TYPES[kind]) or isinstance(value, bool) is not (kind == "boolean")):
        yield "type"
        return
    if "const" in schema and value != schema["const"]:
        yield "const"
    if "enum" in schema and value not in schema["enum"]:
        yield "enum"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield "pattern"
    if isinstance(value, (int, float)):
        low, high = schema.get("minimum", -float("inf")), schema.get("maximum", float("inf"))
        if not low <= value <= high or value <= schema.get("exclusiveMinimum", -float("inf")):
            yield "range"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield "items"
        kinds = schema.get("prefixItems", []) + [schema.get("items", {})] * len(value)
        for item, kind_of_item in zip(value, kinds, strict=False):
            yield from _breaks(item, kind_of_item, root)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        yield from (f"missing {name}" for name in schema.get("required", ()) if name not in value)
        for name, part in value.items():
            if name in properties:
                yield from _breaks(part, properties[name], root)
            elif schema.get("additionalProperties") is False:
                yield f"unknown {name}"


def _parts(schema: object) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for part in schema.values():
            yield from _parts(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _parts(part)


@pytest.mark.parametrize("model", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_is_whole(model: type[Record]) -> None:
    schema = json.loads(json.dumps(model.model_json_schema(), allow_nan=False))
    objects = 0
    for part in _parts(schema):
        if isinstance(reference := part.get("$ref"), str):
            assert reference.removeprefix("#/$defs/") in schema["$defs"]
        if isinstance(pattern := part.get("pattern"), str):
            re.compile(pattern)
        if part.get("type") == "object" and "properties" in part:
            objects += 1
            assert part["additionalProperties"] is False, "what the model refuses, its schema refuses"
            assert set(part.get("required", ())) <= set(part["properties"])
    assert objects


@pytest.mark.parametrize(("model", "text"), [(MotionSidecar, SIDECAR), (Manifest, MANIFEST)])
def test_a_schema_takes_the_designs_example(model: type[Record], text: str) -> None:
    schema = model.model_json_schema()
    assert not list(_breaks(json.loads(text), schema, schema))


@settings(max_examples=30)
@given(MANIFESTS)
def test_a_schema_takes_what_we_write(manifest: Manifest) -> None:
    schema = Manifest.model_json_schema()
    assert not list(_breaks(json.loads(manifest.to_json()), schema, schema))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (MotionSidecar, _changed(SIDECAR, "schema_version", to=2)),
        (MotionSidecar, _changed(SIDECAR, "motion_type", to="spin")),
        (MotionSidecar, _changed(SIDECAR, "end_frame", to=[0, 0, 1])),
        (MotionSidecar, _changed(SIDECAR, "duration_sec", to=0)),
        (MotionSidecar, _changed(SIDECAR, "motion_intensity")),
        (Manifest, _changed(MANIFEST, "keyframes", to=[])),
        (Manifest, _changed(MANIFEST, "batch_id", to="today")),
        (Manifest, _changed(MANIFEST, "batch_id", to="٢٠٢٥٠٧٠٤_١٤٣٠٢٢")),
        (Manifest, _changed(MANIFEST, "keyframes", 0, "motion", "speed", to=1)),
        (Manifest, _changed(MANIFEST, "keyframes", 0, "generation_params", "fps", to=0)),
        *((model, "{}") for model in SCHEMAS.values()),
        *((model, '{"surplus": 1}') for model in SCHEMAS.values()),
    ],
)
def test_a_schema_refuses_what_the_model_refuses(model: type[Record], text: str) -> None:
    _refusal(model, text)
    schema = model.model_json_schema()
    assert list(_breaks(json.loads(text), schema, schema))
