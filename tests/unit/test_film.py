"""FILM: a TorchScript file of the public signature, checked with a small network that is made here."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.errors import Refused
from core.interpolate.film import Film
from core.interpolate.network import NotFinite
from core.interpolate.plan import Sample

Frame = NDArray[np.uint8]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")


class Blend(torch.nn.Module):
    """The public signature; it blends, but for a bend that only the middle of the way is free of."""

    def __init__(self, bend: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.bend = torch.nn.Parameter(torch.tensor(bend, dtype=dtype))

    def forward(self, x0: torch.Tensor, x1: torch.Tensor, dt: torch.Tensor) -> torch.Tensor:
        assert x0.shape[0] == 1
        assert x0.shape[2] % 64 == 0
        assert x0.shape[3] % 64 == 0
        assert dt.dim() == 2
        assert dt.numel() == 1
        assert x0.dtype == self.bend.dtype
        return x0 + (x1 - x0) * dt + self.bend * (dt - 0.5)


class Two(torch.nn.Module):
    def forward(self, x0: torch.Tensor, x1: torch.Tensor) -> torch.Tensor:
        return (x0 + x1) / 2


class Writes(torch.nn.Module):
    def forward(self, x0: torch.Tensor, x1: torch.Tensor, dt: torch.Tensor) -> torch.Tensor:
        torch.save(x0, "was-written")
        return x0 + (x1 - x0) * dt


class Reads(torch.nn.Module):
    def forward(self, x0: torch.Tensor, x1: torch.Tensor, dt: torch.Tensor) -> torch.Tensor:
        return x0 + (x1 - x0) * dt + torch.from_file("/etc/hostname", False, 1)


def _file(folder: Path, module: torch.nn.Module) -> Path:
    path = folder / "film_net_fp32.pt"
    torch.jit.save(torch.jit.script(module), str(path))
    return path


def _pair(size: tuple[int, int] = (70, 50)) -> tuple[Frame, Frame]:
    dice = np.random.default_rng(0)
    a = dice.integers(60, 150, (size[1], size[0], 3), dtype=np.uint8)
    return a, a + dice.integers(0, 40, a.shape, dtype=np.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_frames_are_what_the_network_makes_of_the_padded_pair(dtype: torch.dtype, tmp_path: Path) -> None:
    film = Film.load(_file(tmp_path, Blend(dtype=dtype)))
    a, b = _pair()
    times = [0.25, 0.5, 0.8]
    for t, made in zip(times, film.between(a, b, times), strict=True):
        assert np.abs(a * (1 - t) + b * t - made).max() <= 0.5 + 1e-3
    assert list(film.between(a, b, [])) == []


def test_the_middle_is_made_first_and_the_others_on_either_side_of_it(tmp_path: Path) -> None:
    bend = 0.2
    film = Film.load(_file(tmp_path, Blend(bend)))
    a = np.full((64, 64, 3), 100, np.uint8)
    made = [float(frame.mean()) for frame in film.between(a, a, [0.25, 0.375, 0.5, 0.75])]
    # 0.5 is exact; so are 0.25 and 0.75, halfway to it; 0.375 is halfway from 0.25 to 0.5
    assert made == [100, 100, 100, 100]
    (early,) = film.between(a, a, [0.1])
    assert float(early.mean()) == round(100 + 255 * bend * (0.1 - 0.5))


def test_a_plan_runs_over_it_and_two_shots_are_never_blended(tmp_path: Path) -> None:
    film = Film.load(_file(tmp_path, Blend()))
    a, b = _pair()
    other = np.zeros_like(a)
    base = np.stack([a, b, other])
    base.flags.writeable = False  # as a clip's file is
    samples = [Sample(0, Fraction(0)), Sample(0, Fraction(1, 2)), Sample(1, Fraction(1, 3)), Sample(1, Fraction(2, 3))]
    still, new, early, late = film.clip(base, samples)
    assert np.array_equal(still, a)
    assert not np.array_equal(new, a)
    assert np.array_equal(early, b)
    assert np.array_equal(late, other)


def test_numbers_that_are_none_never_become_a_frame(tmp_path: Path) -> None:
    film = Film.load(_file(tmp_path, Blend(float("nan"))))
    with pytest.raises(NotFinite):
        list(film.between(*_pair(), [0.5]))


@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        (Two(), "interpolator_unknown", "takes x0, x1; FILM's takes two frames and the time"),
        (Writes(), "interpolator_unreadable", "reads or writes files"),
        (Reads(), "interpolator_unreadable", "reads or writes files"),
    ],
    ids=["two inputs", "writes", "reads"],
)
def test_another_program_is_refused(module: torch.nn.Module, code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=said) as caught:
        Film.load(_file(tmp_path, module))
    assert caught.value.finding.code == code
    assert "film_net" in (caught.value.finding.remedy or "")


def test_what_is_no_torchscript_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("no archive")
    for name in ("weights.pt", "text.pt"):
        with pytest.raises(Refused, match="is no TorchScript"):
            Film.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Film.load(tmp_path / "missing.pt")
