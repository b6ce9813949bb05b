"""RIFE: files of every style, against a naive implementation, and clips in batches."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.interpolate import Plain, random_weights
from core.errors import Refused
from core.interpolate.ifnet import RIFE_4_6, RIFE_4_25, VARIANTS, IFNet, Variant
from core.interpolate.network import NotFinite
from core.interpolate.plan import Mode, Sample, plan
from core.interpolate.rife import Rife
from core.interpolate.rife_weights import load_network, shapes
from core.torch_errors import OutOfMemory

Tensors = dict[str, torch.Tensor]
Frame = NDArray[np.uint8]
WIDE = (200, 120)
"""No multiple of anything, and more than one of every multiple."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that the order of sums is the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Explicit(Plain):
    """The naive network with a warp of its own as well: the four neighbours of each place, by their numbers."""

    def warped(self, x: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        column = (torch.arange(width, dtype=x.dtype) + flow[0, 0]).clamp(0, width - 1)
        row = (torch.arange(height, dtype=x.dtype)[:, None] + flow[0, 1]).clamp(0, height - 1)
        left, top = column.floor().long(), row.floor().long()
        right, below = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
        u, v = column - left, row - top
        upper = x[..., top, left] * (1 - u) + x[..., top, right] * u
        lower = x[..., below, left] * (1 - u) + x[..., below, right] * u
        return upper * (1 - v) + lower * v


def _pictures(width: int, height: int, count: int = 2) -> list[NDArray[np.float32]]:
    """Smooth pictures of 0..1, each some pixels on from the one before."""
    noise = torch.rand((1, 3, height + 3 * count, width + 3 * count), generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, 1, 4) * 2 - 0.5
    seen = [smooth[0, :, 3 * k : 3 * k + height, 2 * k : 2 * k + width].clamp(0, 1) for k in range(count)]
    return [x.permute(1, 2, 0).contiguous().numpy() for x in seen]


def _frames(count: int, size: tuple[int, int] = WIDE) -> Frame:
    base = np.stack([np.rint(255 * x).astype(np.uint8) for x in _pictures(*size, count)])
    base.flags.writeable = False  # as a clip's file is
    return base


def _file(folder: Path, tensors: Tensors, name: str = "flownet.pkl") -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def _rife(tmp_path: Path, variant: Variant = RIFE_4_25, batch: int | None = None) -> Rife:
    return Rife.load(_file(tmp_path, random_weights(variant)), batch=batch)


def _prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + key: tensor for key, tensor in tensors.items()}


def _numbered(tensors: Tensors) -> Tensors:
    return {key.replace("block", "blocks.", 1) if key.startswith("block") else key: x for key, x in tensors.items()}


def _as_trained(tensors: Tensors) -> Tensors:
    more = {"teacher.conv0.0.0.weight": torch.zeros(32, 31, 3, 3), "caltime.0.bias": torch.zeros(8),
            "block_tea.conv0.0.0.bias": torch.zeros(45)}  # fmt: skip
    return _prefixed("module.")(tensors | more)


STYLES: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "as published": ("flownet.pkl", _as_trained),
    "plain": ("rife4x.pth", _prefixed("")),
    "module.": ("flownet.pkl", _prefixed("module.")),
    "flownet.": ("model.pth", _prefixed("flownet.")),
    "module.flownet.": ("model.pth", _prefixed("module.flownet.")),
    "flownet.module.": ("model.pkl", _prefixed("flownet.module.")),
    "blocks.": ("rife.safetensors", _numbered),
    "module.blocks.": ("rife.pth", lambda tensors: _prefixed("module.")(_numbered(tensors))),
    "safetensors": ("rife.safetensors", _prefixed("flownet.")),
}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_same_weights_in_every_style_make_the_same_picture(variant: Variant, tmp_path: Path) -> None:
    a, b = _pictures(64, 64)
    weights = random_weights(variant)
    made = []
    for name, styled in STYLES.values():
        rife = Rife.load(_file(tmp_path, styled(weights), name))
        assert rife.variant is variant
        made.append(rife.between(a, b, 0.4))
    assert all(np.array_equal(made[0], other) for other in made)
    assert not np.array_equal(made[0], a)


@pytest.mark.parametrize(
    ("variant", "parameters", "tensors"), [(RIFE_4_25, 5_664_776, 158), (RIFE_4_6, 5_306_256, 120)]
)
def test_a_variant_has_the_published_size(variant: Variant, parameters: int, tensors: int) -> None:
    found = shapes(variant)
    assert sum(int(np.prod(shape)) for shape in found.values()) == parameters
    assert len(found) == tensors


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("size", [(128, 64), WIDE, (33, 17)], ids=lambda size: "{}x{}".format(*size))
@pytest.mark.parametrize("t", [0.25, 0.8])
def test_a_picture_is_that_of_the_naive_network(
    variant: Variant, size: tuple[int, int], t: float, tmp_path: Path
) -> None:
    a, b = _pictures(*size)
    naive = Explicit(random_weights(variant), variant.scales, "cpu", torch.float64)
    both = [torch.from_numpy(x).double().permute(2, 0, 1)[None] for x in (a, b)]
    expected = naive.between(both[0], both[1], t)[0].permute(1, 2, 0).numpy().clip(0, 1)
    made = _rife(tmp_path, variant).between(a, b, t)
    assert made.dtype == np.float32
    assert made.shape == a.shape
    assert np.abs(made - expected).max() <= 1e-5
    blend = (1 - t) * a + t * b
    assert np.abs(expected - blend).mean() > 1e-2  # the flow leads somewhere, or nothing would be shown by this


def test_in_double_precision_it_is_the_naive_network_to_the_last_digits(tmp_path: Path) -> None:
    for variant in VARIANTS:
        weights = random_weights(variant)
        network = load_network(_file(tmp_path, weights)).double()
        a, b = (torch.from_numpy(x).double().permute(2, 0, 1)[None] for x in _pictures(192, 64))
        made, flow = network(network.described(a), network.described(b), torch.tensor([0.3], dtype=torch.float64))
        exact = Explicit({key: x.double() for key, x in weights.items()}, variant.scales, "cpu", torch.float64)
        assert float((made - exact.between(a, b, 0.3)).abs().max()) < 1e-6  # beta is multiplied in in float32
        assert float(flow.abs().max()) > 1


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_in_half_precision_places_stay_exact(variant: Variant, tmp_path: Path) -> None:
    network = load_network(_file(tmp_path, random_weights(variant)))
    a, b = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in _pictures(192, 64))
    expected, _ = network(network.described(a), network.described(b), torch.tensor([0.3]))
    network.half()
    made, flow = network(network.described(a), network.described(b), torch.tensor([0.3]))
    assert made.dtype == flow.dtype == torch.float32
    assert float((made - expected).abs().max()) < 1.5 / 255
    assert float((made - expected).abs().mean()) < 0.2 / 255


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a CUDA card")
def test_a_card_makes_the_frames_that_the_processor_makes(tmp_path: Path) -> None:
    base, samples = _frames(3), plan(3, 8, 0.25, 40)
    path = _file(tmp_path, random_weights(RIFE_4_25))
    here, there = (list(Rife.load(path, device).clip(base, samples)) for device in ("cpu", "cuda"))
    difference = np.abs(np.stack(here).astype(int) - np.stack(there))
    assert difference.max() <= 3
    assert difference.mean() < 0.3


def test_the_ends_are_the_pictures_bit_for_bit(tmp_path: Path) -> None:
    rife = _rife(tmp_path)
    a, b = _pictures(96, 64)
    assert np.array_equal(rife.between(a, b, 0), a)
    assert np.array_equal(rife.between(a, b, 1.0), b)


@pytest.mark.parametrize("t", [-0.1, 1.01, float("nan")])
def test_a_time_that_is_not_between_is_an_error(t: float, tmp_path: Path) -> None:
    a, b = _pictures(96, 64)
    with pytest.raises(ValueError, match="t is from 0 to 1"):
        _rife(tmp_path).between(a, b, t)


def test_pictures_of_two_sizes_are_an_error(tmp_path: Path) -> None:
    a, b = _pictures(96, 64)
    with pytest.raises(ValueError, match="of one size"):
        _rife(tmp_path).between(a, b[1:], 0.5)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_batch_is_what_one_by_one_makes(variant: Variant, tmp_path: Path) -> None:
    base = _frames(3, (100, 60))
    samples = plan(3, 8, 0.25, 20)
    single = list(_rife(tmp_path, variant, batch=1).clip(base, samples))
    batched = list(_rife(tmp_path, variant, batch=4).clip(base, samples))
    assert len(single) == len(batched) == len(samples)
    for sample, one, other in zip(samples, single, batched, strict=True):
        assert np.array_equal(one, base[sample.source]) == (sample.t == 0)
        # sums of another order: half a code is rounded the other way, here and there
        difference = np.abs(one.astype(int) - other)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 0.001 * difference.size


def test_a_clip_is_what_single_pictures_are(tmp_path: Path) -> None:
    rife, base = _rife(tmp_path, batch=3), _frames(3)
    samples = [
        Sample(0, Fraction(1, 3)),
        Sample(1, Fraction(1, 3)),
        Sample(1, Fraction(2, 3)),
        Sample(2, Fraction(1, 2)),
    ]
    for sample, made in zip(samples, rife.clip(base, samples), strict=True):
        a, b = (base[number].astype(np.float32) / 255 for number in (sample.source, (sample.source + 1) % 3))
        assert np.abs(255 * rife.between(a, b, float(sample.t)) - made).max() < 0.51


def test_a_clip_needs_no_multiple_of_the_batch_and_may_lead_back_to_its_start(tmp_path: Path) -> None:
    base = _frames(3, (64, 64))
    samples = plan(3, 8, 0.375, 24, Mode.loop)
    for batch in (1, 2, 4, 64):
        made = list(_rife(tmp_path, batch=batch).clip(base, samples))
        assert [np.array_equal(frame, base[sample.source]) for sample, frame in zip(samples, made, strict=True)] == [
            sample.t == 0 for sample in samples
        ]


def test_every_base_frame_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    described = IFNet.described

    def counted(self: IFNet, frames: torch.Tensor) -> torch.Tensor:
        seen.append(len(frames))
        return described(self, frames)

    monkeypatch.setattr(IFNet, "described", counted)
    base = _frames(5, (64, 64))
    list(_rife(tmp_path, batch=3).clip(base, plan(5, 8, 0.5, 60)))
    assert sum(seen) == 5


def test_what_is_held_does_not_grow_with_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rife, base = _rife(tmp_path, batch=3), _frames(9, (64, 64))
    together = rife._together
    held: list[tuple[int, int]] = []

    def counted(frames: Frame, asked: list[Sample], described: dict[int, torch.Tensor]) -> list[Frame]:
        made = together(frames, asked, described)
        held.append((len(made), len(described)))
        return made

    monkeypatch.setattr(rife, "_together", counted)
    given: list[weakref.ref[Frame]] = []
    for frame in rife.clip(base, plan(9, 8, 1, 24)):
        given.append(weakref.ref(frame))
        assert sum(each() is not None for each in given) <= 2 * rife.batch
    assert sum(made for made, _ in held) == 16
    assert max(held) <= (3, 4)


def test_frames_come_before_the_plan_is_read_to_its_end(tmp_path: Path) -> None:
    read = []

    def samples() -> Iterator[Sample]:
        for number in range(20):
            read.append(number)
            yield Sample(number, Fraction(1, 2))

    next(_rife(tmp_path, batch=2).clip(_frames(21, (64, 64)), samples()))
    assert len(read) <= 4


def test_two_shots_are_never_blended(tmp_path: Path) -> None:
    base = _frames(3).copy()
    base[2] = np.random.default_rng(0).integers(0, 2, (1, *base.shape[2:]), dtype=np.uint8) * 255
    samples = [
        Sample(0, Fraction(1, 2)),
        Sample(1, Fraction(1, 3)),
        Sample(1, Fraction(1, 2)),
        Sample(1, Fraction(2, 3)),
    ]
    moving, early, middle, late = _rife(tmp_path, batch=2).clip(base, samples)
    assert not np.array_equal(moving, base[0])
    assert np.array_equal(early, base[1])
    assert np.array_equal(middle, base[2])
    assert np.array_equal(late, base[2])


class Small:
    """A network on a card that holds ``room`` new frames."""

    def __init__(self, network: IFNet, room: int) -> None:
        self._network, self._room = network, room
        self.tried: list[int] = []

    def __call__(self, a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.tried.append(len(t))
        if len(t) > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        found: tuple[torch.Tensor, torch.Tensor] = self._network(a, b, t)
        return found

    def described(self, x: torch.Tensor) -> torch.Tensor:
        return self._network.described(x)


def _on_small_card(rife: Rife, room: int) -> Small:
    small = Small(rife._network, room)
    rife._network = small
    return small


def test_too_large_a_batch_is_halved_and_the_clip_goes_on(tmp_path: Path) -> None:
    base, samples = _frames(4, (64, 64)), plan(4, 8, 0.375, 40)
    expected = list(_rife(tmp_path, batch=1).clip(base, samples))
    rife = _rife(tmp_path, batch=8)
    small = _on_small_card(rife, 3)
    made = list(rife.clip(base, samples))
    assert rife.batch == 2
    assert small.tried[:3] == [8, 4, 2]
    assert max(small.tried[2:]) == 2
    assert all(np.abs(x.astype(int) - y).max() <= 1 for x, y in zip(made, expected, strict=True))


def test_a_frame_that_does_not_fit_alone_is_an_error(tmp_path: Path) -> None:
    rife = _rife(tmp_path, batch=4)
    small = _on_small_card(rife, 0)
    with pytest.raises(OutOfMemory, match="does not hold this work"):
        list(rife.clip(_frames(2, (64, 64)), [Sample(0, Fraction(1, 2))]))
    assert small.tried == [1, 1, 1]


@pytest.mark.parametrize("key", ["block4.lastconv.0.bias", "block2.lastconv.0.weight", "encode.cnn3.bias"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none_never_become_a_frame(key: str, number: float, tmp_path: Path) -> None:
    weights = random_weights(RIFE_4_25)
    weights[key].fill_(number)
    rife = Rife.load(_file(tmp_path, weights))
    a, b = _pictures(96, 64)
    with pytest.raises(NotFinite):
        rife.between(a, b, 0.5)
    with pytest.raises(NotFinite):
        list(rife.clip(_frames(2, (64, 64)), [Sample(0, Fraction(1, 2))]))


def _without(*keys: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: x for key, x in tensors.items() if key not in keys}


def _with(**more: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {key.replace("_", "."): x for key, x in more.items()}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (_without("encode.cnn1.bias"), r"looks like RIFE 4.25, but lacks encode.cnn1.bias\."),
        (_without(*[f"block3.convblock.{k}.beta" for k in range(8)]), "lacks block3.convblock.0.beta.* and 5 more"),
        (_with(block2_extra=torch.zeros(1)), r"has besides block2.extra\."),
        (_with(head_bias=torch.zeros(1)), r"has besides head.bias\."),
        (_with(block5_conv=torch.zeros(1)), "no variant.*block5 is in one of them alone"),
        (_with(encode_cnn3_bias=torch.zeros(16)), r"no variant.*encode.cnn3.bias is \(4,\) there and \(16,\) here"),
        (lambda _: {"encoder.weight": torch.zeros(1)}, "no variant.*its 1 tensors are called encoder.weight"),
        (lambda _: {}, "no variant"),
        (lambda tensors: tensors | _prefixed("module.")(tensors), "twice, under different prefixes"),
    ],
)
def test_another_network_is_refused_with_what_is_wrong(
    changed: Callable[[Tensors], Tensors], said: str, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=said) as caught:
        Rife.load(_file(tmp_path, changed(random_weights(RIFE_4_25))))
    assert caught.value.finding.code == "interpolator_unknown"
    assert caught.value.finding.file == "flownet.pkl"
    assert "4.25, 4.26" in (caught.value.finding.remedy or "")


class Harmful:
    """What a pickle can bring: code that runs when it is opened."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (Path("was-run"),)


def test_a_pickle_that_brings_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"module.x": Harmful()}, tmp_path / "flownet.pkl")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Harmful(), protocol=2))
    for name in ("flownet.pkl", "plain.pkl"):
        with pytest.raises(Refused, match="could run code that it brings") as caught:
            Rife.load(tmp_path / name)
        assert caught.value.finding.code == "interpolator_unreadable"
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("flownet.pkl", b"", "is empty: a placeholder"),
        ("flownet.pkl", b"no pickle at all", "is no file of torch's"),
        ("rife.safetensors", b"\x80\x02 a pickle", "is no safetensors file"),
        ("rife.onnx", b"onnx", "ends in none of"),
    ],
)
def test_a_file_that_cannot_be_opened_is_refused(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Refused, match=said):
        Rife.load(tmp_path / name)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, random_weights(RIFE_4_6))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Refused, match=r"is damaged|is no file of torch's"):
        Rife.load(path)


def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "training.pth")
    for name in ("list.pth", "training.pth"):
        with pytest.raises(Refused, match="does not hold tensors by name"):
            Rife.load(tmp_path / name)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Rife.load(tmp_path / "flownet.pkl")
