"""The generator on tiny real models: what a clip's failure is, whose it is, and that all others do not notice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.contract import GenerationParams, Keyframe, Motion
from core.errors import BadSettings, Cancelled, DropreelError, Stopped
from core.generate import checks, embeddings
from core.generate import generator as generators
from core.generate.checks import Blank, NotFinite, WrongFrames
from core.generate.embeddings import embedding_key
from core.generate.generator import Generator, Job, Made
from core.generate.loading import load_encoders
from core.generate.plan import make_plan
from core.generate.presets import Preset, read_presets
from core.generate.studio import GenerationSettings
from core.generate.weights import locate
from core.motion import FULL, MotionType
from core.torch_errors import CardLost, OutOfMemory
from tests import tiny

pytestmark = pytest.mark.timeout(120)
Pixels = NDArray[np.uint8]
CPU = torch.device("cpu")
EXPERTS = "memory = { transformer = { residency = 'turn' }, transformer_2 = { residency = 'turn' } }\n"
ALL_TURN = EXPERTS.replace(" }\n", ", vae = { residency = 'turn' } }\n")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def preset_of(kind: tiny.Kind, more: str = "") -> Preset:
    return read_presets(tiny.tiny_preset(kind, more=more), "presets.toml")[f"tiny-{kind}"]


def generator_of(kind: tiny.Kind, cache: Path, more: str = "", **changes: Any) -> Generator:
    preset = preset_of(kind, more).model_copy(update=changes)
    return Generator(preset, located(preset), CPU, cache)


def located(preset: Preset) -> Any:
    return locate(preset, GenerationSettings(), Path("/nowhere"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="module")
def experts(cache: Path) -> Generator:
    """Wan with two experts that take turns; whoever breaks it makes one of his own."""
    return generator_of("wan_a14b", cache, EXPERTS)


def jobs_of(preset: Preset, count: int = 3, prompt: str = "A fox.") -> list[Job]:
    """Clips of 5 frames of pictures that differ."""
    found = []
    for number in range(count):
        motion = Motion(type=MotionType.static, start_rect=FULL, end_rect=FULL, duration_sec=0.5)
        entry = Keyframe(
            image_path="a.png", motion=motion, generation_params=GenerationParams(model=preset.name, fps=8)
        )
        plan = make_plan(entry, (256, 128), (256, 128), preset, seed=number, prompt=prompt, rules=GenerationSettings())
        coarse = np.random.default_rng(number).integers(
            40, 256, (plan.canvas[1] // 16, plan.canvas[0] // 16, 3), np.uint8
        )
        found.append(Job(f"clip{number}", plan, coarse.repeat(16, axis=0).repeat(16, axis=1)))
    return found


def run(generator: Generator, jobs: list[Job], **more: Any) -> dict[str, Made | Exception]:
    return {job.name: made for job, made in generator.run(jobs, **more)}


def bits(made: dict[str, Made | Exception]) -> dict[str, bytes]:
    return {name: clip.frames().tobytes() for name, clip in made.items() if isinstance(clip, Made)}


@pytest.fixture(scope="module")
def undisturbed(experts: Generator) -> dict[str, bytes]:
    """The clips of ``jobs_of``, made one by one."""
    return {name: frames for job in jobs_of(experts.preset) for name, frames in bits(run(experts, [job])).items()}


@contextlib.contextmanager
def before_forward(module: torch.nn.Module, do: Callable[[], None]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _module, _args: do())
    yield
    handle.remove()


def failing(error: Exception, times: int, after: int = 0) -> Callable[[], None]:
    """Does nothing so often, then fails so often."""
    calls = iter([*[False] * after, *[True] * times])

    def fail() -> None:
        if next(calls, False):
            raise error

    return fail


def test_the_same_plan_makes_the_same_bits_alone_or_together_here_or_elsewhere(
    experts: Generator, undisturbed: dict[str, bytes], cache: Path
) -> None:
    jobs = jobs_of(experts.preset)
    assert len(set(undisturbed.values())) == 3
    assert bits(run(experts, jobs)) == undisturbed
    assert bits(run(generator_of("wan_a14b", cache, ALL_TURN), jobs[::-1])) == undisturbed


@pytest.mark.parametrize(("more", "swaps"), [(EXPERTS, 2), (ALL_TURN, 4)])
def test_every_component_that_takes_turns_comes_once_a_round(cache: Path, more: str, swaps: int) -> None:
    generator = generator_of("wan_a14b", cache, more)
    heard: list[str | None] = []
    run(generator, jobs_of(generator.preset, 4), running=lambda job: heard.append(job and job.name))
    assert generator.residency.swaps == swaps
    assert heard[-1] is None
    assert set(heard) == {"clip0", "clip1", "clip2", "clip3", None}


@pytest.mark.parametrize("where", ["in a block", "in the decoder", "between two experts"])
def test_a_cancelled_clip_stops_at_the_next_block(
    experts: Generator, undisturbed: dict[str, bytes], where: str
) -> None:
    limit = {"in a block": 0.3, "in the decoder": 0.86, "between two experts": 0.45}[where]
    told: list[float] = []

    def report(fraction: float) -> None:
        told.append(fraction)
        if fraction >= limit:
            raise Cancelled

    jobs = jobs_of(experts.preset)
    made = run(experts, [jobs[0], replace(jobs[1], report=report), jobs[2]])
    assert isinstance(made["clip1"], Cancelled)
    assert [fraction >= limit for fraction in told] == [*[False] * (len(told) - 1), True]
    assert bits(made) == {name: undisturbed[name] for name in ("clip0", "clip2")}
    assert bits(run(experts, jobs)) == undisturbed


def test_told_to_stop_a_round_ends_at_the_next_block(experts: Generator, undisturbed: dict[str, bytes]) -> None:
    heard: list[str | None] = []

    def report(fraction: float) -> None:
        if fraction > 0.3:
            raise Stopped

    jobs = [replace(job, report=report) for job in jobs_of(experts.preset)]
    with pytest.raises(Stopped):
        run(experts, jobs, running=lambda job: heard.append(job and job.name))
    assert heard[-2:] == ["clip0", None]
    assert bits(run(experts, jobs_of(experts.preset))) == undisturbed


@pytest.mark.parametrize("kind", ["wan_a14b", "ltx", "svd", "ltx2"])
def test_progress_only_grows_from_0_to_1(kind: tiny.Kind, cache: Path) -> None:
    generator = generator_of(kind, cache)
    told: list[float] = []
    (job,) = jobs_of(generator.preset, 1)
    (made,) = run(generator, [replace(job, report=told.append)]).values()
    assert isinstance(made, Made), made
    assert told == sorted(told)
    assert told[0] < 0.05
    assert 0.85 < told[-1] <= 1
    assert len([fraction for fraction in told if 0.05 <= fraction <= 0.85]) >= generator.preset.steps * 2


def test_out_of_memory_is_tried_once_more_with_less(cache: Path, undisturbed: dict[str, bytes]) -> None:
    generator = generator_of("wan_a14b", cache)
    assert not generator.residency.turning
    jobs = jobs_of(generator.preset)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
    with before_forward(generator._pipe.transformer_2, failing(error, times=1)):
        made = run(generator, jobs)
    assert list(made) == ["clip1", "clip2", "clip0"]
    assert [clip.record["leaner"] for clip in made.values() if isinstance(clip, Made)] == [False, False, True]
    assert generator.residency.turning == {"transformer", "transformer_2", "vae"}
    assert generator._pipe.vae.use_tiling
    assert bits(made) == undisturbed  # these pictures are smaller than a tile


# As in test_families.py.
@pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported:UserWarning")
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_family_has_a_leaner_way(kind: tiny.Kind, cache: Path) -> None:
    generator = generator_of(kind, cache)
    (job,) = jobs_of(generator.preset, 1)
    expected = bits(run(generator, [job]))
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
    with before_forward(getattr(generator._pipe, generator._kind.denoisers[0]), failing(error, times=1)):
        (made,) = run(generator, [job]).values()
    assert isinstance(made, Made), made
    assert made.record["leaner"]
    assert ("vae" in generator.residency.turning) == (kind != "svd")
    assert {"clip0": made.frames().tobytes()} == expected
    assert bits(run(generator, [job, replace(job, name="clip1")]))["clip1"] == expected["clip0"]


def test_no_memory_to_become_leaner_leaves_it_to_be_tried_again(
    cache: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_of("wan_a14b", cache)
    monkeypatch.setattr(generator.residency, "all_turn", failing(RuntimeError("none to move it to"), times=1))
    jobs = jobs_of(generator.preset, 1)
    error = torch.OutOfMemoryError("CUDA out of memory.")
    with before_forward(generator._pipe.transformer, failing(error, times=2)):
        with pytest.raises(RuntimeError, match="none to move"):
            run(generator, jobs)
        made = run(generator, jobs)  # it was not called leaner where it was not
    assert bits(made) == {"clip0": undisturbed["clip0"]}


def test_a_decoder_that_was_left_in_float32_is_put_right(cache: Path) -> None:
    generator = generator_of("svd", cache, dtype="fp16", vae_dtype="fp16", steps=1)  # half precision is slow here
    (job,) = jobs_of(generator.preset, 1)
    expected = bits(run(generator, [job]))
    seen: list[torch.dtype] = []

    def cancel() -> None:
        seen.append(generator._pipe.vae.dtype)
        raise Cancelled

    with before_forward(generator._pipe.vae.encoder, cancel):
        (made,) = run(generator, [job]).values()
    assert isinstance(made, Cancelled)
    assert seen == [torch.float32]
    assert bits(run(generator, [job])) == expected


def test_a_decoder_that_cannot_take_turns_is_not_asked_to(cache: Path) -> None:
    with pytest.raises(BadSettings, match=r"memory.vae.residency.*cannot leave the card.*Say \"card\""):
        generator_of("svd", cache, "memory = { vae = { residency = 'turn' } }\n")


def test_out_of_memory_again_is_a_failure_of_its_clip(cache: Path, undisturbed: dict[str, bytes]) -> None:
    generator = generator_of("wan_a14b", cache, EXPERTS)
    jobs = jobs_of(generator.preset)
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        if threading.current_thread().name == "clip 1" or len(calls) > 6:
            raise error

    with before_forward(generator._pipe.transformer, fail):
        made = run(generator, jobs)
    assert isinstance(made["clip1"], OutOfMemory)
    assert bits(made) == {name: undisturbed[name] for name in ("clip0", "clip2")}
    with before_forward(generator._pipe.transformer, failing(error, times=1)):
        (again,) = run(generator, jobs[:1]).values()
    assert isinstance(again, OutOfMemory)  # it is as lean as can be
    assert bits(run(generator, jobs)) == undisturbed


@pytest.mark.parametrize(
    "said", ["CUDA error: an illegal memory access was encountered", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"]
)
def test_a_lost_card_ends_the_round_for_all(experts: Generator, said: str) -> None:
    heard: list[str | None] = []
    with (
        before_forward(experts._pipe.transformer_2, failing(RuntimeError(said), times=1, after=2)),
        pytest.raises(CardLost, match=said),
    ):
        run(experts, jobs_of(experts.preset), running=lambda job: heard.append(job and job.name))
    assert heard[-2:] == ["clip1", None]


def test_a_card_that_is_lost_while_it_loads_or_encodes_is_lost(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_given: Any) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    generator = generator_of("ltx", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(generators, "load_encoders", lost)
        with pytest.raises(CardLost):
            run(generator, jobs_of(generator.preset))
        patch.setattr(generators, "load_model", lost)
        with pytest.raises(CardLost):
            generator_of("ltx", cache)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_no_clip(cache: Path, value: float, undisturbed: dict[str, bytes]) -> None:
    generator = generator_of("wan_a14b", cache, EXPERTS)
    jobs = jobs_of(generator.preset)
    spoil = spoiled(generator._pipe.vae.decoder.conv_out, lambda out: out.fill_(value), clip="clip 1")
    with spoil:
        made = run(generator, jobs)
    assert isinstance(made["clip1"], NotFinite)
    assert bits(made) == {name: undisturbed[name] for name in ("clip0", "clip2")}


def test_black_is_no_clip_of_a_picture_that_is_not(experts: Generator) -> None:
    jobs = jobs_of(experts.preset)
    with spoiled(experts._pipe.vae.decoder.conv_out, lambda out: out.fill_(-1.0), clip="clip 1"):
        made = run(experts, jobs)
    assert [type(clip) for clip in made.values()] == [Made, Blank, Made]
    night = replace(jobs[0], picture=np.zeros_like(jobs[0].picture))
    with spoiled(experts._pipe.vae.decoder.conv_out, lambda out: out.fill_(-1.0), clip="clip 0"):
        (dark,) = run(experts, [night]).values()
    assert isinstance(dark, Made)


def test_a_single_black_frame_is_found_before_the_attention_is_cleared(cache: Path) -> None:
    generator = generator_of("wan_a14b", cache, EXPERTS, attention="_native_math")
    given: list[bool] = []
    real = generators._light

    def light(codes: torch.Tensor) -> Any:
        given.append(generator.attention == "native")
        if not given[-1]:
            codes[3] = 14  # of 255, as after a backend that lost most of it
        return real(codes)

    jobs = jobs_of(generator.preset, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generators, "_light", light)
        (made,) = run(generator, jobs).values()
    assert isinstance(made, Made)
    assert given == [False, True]
    assert made.record["attention_given_up"] == "_native_math"


def test_light_is_measured_alike_on_the_card_and_off_it() -> None:
    for size in ((64, 128), (600, 1100)):
        frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
        frames[1] //= 16
        cells = np.stack([checks._cells(frame) for frame in frames])
        assert generators._light(torch.from_numpy(frames)) == pytest.approx(checks._level(cells), rel=0.02)


def test_another_count_of_frames_is_no_clip(experts: Generator) -> None:
    (job,) = jobs_of(experts.preset, 1)
    wrong = replace(job, plan=replace(job.plan, frames=6))  # Wan makes 4k + 1, and rounds in silence
    (made,) = run(experts, [wrong]).values()
    assert isinstance(made, WrongFrames)
    assert "6 of" in str(made)


@contextlib.contextmanager
def spoiled(module: torch.nn.Module, spoil: Callable[[torch.Tensor], Any], clip: str) -> Iterator[None]:
    """A layer whose output is changed while one clip runs."""

    def hook(_module: torch.nn.Module, _args: Any, out: torch.Tensor) -> None:
        if threading.current_thread().name == clip:
            spoil(out)

    handle = module.register_forward_hook(hook)
    yield
    handle.remove()


def test_attention_that_makes_no_numbers_is_used_no_more(cache: Path, undisturbed: dict[str, bytes]) -> None:
    generator = generator_of("wan_a14b", cache, EXPERTS, attention="_native_math")
    backends = {processor._attention_backend for processor in generator._pipe.transformer.attn_processors.values()}
    assert {str(getattr(backend, "value", backend)) for backend in backends} == {"_native_math"}
    jobs = jobs_of(generator.preset)

    def spoil(out: torch.Tensor) -> None:
        if generator.attention != "native":
            out.fill_(float("nan"))

    with spoiled(generator._pipe.vae.decoder.conv_out, spoil, clip="clip 0"):
        made = run(generator, jobs)
    assert list(made) == ["clip1", "clip2", "clip0"]
    records = {name: clip.record for name, clip in made.items() if isinstance(clip, Made)}
    assert {name: record["attention"] for name, record in records.items()} == {
        "clip0": "native", "clip1": "_native_math", "clip2": "_native_math"
    }  # fmt: skip
    assert records["clip0"]["attention_given_up"] == "_native_math"
    assert "attention_given_up" not in records["clip1"]
    assert bits(made)["clip0"] == undisturbed["clip0"]
    assert bits(run(generator, jobs)) == undisturbed
    with spoiled(generator._pipe.vae.decoder.conv_out, lambda out: out.fill_(float("nan")), clip="clip 0"):
        (failed,) = run(generator, jobs[:1]).values()
    assert isinstance(failed, NotFinite)


def counting(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None] = lambda _encoders: None) -> list[int]:
    """How often the encoders were loaded."""
    loads: list[int] = []
    real: Callable[..., Any] = load_encoders

    def load(*given: Any) -> Any:
        loads.append(1)
        encoders = real(*given)
        change(encoders)
        return encoders

    monkeypatch.setattr(generators, "load_encoders", load)
    return loads


def prompted(preset: Preset, *prompts: str) -> list[Job]:
    jobs = jobs_of(preset, len(prompts))
    return [replace(job, plan=replace(job.plan, prompt=prompt)) for job, prompt in zip(jobs, prompts, strict=True)]


def test_prompts_are_encoded_once_and_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = counting(monkeypatch)
    generator = generator_of("wan_a14b", tmp_path, EXPERTS)
    jobs = prompted(generator.preset, "one", "two", "one", "three")
    assert generator.encode(jobs[:2], lambda: jobs[2:]) == 3
    assert generator.encode(jobs) == 0
    assert generator.encode(jobs, lambda: pytest.fail("nobody needs them now")) == 0
    assert loads == [1]
    assert len(list(tmp_path.iterdir())) == 3
    assert generator_of("wan_a14b", tmp_path, EXPERTS).encode(jobs) == 0
    assert set(bits(run(generator, jobs))) == {job.name for job in jobs}
    assert loads == [1]


def test_a_prompt_that_cannot_be_encoded_is_its_own_clip_s_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_bad(encoders: Any) -> None:
        encode = encoders.encode_prompt

        def encode_prompt(prompt: str, *given: Any, **more: Any) -> Any:
            if prompt == "bad":
                raise ValueError("no such word")
            return encode(prompt, *given, **more)

        encoders.encode_prompt = encode_prompt

    loads = counting(monkeypatch, break_bad)
    generator = generator_of("wan_a14b", tmp_path, EXPERTS)
    good, bad = prompted(generator.preset, "good", "bad")

    def cancelled(_fraction: float) -> None:
        raise Cancelled

    assert generator.encode([good], lambda: [bad]) == 1  # another time is soon enough
    made = run(generator, [bad, good])
    assert isinstance(made["clip1"], ValueError)
    assert set(bits(made)) == {"clip0"}
    assert loads == [1, 1]
    made = run(generator, [replace(bad, report=cancelled), good])
    assert isinstance(made["clip1"], (ValueError, Cancelled))
    assert set(bits(made)) == {"clip0"}


def test_clips_of_one_prompt_that_cannot_be_encoded_all_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = counting(monkeypatch, lambda encoders: setattr(encoders, "encode_prompt", failing_encoder))
    generator = generator_of("wan_a14b", tmp_path, EXPERTS, attention="_native_math")
    for again in (1, 2):
        made = run(generator, prompted(generator.preset, "bad", "bad", "bad"))
        assert [str(error) for error in made.values()] == ["no such word"] * 3
        assert loads == [1] * again
    assert generator.attention == "_native_math"  # which is not to blame


def failing_encoder(*_given: Any, **_more: Any) -> None:
    raise ValueError("no such word")


def test_embeddings_are_of_their_encoder_place_libraries_and_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        embedding_key(*given)
        for given in [
            ("e", "bf16", "cpu", ("fox",)),
            ("f", "bf16", "cpu", ("fox",)),
            ("e", "fp16", "cpu", ("fox",)),
            ("e", "bf16", "A card", ("fox",)),
            ("e", "bf16", "cpu", ("fox", "")),
        ]
    }
    for changed in ("diffusers", "transformers"):
        monkeypatch.setattr(
            embeddings, "installed", lambda name, changed=changed: "0.1" if name == changed else version(name)
        )
        keys.add(embedding_key("e", "bf16", "cpu", ("fox",)))
    assert len(keys) == 7


def test_a_record_says_what_its_own_clip_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generator_of("wan_a14b", tmp_path, EXPERTS)
    jobs = [*prompted(generator.preset, "one", "two"), *jobs_of(generator.preset, 4)[2:]]

    def records() -> list[dict[str, Any]]:
        made = [made for _, made in sorted(run(generator, jobs).items())]
        return [clip.record for clip in made if isinstance(clip, Made)]

    first, second = records(), records()
    assert [sorted(record["swaps"] for record in each) for each in (first, second)] == [[0, 0, 0, 2]] * 2
    assert [record["encode_seconds"] > 0 for record in first] == [True, True, True, False]  # two share a prompt
    assert [record["encode_seconds"] for record in second] == [0] * 4
    assert {record["embeddings"] for record in first} == {file.stem for file in tmp_path.iterdir()}


def test_told_to_stop_an_encoder_stops_at_its_next_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []

    def count(encoders: Any) -> None:
        for block in encoders.text_encoder.encoder.block:
            block.register_forward_hook(lambda *_: blocks.append(1))

    counting(monkeypatch, count)
    generator = generator_of("wan_a14b", tmp_path, EXPERTS)

    def stop(_fraction: float) -> None:
        if blocks:
            raise Stopped

    with pytest.raises(Stopped):
        generator.encode([replace(job, report=stop) for job in jobs_of(generator.preset, 1)])
    assert blocks == [1]
    assert not list(tmp_path.iterdir())


def test_a_cancelled_clip_does_not_keep_others_from_being_encoded(tmp_path: Path) -> None:
    generator = generator_of("wan_a14b", tmp_path, EXPERTS)

    def cancelled(_fraction: float) -> None:
        raise Cancelled

    good, gone = prompted(generator.preset, "good", "gone")
    made = run(generator, [replace(gone, report=cancelled), good])
    assert isinstance(made["clip1"], Cancelled)
    assert set(bits(made)) == {"clip0"}

    def stopped(_fraction: float) -> None:
        raise Stopped

    new = [replace(job, report=stopped) for job in prompted(generator.preset, "new")]
    with pytest.raises(Stopped):
        generator.encode(new)


def test_no_memory_for_the_encoders_makes_room_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail = failing(torch.OutOfMemoryError("CUDA out of memory."), times=1)
    loads = counting(monkeypatch, lambda _encoders: fail())
    generator = generator_of("wan_a14b", tmp_path)
    made = run(generator, jobs_of(generator.preset, 2))
    assert loads == [1, 1]
    assert generator.leaner
    assert [clip.record["leaner"] for clip in made.values() if isinstance(clip, Made)] == [True, True]


def test_embeddings_that_cannot_be_read_are_made_again(tmp_path: Path) -> None:
    generator = generator_of("wan_a14b", tmp_path, EXPERTS)
    jobs = jobs_of(generator.preset, 1)
    assert generator.encode(jobs) == 1
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for broken in (b"", whole[:100], whole[:-1]):
        file.write_bytes(broken)
        assert generator.encode(jobs) == 1
        assert file.read_bytes() == whole


def test_a_guider_is_each_clip_s_own(cache: Path) -> None:
    turn = "memory = { transformer = { residency = 'turn' }, vae = { residency = 'turn' } }\n"
    generator = generator_of("hunyuan15", cache, turn)
    jobs = jobs_of(generator.preset, 2)
    alone = {name: frames for job in jobs for name, frames in bits(run(generator, [job])).items()}
    assert bits(run(generator, jobs)) == alone
    assert generator._own_pipe().guider is not generator._pipe.guider


@pytest.mark.parametrize("kind", ["wan_5b", "ltx"])
def test_blocks_that_come_one_by_one_make_the_same_bits(kind: tiny.Kind, cache: Path) -> None:
    plain = generator_of(kind, cache)
    blocks = generator_of(kind, cache, "memory = { transformer = { residency = 'blocks' } }\n")
    jobs = jobs_of(plain.preset, 2)
    assert bits(run(blocks, jobs)) == bits(run(plain, jobs))


def test_fp8_storage_takes_turns_too(cache: Path) -> None:
    stored = "memory = { transformer = { storage = 'fp8' }, transformer_2 = { storage = 'fp8' } }\n"
    turns = stored.replace("'fp8'", "'fp8', residency = 'turn'")
    one, other = generator_of("wan_a14b", cache, stored), generator_of("wan_a14b", cache, turns)
    jobs = jobs_of(one.preset, 2)
    assert bits(run(one, jobs)) == bits(run(other, jobs)) == bits(run(other, jobs))
    assert other.residency.swaps == 4


def test_leaving_a_round_early_leaves_nothing_behind(experts: Generator, undisturbed: dict[str, bytes]) -> None:
    for _job, made in experts.run(jobs_of(experts.preset)):
        assert isinstance(made, Made)
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clip ")]
    assert bits(run(experts, jobs_of(experts.preset))) == undisturbed


def test_a_failure_of_any_other_kind_is_its_clip_s(experts: Generator, undisturbed: dict[str, bytes]) -> None:
    error = partial(ValueError, "no such thing")
    with before_forward(experts._pipe.transformer, failing(error(), times=1)):
        made = run(experts, jobs_of(experts.preset))
    assert isinstance(made["clip0"], ValueError)
    assert not isinstance(made["clip0"], DropreelError)
    assert bits(made) == {name: undisturbed[name] for name in ("clip1", "clip2")}
