"""What QA failed is made again with another seed: by the operator's word or the settings', once, whatever crashes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core import delivery, fsops
from core.admission import Admission
from core.contract import (
    MAX_TRIED_SEEDS,
    SEEDS,
    Clip,
    Failure,
    Keyframe,
    QaReport,
    Rejection,
    VideoMeta,
    load,
    next_try,
    now,
    seed_from,
)
from core.errors import AlreadyRunning, Finding, Refused
from core.home import REASON_FILE, Home
from core.rooms import CLIP_FILE, ClipFolder
from daemons.cli import load as load_commands
from daemons.cli.app import app
from daemons.intake import RETRY_SECONDS, IntakeDaemon
from tests.house import House, picture
from tests.power import Journal
from tests.unit.living import LOOK_SECONDS, at_work, live, settle
from tests.unit.test_admission import BATCH, manifest, put

MODEL = """
[mind]
family = "ltx"
weights = { folder = "not/there" }
vae_dtype = "bf16"
frames_max = 201
canvas = { pixels = 8192, resolution_min = 0.05 }
"""
"""A preset that has a model. Nothing here runs it."""


def allowing(root: Path, times: int) -> AbstractContextManager[House]:
    """A house at work whose settings allow so many seeds more; a clip's way ends in ``rooms/generate``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "presets.toml").write_text(MODEL)
    model = '[generation]\nmodel = "mind"\n'
    return at_work(root, gpu=False, more=f"{model}[rooms]\nmax_regenerations = {times}\n")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A home that tries one seed more."""
    with allowing(tmp_path / "home", 1) as house:
        yield house


def intake(house: House) -> IntakeDaemon:
    (daemon,) = (daemon for daemon in house.daemons if isinstance(daemon, IntakeDaemon))
    return daemon


def ready(home: Home) -> dict[str, Clip]:
    """The clips that wait to be generated, by id."""
    return {path.parent.name: load(Clip, path) for path in home.gpu.rooms.glob(f"generate/ready/*/{CLIP_FILE}")}


def in_hand(home: Home) -> ClipFolder:
    """Take the one clip that waits out of its room, as far as QA."""
    (path,) = (home.gpu.rooms / "generate" / "ready").iterdir()
    qa = home.gpu.rooms / "qa" / "active" / "cpu0"
    qa.mkdir(parents=True, exist_ok=True)
    return ClipFolder.open(Path(shutil.move(path, qa)))


CUT = Finding(code="flash_frame", message="It flashes.", frame=3)


def fail_in(home: Home, *, code: str = CUT.code, stage: str = "qa", verdict: bool = True) -> Path:
    """Fail the clip that waits, as a stage does; its folder in ``failed/``."""
    folder = in_hand(home)
    if verdict:
        (folder.path / "qa_sheet.png").write_bytes(picture(9))
        folder.clip.qa = QaReport(verdict="fail", reasons=[CUT], screened="", evidence=["qa_sheet.png"])
    failure = Failure(stage=stage, code=code, message=CUT.message, failed_at=now())
    delivery.fail(folder, failure, home.gpu)
    return home.gpu.failed / folder.clip.clip_id


def fail(house: House, **how: Any) -> Path:
    return fail_in(house.home, **how)


def come_out(house: House) -> None:
    """Let the clip that waits come out well, as ``encode`` does."""
    folder = in_hand(house.home)
    folder.clip.qa = QaReport(verdict="pass", screened="")
    (folder.path / delivery.VIDEO_FILE).write_bytes(b"a film")
    delivery.deliver(folder, house.home.gpu)


def put_in(house: House, **params: Any) -> None:
    """Have one clip wait, of a manifest that somebody wrote by hand."""
    whole = {"model": "mind", "fps": 10, **params}
    put(house, manifest(generation_params=whole), img_001__png=picture(0, (256, 128)))
    settle(house)


# The entry of the next try


def entry(**changes: Any) -> Keyframe:
    whole = manifest(**changes)["keyframes"][0]
    return Keyframe.model_validate(whole)


@pytest.mark.parametrize(
    ("tried", "seed", "following", "then"),
    [
        ([], 42, 43, [42]),
        ([], SEEDS - 1, 0, [SEEDS - 1]),
        ([43, 44], 42, 45, [43, 44, 42]),
        ([0, SEEDS - 1], SEEDS - 2, 1, [0, SEEDS - 1, SEEDS - 2]),
        ([42], 42, 43, [42]),
    ],
)
def test_the_next_seed_is_the_first_that_was_not_tried(tried: list[int], seed: int, following: int, then: Any) -> None:
    old = entry(tried_seeds=tried)
    new = next_try(old, seed)
    assert (new.generation_params.seed, new.tried_seeds) == (following, then)
    assert Keyframe.model_validate_json(new.to_json()) == new, "it is an entry that a manifest may hold"
    same = {"generation_params": old.generation_params, "tried_seeds": tried}
    assert new.model_copy(update=same) == old, "nothing else differs"


def test_where_no_more_seeds_can_be_named_the_next_is_refused() -> None:
    whole = entry(tried_seeds=list(range(MAX_TRIED_SEEDS)))
    with pytest.raises(Refused) as told:
        next_try(whole, MAX_TRIED_SEEDS)
    assert (told.value.finding.code, told.value.finding.limit) == ("seeds_exhausted", MAX_TRIED_SEEDS)
    assert told.value.finding.remedy
    last = next_try(whole, MAX_TRIED_SEEDS - 1)  # which is among them
    assert Keyframe.model_validate_json(last.to_json()) == last


# By itself


def test_what_failed_qa_is_made_again_by_an_entry_of_its_own(house: House) -> None:
    put_in(house, seed=42)
    failed = fail(house)
    settle(house)
    ((name, clip),) = ready(house.home).items()
    assert (name, clip.run, clip.seed) == (f"{failed.name}-r2", 2, 43)
    assert (clip.entry.generation_params.seed, clip.entry.tried_seeds) == (43, [42])
    assert (clip.failure, clip.qa, clip.stages) == (None, None, {})
    files = {path.name for path in (house.home.gpu.rooms / "generate/ready" / name).iterdir()}
    assert files == {CLIP_FILE, "keyframe.png"}
    (said,) = house.said("clip.regenerated")
    assert (said["clip"], said["run"], said["seed"], said["tried"]) == (name, 2, 43, [42])
    (told,) = house.metas().values()
    assert (told.outcome, told.run, told.seed) == ("fail", 1, 42), "the operator has heard of the first"
    assert not list(house.home.gpu.failed.iterdir())


def test_a_manifest_that_names_no_seed_begins_with_its_pictures(house: House) -> None:
    put_in(house)
    first = next(iter(ready(house.home).values()))
    sha256 = fsops.hash_file(house.home.gpu.rooms / "generate/ready" / first.clip_id / "keyframe.png")
    fail(house)
    settle(house)
    (clip,) = ready(house.home).values()
    assert first.seed == seed_from(sha256)
    assert clip.seed == clip.entry.generation_params.seed == first.seed + 1
    assert clip.entry.tried_seeds == [first.seed]


def test_it_ends_after_so_many_seeds_and_each_is_told_of(tmp_path: Path) -> None:
    with allowing(tmp_path / "home", 2) as house:
        put_in(house, seed=42)
        for run in (1, 2, 3):
            failed = fail(house)
            settle(house)
            told = house.metas()["failed/img_001"]
            assert (told.run, told.seed, told.entry.tried_seeds) == (run, 41 + run, [42, 43][: run - 1])
        assert not ready(house.home)
        assert failed.is_dir()
        assert len(house.said("clip.regenerated")) == 2
        beside = house.home.mac.results / BATCH / "failed" / "img_001.video_manifest.json"
        assert load(Keyframe, beside).tried_seeds == [42, 43]
        # Who has it made again all the same goes on from there.
        intake(house).admission.retry(failed, new_seed=True)
        (clip,) = ready(house.home).values()
        assert (clip.run, clip.seed, clip.entry.tried_seeds) == (4, 45, [42, 43, 44])


def test_the_result_says_what_was_made_and_the_drop_is_not_made_a_third_time(house: House) -> None:
    image = picture(0, (256, 128))
    house.drop("a", image)
    settle(house)
    first = next(iter(ready(house.home).values()))
    fail(house)
    settle(house)
    come_out(house)
    settle(house)
    metas = house.metas()
    assert {name: (meta.run, meta.outcome) for name, meta in metas.items()} == {
        "a": (2, "pass"),
        "failed/a": (1, "fail"),
    }
    (place,) = house.home.mac.results.glob("*/a.video_manifest.json")
    made = load(Keyframe, place)
    assert made == metas["a"].entry == next_try(first.entry, first.seed)
    assert metas["a"].seed == made.generation_params.seed
    assert (place.parent / "a.mp4").read_bytes() == b"a film"
    left = [path for path in house.home.gpu.outbox.rglob("*") if path.is_file() and path.suffix != ".json"]
    assert not left, "both runs were acknowledged and let go"
    house.drop("a", image)
    settle(house)
    assert [said["code"] for said in house.said("drop.rejected")] == ["made_before"]


def by_camera(house: House) -> Path:
    put(house, manifest(), img_001__png=picture())
    settle(house)
    return fail(house)


def cancelled(house: House) -> Path:
    put_in(house)
    return fail(house, code="cancelled", verdict=False)


def crashed(house: House) -> Path:
    put_in(house)
    return fail(house, code="gave_up")


def not_made(house: House) -> Path:
    put_in(house)
    return fail(house, code="frames_bad", stage="generate", verdict=False)


def broken(house: House) -> Path:
    failed = cancelled(house)
    (failed / CLIP_FILE).write_bytes(b"{")
    return failed


@pytest.mark.parametrize("how", [by_camera, cancelled, crashed, not_made, broken])
def test_what_no_seed_would_mend_or_qa_did_not_judge_stays(house: House, how: Callable[[House], Path]) -> None:
    failed = how(house)
    settle(house)
    assert failed.is_dir()
    assert not ready(house.home)
    assert not house.said("daemon.trouble")


def test_nothing_is_made_again_that_the_settings_do_not_allow(tmp_path: Path) -> None:
    with allowing(tmp_path / "home", 0) as house:
        put_in(house)
        failed = fail(house)
        settle(house)
        assert failed.is_dir()
        assert not ready(house.home)


def test_while_intake_is_paused_nothing_is_made_again(house: House) -> None:
    put_in(house)
    (house.home.gpu.rooms / "intake" / "PAUSED").touch()
    failed = fail(house)
    settle(house)
    assert failed.is_dir()
    assert house.metas(), "its failure is told all the same"
    (house.home.gpu.rooms / "intake" / "PAUSED").unlink()
    settle(house)
    assert len(ready(house.home)) == 1


# By the operator's word


def test_a_new_seed_is_refused_where_it_would_change_nothing(house: House) -> None:
    failed = by_camera(house)
    with pytest.raises(Refused) as told:
        intake(house).admission.retry(failed, new_seed=True)
    assert told.value.finding.code == "seed_without_effect"
    assert "motion" in (told.value.finding.remedy or "")
    assert failed.is_dir()
    clip = intake(house).admission.retry(failed).clip
    assert (clip.run, clip.entry.tried_seeds) == (2, []), "the same clip may be made once more"


def test_of_two_who_try_a_clip_again_one_is_served(house: House) -> None:
    put_in(house)
    failed = fail(house)
    assert intake(house).admission.regenerable() == [failed]
    intake(house).admission.retry(failed)
    settle(house)
    assert {clip.run for clip in ready(house.home).values()} == {2}
    assert not house.said("clip.regenerated")


def test_a_clip_of_which_all_seeds_were_tried_stays_where_it_is(house: House) -> None:
    put_in(house, seed=MAX_TRIED_SEEDS)
    folder = in_hand(house.home)
    folder.clip.entry = folder.clip.entry.model_copy(update={"tried_seeds": list(range(MAX_TRIED_SEEDS))})
    folder.clip.qa = QaReport(verdict="fail", reasons=[CUT], screened="")
    delivery.fail(folder, Failure(stage="qa", code=CUT.code, message=CUT.message, failed_at=now()), house.home.gpu)
    settle(house)
    failed = house.home.gpu.failed / folder.clip.clip_id
    with pytest.raises(Refused, match="No good clip came of 1001 seeds"):
        intake(house).admission.retry(failed, new_seed=True)
    assert failed.is_dir()
    assert not intake(house).admission.unfinished()


# Whatever crashes


def test_a_crash_at_any_step_of_it_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each of its file-system steps it dies twice, as a kill and as a power cut, and what is left is started."""
    root = tmp_path / "home"
    copies: list[Path] = []
    with allowing(root, 1) as house:
        put_in(house, seed=42)
        failed = fail(house)
        daemon = intake(house)
        journal = Journal(root, tmp_path / "shadow")

        def die_here(name: str, paths: tuple[Path, ...]) -> None:
            journal.note(name, paths)
            for mode in ("kill", "cut"):
                copy = tmp_path / f"{len(journal.steps)}-{mode}"
                shutil.copytree(root, copy, copy_function=os.link)
                if mode == "cut":
                    journal.cut(copy)
                copies.append(copy)

        fsops.seam = die_here
        assert daemon._regenerate()
        fsops.seam = None
        steps = len(journal.steps)
    assert steps > 12
    monkeypatch.setattr(fsops, "_flush", lambda fd: None)
    for copy in copies:
        house = House(copy)
        places = [path for path in house.home.gpu.root.rglob(f"{failed.name}*") if path.parent.name != BATCH]
        assert len(places) == 1, f"{copy.name}: at the moment of the crash the clip is in one place: {places}"
        house.start("intake")
        settle(house)
        house.stop()
        ((name, clip),) = ready(house.home).items()
        assert (name, clip.run, clip.seed) == (f"{failed.name}-r2", 2, 43), copy.name
        assert clip.entry.tried_seeds == [42], copy.name
        assert (house.home.gpu.rooms / "generate/ready" / name / clip.image).stat().st_size > 0
        assert not list(house.home.gpu.failed.iterdir()), copy.name
        assert not list((house.home.gpu.rooms / "generate" / "tmp").iterdir()), copy.name
        result = house.home.gpu.outbox / BATCH / failed.name / delivery.META_FILE
        assert load(VideoMeta, result).seed == 42, "the operator hears of the first"
    fsops.confine()


def test_trouble_with_one_does_not_hold_up_the_others(house: House) -> None:
    two = manifest(BATCH, "a.png", "b.png")
    for one in two["keyframes"]:
        one["generation_params"] = {"model": "mind", "fps": 10, "seed": 7}
    put(house, two, a__png=picture(1, (256, 128)), b__png=picture(2, (256, 128)))
    settle(house)
    waiting = house.home.gpu.rooms / "generate" / "ready"
    first, second = sorted(path.name for path in waiting.iterdir())
    shutil.move(waiting / second, house.home.root)
    fail(house)
    shutil.move(house.home.root / second, waiting)
    fail(house)

    def no_room(name: str, paths: tuple[Path, ...]) -> None:
        if name == "rename" and paths[0].name == first:
            raise PermissionError(13, "Permission denied")

    fsops.seam = no_room
    with pytest.raises(PermissionError):
        intake(house).step()
    assert list(ready(house.home)) == [f"{second}-r2"]
    fsops.seam = None
    settle(house)
    assert sorted(ready(house.home)) == [f"{first}-r2", f"{second}-r2"]


def cut_off(house: House, clips: int) -> list[Path]:
    """Retries that died after their first rename; their folders."""
    failed = []
    for number in range(clips):
        batch = f"20250704_15000{number}"
        put(house, manifest(batch, "b.png"), batch, b__png=picture(number))
        settle(house)
        failed.append(fail(house))
    return [Path(shutil.move(path, house.home.gpu.rooms / "generate" / "tmp")) for path in failed]


def test_a_retry_that_cannot_be_finished_does_not_stop_the_others(house: House) -> None:
    broken, troubled, well = cut_off(house, 3)
    (broken / CLIP_FILE).write_bytes(b"{")

    def no_entry(name: str, paths: tuple[Path, ...]) -> None:
        if name == "rename" and paths[0] == troubled:
            raise OSError(errno.EIO, "Input/output error")

    fsops.seam = no_entry
    settle(house)
    assert list(ready(house.home)) == [f"{well.name}-r2"]
    (aside,) = house.home.gpu.failed.iterdir()
    assert aside.name == f"{broken.name}.unreadable"
    assert load(Rejection, aside / REASON_FILE).code == "json_invalid"
    assert [said["folder"] for said in house.said("clip.unreadable")] == [str(aside)]
    assert [said["clip"] for said in house.said("clip.trouble")] == [troubled.name], "and is not tried at each step"
    fsops.seam = None
    live(house, RETRY_SECONDS + LOOK_SECONDS)
    assert sorted(ready(house.home)) == [f"{troubled.name}-r2", f"{well.name}-r2"]
    assert not intake(house).admission.unfinished()


def test_intake_waits_for_an_operators_retry_and_does_not_do_it_again(house: House) -> None:
    put_in(house)
    failed = fail(house)
    seen: list[object] = []

    def meanwhile(name: str, paths: tuple[Path, ...]) -> None:
        if name == "write":
            fsops.seam = None
            (building,) = intake(house).admission.unfinished()
            with pytest.raises(AlreadyRunning):
                intake(house).admission.resume(building)
            seen.append(building.name)

    fsops.seam = meanwhile
    clip = intake(house).admission.retry(failed).clip
    assert seen == [failed.name]
    settle(house)
    assert list(ready(house.home)) == [clip.clip_id]


def test_a_disk_that_fails_to_read_a_clip_for_once_does_not_bar_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(house)
    failed = fail(house)
    admission = intake(house).admission

    def eio(path: Path) -> ClipFolder:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(ClipFolder, "open", eio)
        assert admission.regenerable() == []
    assert admission.regenerable() == [failed]


def test_an_admission_that_is_asked_often_reads_what_it_knows_once(house: House, monkeypatch: Any) -> None:
    by_camera(house)
    settle(house)
    admission: Admission = intake(house).admission
    monkeypatch.delattr(ClipFolder, "open")
    assert [admission.regenerable() for _ in range(3)] == [[], [], []]


def test_the_command_serves_what_it_can_and_says_why_not_the_rest(tmp_path: Path) -> None:
    load_commands("retry")
    with allowing(tmp_path / "home", 0) as house:
        filmed = by_camera(house)
        second = manifest("20250704_150000", generation_params={"model": "mind", "fps": 10, "seed": 42})
        put(house, second, "20250704_150000", img_001__png=picture(0, (256, 128)))
        settle(house)
        made = fail(house)
    words = ["--new-seed", "--home", str(tmp_path / "home")]
    with pytest.raises(Refused, match="any seed makes the same clip"):
        raise CliRunner().invoke(app, ["retry", filmed.name, *words]).exception or AssertionError
    done = CliRunner().invoke(app, ["retry", "all", *words])
    fsops.confine()
    assert done.exit_code == 0
    first, last = done.stdout.splitlines()
    assert first.startswith(f"{filmed.name} is left as it is. ")
    assert last == f"{made.name} is made again as {made.name}-r2, with seed 43 after 42."
    assert list(ready(house.home)) == [f"{made.name}-r2"]
    assert filmed.is_dir()
