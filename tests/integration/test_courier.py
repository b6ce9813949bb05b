"""The courier over a real sshd, with real rsync and the restricted keys that ``ssh-setup`` prints."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.contract import Failure, VideoMeta, load, now
from core.errors import Stopped
from core.rsync import Incomplete, LinkLost, LinkRefused, Rsync
from core.ssh import INBOX, OUTBOX
from core.transfer import Result, RsyncTransport
from core.work import unwatched
from tests.house import picture
from tests.integration.machines import Machines
from tests.integration.sshd import make_key, needs_sshd
from tests.small_disk import resize, small_disk
from tests.waiting import until

pytestmark = [needs_sshd, pytest.mark.timeout(90)]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """Two machines, not yet at work."""
    made = Machines(tmp_path)
    yield made
    made.close()


def _is_back(machines: Machines, *names: str) -> Callable[[], bool]:
    """Whether the clips of these drops are here, and the server has let go of them."""
    return lambda: set(names) <= set(machines.mac.metas()) and not list(machines.server.home.gpu.outbox.glob("2*"))


def _inbox(machines: Machines) -> list[str]:
    return sorted(path.name for path in (machines.server_root / "gpu/inbox").rglob("*") if path.is_file())


def test_a_drop_comes_back_as_a_clip_from_another_machine(machines: Machines) -> None:
    mac, server = machines.open()
    mac.drop("good")
    mac.drop("torn", picture(2)[:-100])
    machines.live_until(_is_back(machines, "good"), "the clip is back")
    machines.pass_time(40)
    assert mac.metas()["good"].outcome == "pass"
    sent = sorted(path.name for path in mac.home.mac.sent.glob("*/*"))
    assert sent == ["good.motion.json", "good.png"]
    assert (mac.home.mac.rejected / "torn" / "reason.json").exists()
    assert not list(mac.home.mac.outbox.glob("2*"))
    assert not list(mac.home.mac.result_acks.iterdir()), "the server lists it no more"
    assert len(mac.said("clip.received")) == len(server.said("clip.released")) == 1
    assert not _inbox(machines)


HOSTILE = (
    "-rf",
    "$(touch pwned)",
    "; touch pwned;",
    "a 'quoted\" name",
    "naïve 写真",
    "%h*[a-z]?",
    "--rsync-path=x",
)


def test_no_shell_sees_a_name(machines: Machines) -> None:
    mac, _ = machines.open()
    for number, name in enumerate(HOSTILE):
        mac.drop(name, picture(number))
    machines.live_until(_is_back(machines, *HOSTILE), "the clips are back")
    assert sorted(path.stem for path in mac.home.mac.results.glob("*/*.mp4")) == sorted(HOSTILE)
    assert not [*machines.sshd.folder.parent.rglob("pwned"), *Path.home().glob("pwned")]


def test_a_batch_cut_off_on_its_way_is_sent_again(machines: Machines) -> None:
    mac, server = machines.open()
    courier = mac.daemons.pop()
    mac.drop("large", picture(1, (1500, 1000)))
    machines.live_until(lambda: list(mac.home.mac.outbox.glob("2*")), "the batch is packed")
    (batch,) = mac.home.mac.outbox.glob("2*")
    cuts: list[int] = []

    def cut_once(_fraction: float) -> None:
        if not cuts and any(path.stat().st_size for path in (machines.server_root / "gpu/inbox").rglob(".001.png.*")):
            cuts.append(machines.sshd.cut())

    slow = mac.settings.transport.model_copy(update={"bandwidth_kib": 1500})
    transport = RsyncTransport(mac.home.mac, machines.mac_root, slow, cut_once)
    with pytest.raises(LinkLost):
        transport.push([batch])
    assert cuts
    assert cuts[0] > 0
    assert "manifest.json" not in _inbox(machines), "the manifest comes after all it names"
    assert not any(daemon.step() == 0 for daemon in server.daemons), "nobody takes a batch that is not there"
    mac.daemons.append(courier)
    machines.live_until(_is_back(machines, "large"), "the clip is back")


def test_a_result_cut_off_on_its_way_is_gone_on_with(machines: Machines) -> None:
    """What has come is not sent again: the second call carries the rest alone."""
    mac, server = machines.open()
    name = "20261122_150839", "20261122_150839-001-0123abcd"
    there = server.home.gpu.outbox.joinpath(*name)
    there.mkdir(parents=True)
    data = os.urandom(6 << 20)
    (there / "clip.mp4").write_bytes(data)
    here = mac.home.mac.incoming.joinpath(*name) / "clip.mp4"
    sizes: list[int] = []

    def cut_at_half(_fraction: float) -> None:
        if not sizes and here.exists() and here.stat().st_size > len(data) // 2:
            machines.sshd.cut()
            sizes.append(here.stat().st_size)

    slow = mac.settings.transport.model_copy(update={"bandwidth_kib": 6000})
    with pytest.raises(LinkLost):
        RsyncTransport(mac.home.mac, machines.mac_root, slow, cut_at_half).fetch([Result(*name)], lambda _: None)
    inode = here.stat().st_ino
    assert len(data) // 2 < here.stat().st_size < len(data), "the part is kept"
    RsyncTransport(mac.home.mac, machines.mac_root, slow, unwatched).fetch([Result(*name)], lambda _: None)
    assert here.read_bytes() == data
    assert here.stat().st_ino == inode


def _result(machines: Machines, number: int, size: int) -> Result:
    """A result on the server with a clip of so many bytes."""
    result = Result("20261122_150839", f"20261122_150839-{number:03d}-0123abcd")
    there = machines.server.home.gpu.outbox.joinpath(*result)
    there.mkdir(parents=True)
    (there / "clip.mp4").write_bytes(os.urandom(size))
    (there / "video_meta.json").write_text("{}")
    return result


@pytest.mark.parametrize("left_before", [[], [2]], ids=["nothing here", "a later one is here from before"])
def test_a_result_is_taken_up_while_the_next_ones_come_and_never_before_it_is_whole(
    machines: Machines, left_before: list[int]
) -> None:
    mac, _ = machines.open()
    results = [_result(machines, number, 300_000) for number in (1, 2, 3)]
    slow = mac.settings.transport.model_copy(update={"bandwidth_kib": 300})
    incoming = mac.home.mac.incoming
    for number in left_before:
        there = machines.server.home.gpu.outbox.joinpath(*results[number - 1])
        shutil.copytree(there, incoming.joinpath(*results[number - 1]))
    sizes: list[tuple[int, int]] = []

    def arrived(result: Result) -> None:
        here = [incoming.joinpath(*each) / "clip.mp4" for each in (result, results[-1])]
        sizes.append(tuple(path.stat().st_size if path.exists() else 0 for path in here))  # type: ignore[arg-type]  # two

    RsyncTransport(mac.home.mac, machines.mac_root, slow, unwatched).fetch(results, arrived)
    assert [mine for mine, _ in sizes] == [300_000] * 3
    assert sizes[0][1] < 300_000, "the last was not yet here when the first was taken up"


def test_a_wrong_host_key_is_refused_and_nothing_is_sent(machines: Machines) -> None:
    mac, _ = machines.open()
    other = machines.sshd.folder / "another"
    make_key(other)
    kind, key, *_ = other.with_suffix(".pub").read_text().split()
    right = machines.ssh.known_hosts.read_text()
    machines.ssh.known_hosts.write_text(f"{right.split()[0]} {kind} {key}\n")
    mac.drop("a")
    machines.live_until(lambda: mac.said("link.refused"), "it is refused")
    machines.pass_time(150)
    assert "ssh-setup" in mac.said("link.refused")[0]["reason"]
    assert len(mac.said("link.refused")) == 1, "said once, though tried again and again"
    assert not _inbox(machines)
    assert (mac.home.mac.hot / "a.png").exists()
    machines.ssh.known_hosts.write_text(right)
    machines.live_until(_is_back(machines, "a"), "mended, it goes by itself", 300)


def test_an_exit_status_of_0_is_no_delivery(machines: Machines) -> None:
    """The key of the inbox leads into a folder that nobody looks into: rsync is content, and no answer comes."""
    mac, _ = machines.open()
    decoy = machines.server_root.with_name("decoy")
    (decoy / "gpu/inbox/acks").mkdir(parents=True)
    (to_decoy, _), (_, outbox) = (machines.ssh.authorized_keys(str(home)) for home in (decoy, machines.server_root))
    machines.sshd.allow(to_decoy, outbox)
    mac.drop("a")
    machines.live_until(lambda: len(mac.said("batch.pushed")) > 2, "it was sent again and again")
    assert list(decoy.rglob("manifest.json"))
    assert list(mac.home.mac.outbox.glob("2*/manifest.json")), "nothing is believed to have arrived"
    assert (mac.home.mac.hot / "a.png").exists()
    machines.sshd.allow(*machines.ssh.authorized_keys(str(machines.server_root)))
    machines.live_until(_is_back(machines, "a"), "it arrives")


def test_a_manifest_that_comes_before_its_payload_waits_for_it(machines: Machines) -> None:
    mac, server = machines.open()
    courier = mac.daemons.pop()
    mac.drop("a")
    machines.live_until(lambda: list(mac.home.mac.outbox.glob("2*")), "the batch is packed")
    (batch,) = mac.home.mac.outbox.glob("2*")
    rsync = Rsync(mac.settings.transport, mac.home.mac.state, unwatched)
    rsync(f"{batch.parent}/", f"{INBOX}:./", [f"+/{batch.name}/", "+/*/manifest.json", "-*"])
    machines.live_until(lambda: server.said("batch.incomplete"), "intake has seen it")
    assert not server.said("batch.taken")
    mac.daemons.append(courier)
    machines.live_until(_is_back(machines, "a"), "the clip is back")
    assert not list(mac.home.mac.rejected.iterdir())


def test_what_the_server_says_is_not_trusted(machines: Machines) -> None:
    """Links, folders and files that are no results stay where they are, and hold up no clip."""
    mac, server = machines.open()
    outbox = server.home.gpu.outbox
    secret = machines.mac_root / "secret"
    secret.write_text("the Mac's own")
    linked = outbox / "20261122_150839" / "20261122_150839-001-0123abcd"
    linked.mkdir(parents=True)
    (linked / "clip.mp4").symlink_to(secret)
    (linked / "video_meta.json").symlink_to("/etc/passwd")
    (outbox / "20261122_150839" / "$(touch pwned)").mkdir()
    (outbox / "20261122_150839" / "-e").write_text("no clip")
    os.mkfifo(linked / "pipe")
    mac.drop("a")
    machines.live_until(lambda: "a" in mac.metas(), "the clip is back")
    assert [path.name for path in mac.home.mac.root.rglob("*") if path.is_symlink()] == []
    assert set(mac.metas()) == {"a"}


@pytest.mark.parametrize(
    ("key", "source", "target"),
    [
        pytest.param(INBOX, "{alias}:./", "{here}/", id="the inbox cannot be read"),
        pytest.param(OUTBOX, "{here}/", "{alias}:./", id="the outbox cannot be written to"),
        pytest.param(INBOX, "{here}/", "{alias}:../", id="nothing goes beside the inbox"),
        pytest.param(OUTBOX, "{alias}:../", "{here}/", id="nothing comes from beside the outbox"),
        pytest.param(OUTBOX, "{alias}:/etc/", "{here}/", id="nor from elsewhere"),
    ],
)
def test_a_key_opens_its_door_alone(machines: Machines, tmp_path: Path, key: str, source: str, target: str) -> None:
    mac, _ = machines.open()
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine").touch()
    rsync = Rsync(mac.settings.transport, mac.home.mac.state, unwatched)
    with pytest.raises((LinkRefused, Incomplete)):
        rsync(source.format(alias=key, here=here), target.format(alias=key, here=here), ["+*"])
    assert [path.name for path in here.iterdir()] == ["mine"]
    assert not list(machines.server_root.rglob("mine"))


@pytest.mark.parametrize("command", [["sh"], ["cat", "/etc/passwd"], ["touch", "pwned"]])
def test_no_key_gives_a_shell(machines: Machines, command: list[str]) -> None:
    mac, _ = machines.open()
    for key in (INBOX, OUTBOX):
        done = subprocess.run(["ssh", "-F", "ssh_config", key, *command], cwd=mac.home.mac.state, capture_output=True,
                              text=True, check=False, stdin=subprocess.DEVNULL)  # fmt: skip
        assert done.returncode != 0
        assert "rrsync error" in done.stderr
        assert not done.stdout
    assert not [*Path.home().glob("pwned"), *machines.server_root.rglob("pwned")]


def test_a_full_disk_at_the_receiver_keeps_no_result_from_coming(machines: Machines) -> None:
    """And so the server gets room again: what frees its disk is what the courier fetches and acknowledges."""
    inbox = machines.server_root / "gpu"
    inbox.mkdir(exist_ok=True)
    with small_disk(inbox, 1):
        mac, _ = machines.open()
        courier = mac.daemons.pop()
        mac.drop("small")
        mac.daemons.append(courier)
        machines.live_until(lambda: mac.said("batch.acknowledged"), "the small one is taken")
        mac.daemons.remove(courier)
        mac.drop("large", picture(1, (1000, 800)))
        machines.live_until(lambda: list(mac.home.mac.outbox.glob("2*")), "the large one is packed")
        mac.daemons.append(courier)
        machines.live_until(_is_back(machines, "small"), "the small one comes, while the large one cannot go")
        machines.pass_time(20)
        # The server's rsync dies of it, and whether it can still say why is a matter of luck.
        told = [said["error"] for said in mac.said("courier.trouble")] + [
            said["reason"] for said in mac.said("link.lost")
        ]
        assert told[0].startswith(("The server's disk is full", "The server cannot be reached"))
        assert "manifest.json" not in _inbox(machines)
        assert (mac.home.mac.hot / "large.png").exists()
        resize(inbox, 100)
        machines.live_until(_is_back(machines, "large"), "with room it goes")
        machines.close()


def test_what_cannot_be_carried_holds_up_no_other(machines: Machines) -> None:
    mac, _ = machines.open()
    spoilt = _result(machines, 1, 1000)
    in_the_way = mac.home.mac.incoming.joinpath(*spoilt) / "clip.mp4" / "a folder where its clip should be"
    in_the_way.mkdir(parents=True)
    mac.drop("a")
    machines.live_until(lambda: "a" in mac.metas(), "the clip is back")
    assert "some files" in mac.said("courier.trouble")[0]["error"].lower()
    assert not mac.said("link.refused")
    assert not mac.said("link.lost")


def test_a_link_planted_in_the_inbox_leads_nowhere(machines: Machines, tmp_path: Path) -> None:
    """Whoever steals the inbox's key cannot have the server delete what lies elsewhere."""
    mac, server = machines.open()
    precious = server.home.gpu.batch_acks / "20250101_000000.json"
    precious.write_text("the memory of a batch")
    here = tmp_path / "here"
    here.mkdir()
    (here / "acks").symlink_to("../outbox/acks")
    options = ["-rlt", "-e", "ssh -F ssh_config"]
    subprocess.run(
        ["rsync", *options, f"{here}/", f"{INBOX}:./"], cwd=mac.home.mac.state, check=False, capture_output=True
    )
    for daemon in server.daemons:
        daemon.step()
    assert precious.read_text() == "the memory of a batch"


def test_a_later_run_is_never_replaced_by_an_earlier_one(machines: Machines) -> None:
    mac, server = machines.open()
    mac.drop("a")
    machines.live_until(_is_back(machines, "a"), "the clip is back")
    (first,) = mac.home.mac.results.glob("*/a.video_meta.json")
    meta = load(VideoMeta, first)
    base = f"{meta.batch_id}-009-0123abcd"
    for run, clip_id in ((1, base), (2, f"{base}-r2")):
        failure = Failure(stage="qa", code="x", message=f"run {run}", attempts=1, failed_at=now())
        told = {"clip_id": clip_id, "run": run, "outcome": "fail", "files": [], "failure": failure}
        there = server.home.gpu.outbox / meta.batch_id / clip_id
        there.mkdir(parents=True)
        (there / "video_meta.json").write_bytes(meta.model_copy(update=told).to_json())
    machines.live_until(lambda: len(server.said("clip.released")) == 3, "both are acknowledged")
    (failed,) = mac.home.mac.results.glob("*/failed/a.video_meta.json")
    assert load(VideoMeta, failed).run == 2
    assert [said["run"] for said in mac.said("clip.superseded")] == [1]
    assert [said["reason"] for said in mac.said("clip.failed")] == ["run 2"]
    assert not mac.said("clip.not_fetched")


def test_a_stop_ends_a_transfer_at_once(machines: Machines) -> None:
    mac, server = machines.open()
    name = "20261122_150839", "20261122_150839-001-0123abcd"
    there = server.home.gpu.outbox.joinpath(*name)
    there.mkdir(parents=True)
    (there / "clip.mp4").write_bytes(os.urandom(4 << 20))
    here = mac.home.mac.incoming.joinpath(*name) / "clip.mp4"

    def stop(_fraction: float) -> None:
        if here.exists() and here.stat().st_size:
            raise Stopped

    slow = mac.settings.transport.model_copy(update={"bandwidth_kib": 100})
    with pytest.raises(Stopped):
        RsyncTransport(mac.home.mac, machines.mac_root, slow, stop).fetch([Result(*name)], lambda _: None)
    until(lambda: not machines.sshd.sessions, "the server has noticed")
