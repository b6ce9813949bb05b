"""Real pipelines with tiny random weights, through the real daemon: from a clip's folder to base frames, and on."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core import frames
from core.contract import Clip, load
from core.errors import DiskFull, MustRestart, Stopped
from core.generate import checks, loading, stage
from core.generate import generator as generators
from core.generate.generator import Generator, Job, Made
from core.generate.models import Models
from core.generate.plan import Plan
from core.generate.stage import prepare
from core.motion import Rect
from core.rooms import BASE_FILE, CANCEL_FILE, ClipFolder, Waiting
from core.torch_errors import CardLost
from daemons import generate
from daemons.generate import OVERTAKEN_MAX, GenerateDaemon
from daemons.runtime import AGAIN
from tests.house import SIDECAR, TINY, House, picture
from tests.tiny import Kind, saved, tiny_preset

pytestmark = pytest.mark.timeout(120)
TURNS = "memory = { transformer = { residency = 'turn' }, transformer_2 = { residency = 'turn' } }\n"
FOUR = f"{TURNS}together = 4\n"
WIDE = (
    TINY.replace("portrait = [64, 96]", "portrait = [64, 128]").replace("landscape = [96, 64]", "landscape = [128, 64]")
    + "[qa]\nfirst_ssim_same = 0.0\n"
)
TWICE = "[rooms]\nmax_attempts = 2\n"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def house_with(root: Path, kind: Kind, more: str = "", settings: str = "", presets: str = "") -> House:
    """A house whose model is a tiny one of this kind."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "presets.toml").write_text(tiny_preset(kind, more=more) + presets)
    (root / "dropreel.toml").write_text(f'{WIDE}{settings}[generation]\nmodel = "tiny-{kind}"\n')
    return House(root)


def drop(house: House, *stems: str, **asked: Any) -> None:
    for number, stem in enumerate(stems):
        house.drop(stem, picture(number, (256, 128)), SIDECAR | asked)


def base_frames(house: House) -> dict[str, bytes]:
    """What ``generate`` made, by the clip's name."""
    return {stem: frames.open(path / BASE_FILE).tobytes() for stem, path in made_by(house).items()}


def made_by(house: House) -> dict[str, Path]:
    """The clips that ``generate`` is done with, by name."""
    return {_clip(path).entry.stem: path for path in (house.home.gpu.rooms / "interpolate" / "ready").iterdir()}


def details(house: House) -> dict[str, dict[str, Any]]:
    return {stem: _clip(path).stages["generate"].details for stem, path in made_by(house).items()}


def waiting(house: House) -> dict[str, Path]:
    """The clips that wait for ``generate``, by name."""
    return {_clip(path).entry.stem: path for path in (house.home.gpu.rooms / "generate" / "ready").iterdir()}


def attempts(house: House) -> dict[str, int]:
    """Those at clips that wait, or are in hand."""
    room = house.home.gpu.rooms / "generate"
    clips = [_clip(path.parent) for path in room.glob("*/**/clip.json")]
    return {clip.entry.stem: clip.attempts.get("generate", 0) for clip in clips}


def _clip(path: Path) -> Clip:
    return load(Clip, path / "clip.json")


def change(path: Path, **changes: Any) -> None:
    """Change what a waiting clip's ``clip.json`` says."""
    told = json.loads((path / "clip.json").read_bytes())
    for name, value in changes.items():
        told["entry" if name == "priority" else name] |= {name: value} if name == "priority" else value
    (path / "clip.json").write_text(json.dumps(told))


def failed(house: House) -> dict[str, str]:
    """The codes with which clips were given up."""
    return {said["clip"]: said["code"] for said in house.said("clip.failed")}


def fed(root: Path, *stems: str, kind: Kind = "wan_a14b", more: str = FOUR, **rest: Any) -> House:
    """A house in which these clips wait for a worker that has started."""
    house = house_with(root, kind, more, **rest)
    drop(house, *stems)
    feed(house)
    return house


def feed(house: House) -> None:
    house.start("keyframes", "courier", "intake")
    house.rest()
    house.stop()
    house.start("generate")


def worker_of(house: House) -> GenerateDaemon:
    (worker,) = house.daemons
    assert isinstance(worker, GenerateDaemon)
    return worker


def model_of(house: House) -> Any:
    """The worker's pipeline, loaded now if it was not."""
    worker = worker_of(house)
    return worker._generator(house.settings.presets[house.settings.generation.model])._pipe


@contextlib.contextmanager
def during(house: House, module: torch.nn.Module, stem: str, do: Callable[[torch.Tensor], Any]) -> Iterator[None]:
    """Do something with the output of a layer while this clip's steps run."""
    worker = worker_of(house)

    def hook(_module: torch.nn.Module, _args: Any, out: torch.Tensor) -> None:
        if worker._charged is not None and worker._charged.clip.entry.stem == stem:
            do(out)

    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The clips a, b, c, d as they are where nothing happens."""
    house = fed(tmp_path_factory.mktemp("undisturbed") / "home", *"abcd")
    house.rest()
    house.stop()
    return base_frames(house)


def up_to_generate(house: House) -> None:
    house.start("keyframes", "courier", "intake", "generate")
    house.rest()


@pytest.mark.parametrize("kind", ["wan_a14b", "wan_5b", "ltx"])
def test_a_drop_becomes_an_encoded_clip(kind: Kind, tmp_path: Path) -> None:
    house = house_with(tmp_path / "home", kind)
    drop(house, "a")
    house.start()
    house.rest()
    (meta,) = house.metas().values()
    assert meta.failure is None, meta.failure
    details = meta.stages["generate"].details
    assert details["model"] == f"tiny-{kind}"
    assert meta.frames == 5
    assert (meta.width, meta.height) == (128, 64)
    assert details["camera"] == "virtual"


def test_expert_major_makes_the_same_bits_with_fewer_swaps(tmp_path: Path) -> None:
    made, swaps = [], []
    for together in (1, 4):
        house = house_with(tmp_path / f"home{together}", "wan_a14b", f"{TURNS}together = {together}\n")
        drop(house, "a", "b", "c", "d")
        up_to_generate(house)
        made.append(base_frames(house))
        generator = next(d for d in house.daemons if isinstance(d, GenerateDaemon))._models._generator
        assert isinstance(generator, Generator)
        swaps.append(generator.residency.swaps)
        house.stop()
    assert set(made[0]) == {"a", "b", "c", "d"}
    assert made[0] == made[1]
    assert swaps == [8, 2]


def test_a_cancelled_clip_stops_at_the_next_block_and_no_other_notices(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    house = fed(tmp_path / "home", *"abcd")
    model = model_of(house)
    blocks: list[int] = []

    def cancel(_out: torch.Tensor) -> None:
        blocks.append(1)
        (path,) = (path for path in (house.home.gpu.rooms / "generate/active/gpu0").glob("2*") if _is(path, "b"))
        (path / CANCEL_FILE).touch()
        house.clock.seconds += 1.0

    with during(house, model.transformer.blocks[0], "b", cancel):
        house.rest()
    house.stop()
    assert blocks == [1]
    assert list(failed(house).values()) == ["cancelled"]
    assert base_frames(house) == {stem: undisturbed[stem] for stem in "acd"}
    assert attempts(house) == {}


def _is(path: Path, stem: str) -> bool:
    return _clip(path).entry.stem == stem


@pytest.mark.parametrize(("where", "done"), [("transformer", ""), ("transformer_2", "ab"), ("vae", "ab")])
def test_told_to_stop_it_gives_back_what_is_not_done(
    tmp_path: Path, undisturbed: dict[str, bytes], where: str, done: str
) -> None:
    house = fed(tmp_path / "home", *"abcd")
    model = model_of(house)
    layer = model.vae.decoder.conv_in if where == "vae" else getattr(model, where).blocks[0]

    def stop(_out: torch.Tensor) -> None:
        worker_of(house).runtime.stopping = True

    with during(house, layer, "c", stop), pytest.raises(Stopped):
        house.rest()
    house.stop()
    left = set("abcd") - set(done)
    assert attempts(house) == dict.fromkeys(left, 0)
    assert set(waiting(house)) == left
    assert not list((house.home.gpu.rooms / "generate/active").glob("*/2*"))
    assert {said["clip"] for said in house.said("clip.given_back")} == {path.name for path in waiting(house).values()}
    house.start("generate")
    house.rest()
    assert base_frames(house) == undisturbed


def test_weights_that_are_no_numbers_make_no_clip(tmp_path: Path) -> None:
    folder = shutil.copytree(saved("ltx"), tmp_path / "ltx")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["proj_out.weight"][0, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    house = house_with(tmp_path / "home", "ltx")
    (tmp_path / "home" / "presets.toml").write_text(tiny_preset("ltx", folder))
    house = House(tmp_path / "home")
    drop(house, "a")
    feed(house)
    house.rest()
    assert list(failed(house).values()) == ["frames_bad"]
    assert [said["attempt"] for said in house.said("clip.attempt_failed")] == [1]
    assert "NotFinite" in house.said("clip.failed")[0]["reason"]
    assert house.settings.rooms.max_attempts > 2
    assert not made_by(house)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_one_clip_of_a_round_that_is_none_is_given_up_and_no_other_notices(
    tmp_path: Path, undisturbed: dict[str, bytes], value: float
) -> None:
    house = fed(tmp_path / "home", *"abcd")
    with during(house, model_of(house).vae.decoder.conv_out, "b", lambda out: out.fill_(value)):
        house.rest()
    assert list(failed(house).values()) == ["frames_bad"]
    assert [said["attempt"] for said in house.said("clip.attempt_failed")] == [1]
    assert base_frames(house) == {stem: undisturbed[stem] for stem in "acd"}
    assert {found["together"] for found in details(house).values()} == {4}


@pytest.mark.parametrize("stem", ["a", "c", "d"])
def test_a_clip_whose_frames_are_refused_when_it_is_written_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes], stem: str
) -> None:
    house = fed(tmp_path / "home", *"abcd")
    real = stage.keep

    def keep(folder: ClipFolder, *given: Any) -> dict[str, Any]:
        if folder.clip.entry.stem == stem:
            raise checks.BadFrames("It is black.")
        return real(folder, *given)

    monkeypatch.setattr(generate, "keep", keep)
    house.rest()
    assert list(failed(house).values()) == ["frames_bad"]
    assert [said["attempt"] for said in house.said("clip.attempt_failed")] == [1]
    assert base_frames(house) == {other: undisturbed[other] for other in "abcd" if other != stem}
    assert {_clip(path).stages["generate"].attempts for path in made_by(house).values()} == {1}


@pytest.mark.parametrize(("times", "code"), [(1, ""), (9, "gave_up")])
def test_out_of_memory_is_tried_again_with_less_and_then_it_is_a_failure(
    tmp_path: Path, undisturbed: dict[str, bytes], times: int, code: str
) -> None:
    house = fed(tmp_path / "home", *"abcd", settings=TWICE)
    fails = iter([True] * times)

    def run_out(_out: torch.Tensor) -> None:
        if next(fails, False):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    with during(house, model_of(house).transformer_2.blocks[0], "b", run_out):
        house.rest()
    made = set("abcd") - ({"b"} if code else set())
    assert base_frames(house) == {stem: undisturbed[stem] for stem in made}
    assert {stem: found["leaner"] for stem, found in details(house).items()} == {stem: stem == "b" for stem in made}
    assert [said["model"] for said in house.said("memory.leaner")] == ["tiny-wan_a14b"]
    assert [said["attempt"] for said in house.said("clip.attempt_failed")] == ([1, 2] if code else [])
    assert list(failed(house).values()) == ([code] if code else [])
    assert all("OutOfMemory" in said["reason"] for said in house.said("clip.failed"))


def test_a_lost_card_ends_the_process_and_only_its_clip_is_blamed(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    house = fed(tmp_path / "home", *"abcd")

    def lose(_out: torch.Tensor) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with during(house, model_of(house).transformer_2.blocks[0], "b", lose), pytest.raises(MustRestart) as caught:
        house.rest()
    assert caught.value.exit_code == 70
    assert attempts(house) == {"a": 0, "b": 1, "c": 0, "d": 0}
    house.stop()
    house.start("generate")
    house.rest()
    assert base_frames(house) == undisturbed
    tried = {stem: _clip(path).stages["generate"].attempts for stem, path in made_by(house).items()}
    assert tried == {"a": 1, "b": 2, "c": 1, "d": 1}
    assert {stem: found["together"] for stem, found in details(house).items()} == {"a": 3, "b": 1, "c": 3, "d": 3}


def test_a_card_that_is_lost_while_frames_leave_it_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = fed(tmp_path / "home", "a")

    def lost(_made: Made) -> None:
        raise CardLost("CUDA error: unspecified launch failure")

    with monkeypatch.context() as patch:
        patch.setattr(Made, "frames", lost)
        with pytest.raises(MustRestart):
            house.rest()
    assert attempts(house) == {"a": 1}
    house.stop()
    house.start("generate")
    house.rest()
    assert set(made_by(house)) == {"a"}


def test_attention_that_fails_is_given_up_and_said_so(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    house = fed(tmp_path / "home", *"abcd", more=f'{FOUR}attention = "_native_math"\n')
    worker = worker_of(house)

    def spoil(out: torch.Tensor) -> None:
        assert worker._models._generator is not None
        if worker._models._generator.attention != "native":
            out.fill_(float("nan"))

    with during(house, model_of(house).vae.decoder.conv_out, "b", spoil):
        house.rest()
    assert base_frames(house)["b"] == undisturbed["b"]
    (said,) = house.said("attention.fallback")
    assert (said["level"], said["model"], said["attention"]) == ("warning", "tiny-wan_a14b", "_native_math")
    assert details(house)["b"]["attention"] == "native"
    assert details(house)["b"]["attention_given_up"] == "_native_math"
    assert not house.said("clip.attempt_failed")


def other_model(**changes: Any) -> str:
    """A second preset, ``tiny-other``, of the same weights."""
    table = tiny_preset("wan_a14b", changes.get("folder"), more=changes.get("more", FOUR))
    return table.replace("[tiny-wan_a14b]", "[tiny-other]")


def test_a_clip_whose_preset_is_gone_is_refused_and_others_are_made(tmp_path: Path) -> None:
    house = fed(tmp_path / "home", "a", "b")
    change(waiting(house)["a"], entry={"generation_params": {"model": "gone"}})
    house.rest()
    assert list(failed(house).values()) == ["model_unknown"]
    assert set(made_by(house)) == {"b"}
    assert not house.said("clip.attempt_failed")


def test_without_its_weights_a_clip_is_refused_and_others_are_made(tmp_path: Path) -> None:
    house = fed(tmp_path / "home", "a", "b", "c", presets=other_model(folder=tmp_path / "nowhere"))
    for stem in "ab":
        change(waiting(house)[stem], entry={"generation_params": {"model": "tiny-other"}})
    house.rest()
    assert list(failed(house).values()) == ["weights_missing", "weights_missing"]
    assert set(made_by(house)) == {"c"}
    assert not house.said("clip.attempt_failed")


def test_a_model_that_cannot_be_loaded_costs_one_clip_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    house = fed(tmp_path / "home", *"abcd")
    real = loading.load_model
    fails = iter([True, False])

    def load_model(*given: Any) -> Any:
        if next(fails, False):
            raise ValueError("no such file")
        return real(*given)

    monkeypatch.setattr(generators, "load_model", load_model)
    worker_of(house).step()
    assert attempts(house) == {"a": 1, "b": 0, "c": 0, "d": 0}
    house.rest()
    assert base_frames(house) == undisturbed


def test_a_clip_that_was_attempted_before_is_worked_alone(tmp_path: Path) -> None:
    house = fed(tmp_path / "home", *"abcd")
    change(waiting(house)["b"], attempts={"generate": 1})
    house.rest()
    assert {stem: found["together"] for stem, found in details(house).items()} == {"a": 3, "b": 1, "c": 3, "d": 3}
    assert _clip(made_by(house)["b"]).stages["generate"].attempts == 2


def test_a_round_leaves_no_more_than_the_next_room_holds(tmp_path: Path) -> None:
    house = fed(tmp_path / "home", *"abcd", settings="[rooms.bounds]\ninterpolate = 2\n")
    house.rest()
    assert {found["together"] for found in details(house).values()} == {2}
    assert set(made_by(house)) == {"a", "b"}
    assert attempts(house) == {"c": 0, "d": 0}
    assert house.said("room.held")[-1]["reason"] == "interpolate is full"


def test_a_clip_that_is_still_being_written_has_its_place_in_the_next_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = fed(tmp_path / "home", *"abc", settings="[rooms.bounds]\ninterpolate = 2\n")
    worker, looked = worker_of(house), threading.Event()

    def keep(folder: ClipFolder, *given: Any) -> dict[str, Any]:
        assert folder.clip.entry.stem == "a" or looked.wait(60)
        return stage.keep(folder, *given)

    monkeypatch.setattr(generate, "keep", keep)
    worker.step()
    written = {hand.folder.clip.entry.stem: hand.kept for hand in worker._writing}
    if (kept := written.get("a")) is not None:
        kept.result(60)
    must_wait = worker._must_wait

    def look() -> bool:
        found = must_wait()
        looked.set()
        return found

    monkeypatch.setattr(worker, "_must_wait", look)
    house.rest()
    assert (set(made_by(house)), set(waiting(house))) == ({"a", "b"}, {"c"})


def test_a_round_takes_nobody_before_a_better_clip_of_another_model(tmp_path: Path) -> None:
    house = fed(tmp_path / "home", *"abcd", presets=other_model())
    change(waiting(house)["a"], priority=5)
    change(waiting(house)["b"], priority=3, entry={"generation_params": {"model": "tiny-other"}})
    change(waiting(house)["c"], priority=3)
    house.rest()
    assert {stem: found["together"] for stem, found in details(house).items()} == {"a": 2, "b": 1, "c": 2, "d": 1}


def test_clips_of_the_loaded_model_go_first_among_equals_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = house_with(tmp_path / "home", "wan_a14b")
    house.start("generate")
    worker = worker_of(house)
    monkeypatch.setattr(type(worker._models), "loaded", "mine")
    equal = [Waiting("1", (0, 0), "other"), *(Waiting(str(n), (0, 0), "mine") for n in range(2, 5))]
    assert [clip.clip_id for clip in worker.order(equal)] == ["2", "3", "4", "1"]
    first = Counter(worker.order(equal)[0].clip_id for _ in range(3 * (OVERTAKEN_MAX + 1) - 1))
    assert first == {"2": 3 * OVERTAKEN_MAX - 1, "1": 3}
    for better in ((-1, 0), (0, -5)):
        assert worker.order([Waiting("9", better, "other"), *equal[1:]])[0].clip_id == "9"
    assert worker.order([]) == []


def test_a_worker_whose_memory_has_grown_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = fed(tmp_path / "home", "a", "b", more=TURNS)
    held = iter([1 << 30, 2 << 30])
    monkeypatch.setattr(generate, "host_bytes", lambda: next(held, 20 << 30))
    worker = worker_of(house)
    while not worker.runtime.stopping:
        assert worker.step() == AGAIN or worker.runtime.stopping
    (said,) = house.said("worker.recycled")
    assert said["grown_gib"] == 19.0
    assert set(made_by(house)) == {"a", "b"}


def test_what_was_made_before_a_crash_is_only_handed_on(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    house = fed(tmp_path / "home", "a", "b")
    house.rest()
    path = made_by(house)["a"]
    path.rename(
        house.home.gpu.rooms / "generate/active/gpu0" / path.name
    )  # as a crash before the last rename leaves it
    made = len(house.said("clip.generated"))
    house.rest()
    assert len(house.said("clip.generated")) == made
    assert base_frames(house) == {stem: undisturbed[stem] for stem in "ab"}


def test_the_recorded_plan_makes_the_same_bits_again(tmp_path: Path) -> None:
    house = fed(tmp_path / "home", "a", "b", more=FOUR)
    house.rest()
    path = made_by(house)["b"]
    told = json.loads((path / "clip.json").read_bytes())["stages"]["generate"]["details"]["plan"]
    view = Rect(*told["view"])
    again = Plan(**told | {"rate": Fraction(told["rate"]), "canvas": tuple(told["canvas"]), "view": view})
    job = prepare(ClipFolder.open(path), house.settings)
    assert again == job.plan
    generator = worker_of(house)._models._generator
    assert isinstance(generator, Generator)
    ((_, made),) = generator.run([Job("again", again, job.picture)])
    assert isinstance(made, Made)
    assert np.array_equal(made.frames(), frames.open(path / BASE_FILE))


def test_captions_that_wait_are_encoded_in_one_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(saved("wan_a14b"), tmp_path / "wan")
    loads: list[int] = []
    real = loading.load_encoders

    def load_encoders(*given: Any) -> Any:
        loads.append(1)
        return real(*given)

    monkeypatch.setattr(generators, "load_encoders", load_encoders)
    root = tmp_path / "home"
    house_with(root, "wan_a14b")
    (root / "presets.toml").write_text(tiny_preset("wan_a14b", folder, TURNS + "together = 2\n"))
    house = House(root)
    for stem in "abcd":
        (house.home.mac.hot / f"{stem}.caption").write_text(f"The letter {stem}.")
    drop(house, *"abcd")
    feed(house)
    worker_of(house).step()
    assert [said["prompts"] for said in house.said("prompts.encoded")] == [4]
    shutil.rmtree(folder / "text_encoder")
    house.rest()
    assert set(made_by(house)) == set("abcd")
    assert loads == [1]
    assert {found["plan"]["prompt"].partition(".")[0] for found in details(house).values()} == {
        f"The letter {stem}" for stem in "abcd"
    }


def test_the_watchdog_is_fed_and_progress_is_told_between_blocks(tmp_path: Path) -> None:
    house = fed(tmp_path / "home", "a", more=TURNS)
    model, worker = model_of(house), worker_of(house)
    fed_at: list[float] = []
    told: list[float] = []
    worker.runtime.every(0.0, "seen", lambda: fed_at.append(house.clock.seconds))

    def pass_time(_out: torch.Tensor) -> None:
        house.clock.seconds += 0.6
        if (state := house.home.gpu.state / "workers" / "generate.json").exists():
            told.append(json.loads(state.read_bytes())["fraction"])

    with contextlib.ExitStack() as hooks:
        for block in (*model.transformer.blocks, *model.transformer_2.blocks):
            hooks.enter_context(during(house, block, "a", pass_time))
        house.rest()
    assert len({*fed_at}) >= 8  # two blocks, guided, of two steps
    assert told == sorted(told)
    assert len(set(told)) >= 6
    assert 0 <= told[0] < told[-1] <= 1


def test_a_worker_breathes_while_prompts_are_encoded_and_while_it_waits_for_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    house = fed(tmp_path / "home", *"abcd")
    model_of(house)
    breathed = threading.Event()
    waits: list[str] = []

    def until_it_breathes(real: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*given: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                waits.append(real.__name__)
                breathed.clear()
                assert breathed.wait(60)
            return real(*given)

        return wait

    monkeypatch.setattr(Generator, "encode", until_it_breathes(Generator.encode))
    monkeypatch.setattr(generate, "prepare", until_it_breathes(stage.prepare))
    monkeypatch.setattr(generate, "keep", until_it_breathes(stage.keep))
    worker_of(house).runtime.every(0.0, "breath", breathed.set)
    house.rest()
    assert sorted(waits) == ["encode"] + ["keep"] * 4 + ["prepare"] * 4
    assert base_frames(house) == undisturbed


def test_told_to_stop_while_prompts_are_encoded_it_leaves_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = fed(tmp_path / "home", *"abcd")
    model_of(house)
    runtime = worker_of(house).runtime
    encoding, left = threading.Event(), threading.Event()

    def encode(_generator: Generator, jobs: list[Job], _ahead: Any) -> int:
        encoding.set()
        while not left.wait(0.01):
            with contextlib.suppress(Stopped):
                jobs[0].report(0.0)
                continue
            left.set()
        return 0

    def stop() -> None:
        runtime.stopping = encoding.is_set()

    monkeypatch.setattr(Generator, "encode", encode)
    runtime.every(0.0, "stop", stop)
    with pytest.raises(Stopped):
        house.rest()
    assert left.wait(60)  # the encoders hear of it too
    house.stop()
    assert attempts(house) == dict.fromkeys("abcd", 0)
    assert set(waiting(house)) == set("abcd")


@pytest.mark.parametrize("broken", [False, True])
def test_a_worker_that_begins_makes_a_clip_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    folder = shutil.copytree(saved("wan_a14b"), tmp_path / "wan")
    if broken:
        file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        tensors["proj_out.weight"][0, 0] = float("nan")
        save_file(tensors, file, {"format": "pt"})
    monkeypatch.setattr(Models, "gain_from_rehearsal", lambda *_: True)
    root = tmp_path / "home"
    house_with(root, "wan_a14b")
    (root / "presets.toml").write_text(tiny_preset("wan_a14b", folder, FOUR))
    house = House(root)
    house.start("generate")
    assert [said["model"] for said in house.said("model.ready")] == [] if broken else ["tiny-wan_a14b"]
    assert [said["reason"] for said in house.said("model.missing")] == (
        ["The model made numbers that are none."] if broken else []
    )


@pytest.mark.parametrize("call", range(1, 9))
def test_a_disk_that_fills_up_while_clips_take_turns_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes], call: int
) -> None:
    house = fed(tmp_path / "home", *"abcd")
    worker = worker_of(house)
    real, calls = worker.worker.charge, iter(range(1, 1000))

    def charge(folder: ClipFolder, count: int) -> None:
        if worker._models.loaded and next(calls) == call:
            raise DiskFull
        real(folder, count)

    monkeypatch.setattr(worker.worker, "charge", charge)
    model_of(house)
    with contextlib.suppress(DiskFull):  # as ``run`` does, which waits and looks again
        house.rest()
    house.rest()
    assert base_frames(house) == undisturbed
    assert not house.said("clip.attempt_failed")
