"""A batch on this machine rests when the last seed that its settings allow is told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import fsops
from core.contract import Keyframe, VideoMeta, load
from core.home import Home
from core.rooms import CANCEL_FILE
from core.settings import load_settings
from daemons.oneshot import Oneshot, Order, Outcome, _Batch
from tests.house import TINY, picture
from tests.unit.test_admission import BATCH
from tests.unit.test_regenerate import MODEL, entry, fail_in


class Cancelling(_Batch):
    """Cancels what the last run of intake has let enter."""

    def _run(self, daemon: str) -> None:
        super()._run(daemon)
        if daemon == "intake":
            for clip in self._clips("generate"):
                (clip / CANCEL_FILE).touch()


@pytest.mark.timeout(300)
def test_local_ends_with_the_last_run_of_a_clip_that_failed_qa(tmp_path: Path) -> None:
    """QA's failure is put there by hand; the daemons are real, and nobody wants the next run, which spares a model."""
    lender, out = tmp_path / "lender", tmp_path / "out"
    lender.mkdir()
    (lender / "presets.toml").write_text(MODEL)
    (lender / "dropreel.toml").write_text(f"{TINY}[rooms]\nmax_regenerations = 1\n")
    (tmp_path / "img_001.png").write_bytes(picture(0, (256, 128)))
    fsops.make_folder(out / "home")
    told: list[Outcome] = []
    plan = Oneshot(load_settings(lender)[0], lender, out, {}, {"model": "camera"}, lambda _: None, told.append)
    batch = Cancelling(plan, Home(out / "home"), BATCH)
    first = entry(generation_params={"model": "mind", "fps": 10, "seed": 7})
    orders = [Order(first, {"img_001.png": tmp_path / "img_001.png"})]
    batch.prepare(orders, "p")
    batch._run("intake")
    fail_in(batch._home)
    batch.settle()
    metas = [outcome.meta for outcome in told if outcome.meta]
    failures = [meta.failure.stage for meta in metas if meta.failure]
    assert [(meta.run, meta.seed) for meta in metas] == [(1, 7), (2, 8)], "each is told of, in order"
    assert failures == ["qa", "generate"]
    assert batch._found["img_001"] == told[1]
    (meta,) = out.glob("failed/*.video_meta.json")
    assert load(VideoMeta, meta) == told[1].meta
    assert load(Keyframe, out / "failed" / "img_001.video_manifest.json").tried_seeds == [7]
