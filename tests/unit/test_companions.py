"""Files that share a stem travel together, whatever the stem, and nothing else travels with them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.companions import IMAGE_EXTENSIONS, Group, group, ignored, images_of, is_image


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        pytest.param([], [], id="an empty folder"),
        pytest.param(
            [
                "img_001.video_manifest.json",
                "img_001.yaml",
                "img_001.png",
                "img_001.motion.json",
                "img_001.caption",
            ],
            [
                Group(
                    "img_001",
                    ("img_001.png",),
                    ("img_001.motion.json",),
                    ("img_001.caption", "img_001.video_manifest.json", "img_001.yaml"),
                )
            ],
            id="the studio's own companions",
        ),
        pytest.param(
            [
                "a.png",
                "a.motion.json",
                "a.b.png",
                "a.b.motion.json",
                "a.b.caption",
                "a.caption",
                "a.c.caption",
            ],
            [
                Group("a", ("a.png",), ("a.motion.json",), ("a.c.caption", "a.caption")),
                Group("a.b", ("a.b.png",), ("a.b.motion.json",), ("a.b.caption",)),
            ],
            id="a companion belongs to the longest stem",
        ),
        pytest.param(
            ["a.png", "a.b.motion.json", "a.b.caption"],
            [Group("a", ("a.png",)), Group("a.b", (), ("a.b.motion.json",), ("a.b.caption",))],
            id="a sidecar that came before its image is not taken by a shorter stem",
        ),
        pytest.param(
            ["a.mp4", "a.video_meta.json", "a.video_manifest.json"],
            [Group("a", others=("a.mp4", "a.video_manifest.json", "a.video_meta.json"))],
            id="a result without its image",
        ),
        pytest.param(
            ["a.caption", "a.motion.json", "README"],
            [Group("README", others=("README",)), Group("a", (), ("a.motion.json",), ("a.caption",))],
            id="companions without an image",
        ),
        pytest.param(["a.png", "a", "a.png.xmp"], [Group("a", ("a.png",), (), ("a", "a.png.xmp"))], id="odd endings"),
        pytest.param(["a.png", "ab.caption"], [Group("a", ("a.png",)), Group("ab", others=("ab.caption",))], id="near"),
        pytest.param(["IMG.PNG", "IMG.Motion.JSON"], [Group("IMG", ("IMG.PNG",), ("IMG.Motion.JSON",))], id="capitals"),
        pytest.param(
            ["a.PNG", "A.png"],
            [Group("A", ("A.png",)), Group("a", ("a.PNG",))],
            id="stems differ by case on Linux",
        ),
        pytest.param(
            ["a.png", "a.jpg", "a.HEIC"],
            [Group("a", ("a.HEIC", "a.jpg", "a.png"))],
            id="three images of one stem",
        ),
        pytest.param(
            ["a.png", "a.motion.json", "a.MOTION.JSON"],
            [Group("a", ("a.png",), ("a.MOTION.JSON", "a.motion.json"))],
            id="two sidecars of one stem",
        ),
        pytest.param(
            ['it\'s "so"\n1.png', 'it\'s "so"\n1.motion.json', "桜 𝔸 🎞.webp", "桜 𝔸 🎞.caption"],
            [
                Group('it\'s "so"\n1', ('it\'s "so"\n1.png',), ('it\'s "so"\n1.motion.json',)),
                Group("桜 𝔸 🎞", ("桜 𝔸 🎞.webp",), (), ("桜 𝔸 🎞.caption",)),
            ],
            id="quotes, newlines, any alphabet",
        ),
        pytest.param(
            ["caf\u00e9.png", "cafe\u0301.motion.json"],
            [Group("caf\u00e9", ("caf\u00e9.png",), ("cafe\u0301.motion.json",))],
            id="composed and decomposed are one stem, by their real names",
        ),
        pytest.param(
            ["a..png", "a..motion.json", "a..x"],
            [Group("a.", ("a..png",), ("a..motion.json",), ("a..x",))],
            id="dots",
        ),
        pytest.param(
            ["\udcff.png", "\udcff.motion.json"],
            [Group("\udcff", ("\udcff.png",), ("\udcff.motion.json",))],
            id="bytes that are no text",
        ),
        pytest.param(["a.png", "a.png.part", "._a.png", ".a.png"], [Group("a", ("a.png",))], id="ignored among them"),
        pytest.param(["a.png", "a.png"], [Group("a", ("a.png",))], id="named twice"),
    ],
)
def test_group(names: list[str], groups: list[Group]) -> None:
    assert list(group(names).items()) == [(expected.stem, expected) for expected in groups]
    assert group(reversed(names)) == group(names)


def test_the_sidecar_is_the_first_or_none() -> None:
    assert group(["a.png"])["a"].sidecar is None
    assert group(["a.png", "a.motion.json"])["a"].sidecar == "a.motion.json"


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.png", "._img.png", ".DS_Store", ".img.png.Xa1b2c", ".", "..", ".stfolder"),
        *("Thumbs.db", "thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "$RECYCLE.BIN", "Icon\r"),
        *("__MACOSX", "@eaDir", "#recycle", "lost+found", "System Volume Information"),
        *(
            "img.png.part",
            "img.PNG.PART",
            "img.png.partial",
            "img.filepart",
            "img.png.crdownload",
            "img.png.download",
        ),
        *(
            "img.png.opdownload",
            "img.tmp",
            "img.temp",
            "img.png~",
            "img.motion.json~",
            "img.png.sb-1a2b3c4d-Xy12Zw",
        ),
    ],
)
def test_ignored(name: str) -> None:
    assert ignored(name)
    assert group([name]) == {}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "img.png",
            "part",
            "img.part.png",
            "partial.caption",
            "tmp",
            "a~b.png",
            "~a.png",
            "_a.png",
            "a.parts",
        ),
        *(
            "Thumbs.db.png",
            "my desktop.ini",
            "download.jpg",
            "img.part\n",
            "img.sb-1.png",
            " .png",
            "icon.png",
        ),
    ],
)
def test_not_ignored(name: str) -> None:
    assert not ignored(name)
    assert [found.files for found in group([name]).values()] == [(name,)]


def test_is_image() -> None:
    assert all(is_image(f"a{ending}") and is_image(f"a{ending.upper()}") for ending in IMAGE_EXTENSIONS)
    assert not any(map(is_image, ("a.gif", "png", "a.png.part", "a.motion.json", "a.pngx", "")))


def test_a_picture_that_is_not_decoded_is_one_only_where_there_is_no_better() -> None:
    assert images_of(["a.motion.json", "a.TIF", "a.gif"]) == ("a.TIF", "a.gif")
    assert images_of(["a.motion.json", "a.tif", "a.png"]) == ("a.png",)
    assert images_of(["a.motion.json", "a.psd"]) == ()


ENDINGS = (
    *(
        ".png",
        ".JPG",
        ".webp",
        ".heic",
        ".tif",
        ".motion.json",
        ".Motion.Json",
        ".video_meta.json",
        ".video_manifest.json",
    ),
    *(".caption", ".yaml", "", ".", ".part", "~", ".json", ".png.motion.json"),
)
PIECES = st.sampled_from(
    ("a", "b", ".", "..", ".a", "é", "e\u0301", "\u0301", "한", "\u1112\u1161", "\n", "'", "İ", " ")
)
NAMES = st.builds(
    lambda pieces, ending: "".join(pieces) + ending, st.lists(PIECES, max_size=5), st.sampled_from(ENDINGS)
) | st.text(st.characters(exclude_characters="/\0"), max_size=12)


@given(st.lists(NAMES.filter(bool), max_size=25))
def test_every_name_is_in_exactly_one_group_and_nothing_is_invented(names: list[str]) -> None:
    groups = group(names)
    placed = [name for found in groups.values() for name in found.files]
    assert sorted(placed) == sorted({name for name in names if not ignored(name)})
    for stem, found in groups.items():
        assert found.stem == stem == unicodedata.normalize("NFC", stem)
        assert stem
        assert found.images == images_of(found.files)
        for name in found.files:
            whole = unicodedata.normalize("NFC", name)
            assert whole == stem or whole.startswith(f"{stem}.")


@given(st.lists(NAMES.filter(bool), max_size=12), st.sampled_from(("NFC", "NFD")))
def test_the_form_of_unicode_that_a_disk_keeps_makes_no_difference(names: list[str], form: str) -> None:
    def stems(listing: list[str]) -> dict[str, int]:
        return {stem: len({unicodedata.normalize("NFC", name) for name in found.files})
                for stem, found in group(listing).items()}  # fmt: skip

    other = [unicodedata.normalize(form, name) for name in names]  # type: ignore[arg-type]  # one of the four forms
    assert stems(other) == stems(names)


@given(st.lists(NAMES.filter(bool), max_size=12))
def test_a_picture_takes_its_own_companions_and_no_strangers(names: list[str]) -> None:
    groups = group([*names, "shot 1.take.png", "shot 1.take.motion.json", "shot 1.png"])
    assert groups["shot 1.take"] == Group("shot 1.take", ("shot 1.take.png",), ("shot 1.take.motion.json",))
    assert groups["shot 1"] == Group("shot 1", ("shot 1.png",))
