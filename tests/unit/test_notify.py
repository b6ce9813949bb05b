"""Messages arrive at real services, whatever these do; no daemon waits for them, and no log shows their secrets."""

from __future__ import annotations

import datetime as dt
import email
import email.policy
import errno
import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from typer.testing import CliRunner

from core import fsops, messages, notify
from core.messages import Trouble
from core.notify import NotDelivered, Service, Teller, Unusable
from core.settings import NotifySettings
from daemons import cli
from daemons.cli.app import app
from tests.waiting import until

cli.load("notify")

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # by one of Apprise's services
DISK = Trouble("disk:mac", "The disk is full", "Make room.", urgent=True)
LINK = Trouble("link", "The server cannot be reached", "For 5 minutes.")
SECRETS = ("hunter2", "tok3n", "query-key", "header-key")


class Webhook(ThreadingHTTPServer):
    """A service that takes JSON, and answers as it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.status = 200
        self.heard: list[dict[str, Any]] = []
        self.asked = 0

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_address[1]}"

    @property
    def secret_url(self) -> str:
        """With a secret wherever a URL can hold one."""
        return self.url.replace("://", "://user:hunter2@") + "/hook/tok3n?-key=query-key&+X-Key=header-key"

    def titles(self) -> list[str]:
        return [said["title"] for said in self.heard]


class _Hook(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        if self.server.status == 200:
            self.server.heard.append(body)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is the library's
        """Nothing: the tests read the log."""


class Postbox(socketserver.ThreadingTCPServer):
    """A mail server that takes everything."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.mails: list[EmailMessage] = []

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self.server_address[1]}/?from=dropreel@example.com&to=ops@example.com"


class _Smtp(socketserver.StreamRequestHandler):
    server: Postbox

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            match line.strip().upper()[:4]:
                case b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    data = b"".join(iter(self.rfile.readline, b".\r\n"))
                    mail = email.message_from_bytes(data, policy=email.policy.default)
                    assert isinstance(mail, EmailMessage)
                    self.server.mails.append(mail)
                    self.wfile.write(b"250 taken\r\n")
                case b"QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                case _:
                    self.wfile.write(b"250 yes\r\n")


class Deaf:
    """A service that takes a connection, and never says a word."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.visitors: list[socket.socket] = []

    def take(self) -> None:
        """Wait for somebody to call."""
        self._socket.settimeout(20)
        self.visitors.append(self._socket.accept()[0])

    def close(self) -> None:
        for each in (*self.visitors, self._socket):
            each.close()


S = TypeVar("S", bound=socketserver.BaseServer)


def _serving(server: S) -> Iterator[S]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    yield from _serving(Webhook())


@pytest.fixture
def postbox() -> Iterator[Postbox]:
    yield from _serving(Postbox())


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    deaf = Deaf()
    yield deaf
    deaf.close()


class Desk:
    """Tellers of one half, one after another, and what they say to its log."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "notify.json"
        self.said: list[dict[str, Any]] = []
        self.moment = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
        self._open: list[Teller] = []

    def teller(self, *urls: str, **settings: Any) -> Teller:
        """A new one, as after a restart."""

        def note(_logger: object, method: str, event: Any) -> Any:
            self.said.append({"level": method, **event})
            raise structlog.DropEvent

        log: Any = structlog.wrap_logger(structlog.PrintLogger(), [note], wrapper_class=structlog.BoundLogger)
        self._open.append(Teller(self.file, NotifySettings(urls=list(urls), **settings), log, lambda: self.moment))
        return self._open[-1]

    def events(self) -> list[str]:
        return [said["event"] for said in self.said]

    def close(self) -> None:
        for teller in self._open:
            teller.close()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(notify, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(notify, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(messages, "GATHER_SECONDS", 0.0)
    desk = Desk(tmp_path)
    yield desk
    desk.close()
    fsops.seam = None


PROCESS = """
import sys, threading, time
from pathlib import Path
from core import notify
from core.logs import open_log
from core.messages import Trouble
from core.settings import NotifySettings
here, urls = Path(sys.argv[1]), sys.argv[2:]
log = open_log("it", here)
teller = notify.Teller(here / "notify.json", NotifySettings(urls=urls), log)
teller.lasting([Trouble("disk", "full", "", urgent=True)])
"""


def a_process(more: str, folder: Path, *urls: str) -> subprocess.Popen[str]:
    """A process of its own that has something to tell."""
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS + more, str(folder), *urls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """What it said by its end, which comes within ten seconds."""
    out, err = process.communicate("go on", timeout=10)
    assert process.returncode == 0, err
    return out + err


# They arrive


def test_a_webhook_hears_it(desk: Desk, webhook: Webhook) -> None:
    teller = desk.teller(webhook.url)
    teller.lasting([DISK])
    until(lambda: webhook.heard, "a message")
    assert webhook.titles() == ["Dropreel: The disk is full"]
    assert webhook.heard[0]["message"].splitlines() == ["Make room.", f"— {socket.gethostname()}"]
    until(lambda: desk.said, "a line in the log")
    assert desk.said == [{"level": "info", "event": "notify.sent", "service": webhook.url, "title": DISK.title}]


def test_a_mail_server_hears_it(desk: Desk, postbox: Postbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "GATHER_SECONDS", 20.0)
    teller = desk.teller(postbox.url)
    names = [f"Жук_{number} <b>& 日本" for number in range(7)]
    for name in names:
        teller.happened("flag B", name, lambda count: f"{count} clips flagged in batch B")
    desk.moment += dt.timedelta(seconds=20)
    until(lambda: postbox.mails, "a mail")
    (mail,) = postbox.mails
    assert (mail["To"], mail["Subject"]) == ("ops@example.com", "Dropreel: 7 clips flagged in batch B")
    text = mail.get_body(("plain",))
    assert text is not None
    assert text.get_content().splitlines()[:7] == names


def test_all_of_them_hear_it_and_each_once(desk: Desk, webhook: Webhook, postbox: Postbox) -> None:
    teller = desk.teller(webhook.url, postbox.url, webhook.url)
    teller.lasting([DISK])
    until(lambda: webhook.heard and postbox.mails, "both")
    for _ in range(20):
        teller.lasting([DISK])
    teller.close()
    assert (len(webhook.heard), len(postbox.mails)) == (1, 1)


def test_in_quiet_hours_it_waits_for_their_end(desk: Desk, webhook: Webhook) -> None:
    teller = desk.teller(webhook.url, quiet_from=dt.time(22), quiet_until=dt.time(7))
    desk.moment = dt.datetime(2026, 11, 22, 23, 0, tzinfo=dt.UTC)
    teller.lasting([LINK])
    teller.happened("flag B", "img_1", lambda count: f"{count} flagged")
    teller.lasting([LINK, DISK])
    until(lambda: webhook.heard, "what is urgent")
    assert webhook.titles() == ["Dropreel: The disk is full"]
    desk.moment = dt.datetime(2026, 11, 23, 7, 0, tzinfo=dt.UTC)
    until(lambda: len(webhook.heard) == 2, "the morning's digest")
    assert webhook.titles()[1] == "Dropreel: 2 messages"


# Nobody waits for them


def test_one_that_hangs_holds_up_nobody(desk: Desk, webhook: Webhook, deaf: Deaf) -> None:
    teller = desk.teller(f"json://127.0.0.1:{deaf.port}", webhook.url)
    teller.lasting([DISK])
    deaf.take()
    until(lambda: webhook.heard, "the other one hears it")
    begun = time.monotonic()
    teller.lasting([DISK, LINK])
    teller.happened("flag B", "img_1", lambda count: f"{count} flagged")
    told = time.monotonic()
    teller.close()
    closed = time.monotonic()
    assert told - begun < 1, "to tell is not to wait"
    assert closed - told < notify.CLOSE_SECONDS + 1, "the end comes in time"


def test_a_process_ends_in_time_though_its_mail_server_hangs(deaf: Deaf, tmp_path: Path) -> None:
    url = f"mailto://127.0.0.1:{deaf.port}/?from=dropreel@example.com&to=ops@example.com"
    process = a_process("sys.stdin.readline(); teller.close()", tmp_path, url)
    deaf.take()
    end(process)  # Apprise would give a mail server fifteen seconds


def test_one_that_fails_is_tried_again_and_said_to_once(desk: Desk, webhook: Webhook, postbox: Postbox) -> None:
    webhook.status = 503
    teller = desk.teller(webhook.url, postbox.url)
    teller.lasting([DISK])
    until(lambda: webhook.asked >= 3 and postbox.mails, "three tries")
    assert desk.events().count("notify.failed") == 1
    webhook.status = 200
    until(lambda: webhook.heard, "it works again")
    teller.close()
    assert webhook.titles() == [f"Dropreel: {DISK.title}"]
    assert len(postbox.mails) == 1, "who has heard it hears it no more"


def test_one_that_cannot_be_used_is_said_by_its_number(desk: Desk, webhook: Webhook) -> None:
    teller = desk.teller("nonsense://hunter2", webhook.url)
    teller.lasting([DISK])
    until(lambda: len(desk.said) == 2, "both have spoken")
    assert {"level": "error", "event": "notify.unusable", "number": 1} in desk.said
    assert len(webhook.heard) == 1


def test_on_a_full_disk_it_is_told_all_the_same(desk: Desk, webhook: Webhook) -> None:
    def full(name: str, paths: tuple[Path, ...]) -> None:
        if name == "write":
            raise OSError(errno.ENOSPC, "no space left")

    teller = desk.teller(webhook.url)
    fsops.seam = full
    teller.lasting([DISK])
    teller.lasting([DISK, LINK])
    until(lambda: DISK.title in str(webhook.heard) and LINK.title in str(webhook.heard), "both are told")
    teller.close()
    assert desk.events().count("notify.not_kept") == 1


# Nothing is told twice, or forgotten


def test_a_restart_neither_repeats_nor_forgets(desk: Desk, webhook: Webhook) -> None:
    first = desk.teller(webhook.url)
    first.lasting([DISK])
    until(lambda: "notify.sent" in desk.events(), "the first message")
    webhook.status = 503
    first.happened("flag B", "img_1", lambda count: f"{count} flagged")
    until(lambda: "notify.failed" in desk.events(), "the second fails")
    first.close()
    webhook.status = 200
    second = desk.teller(webhook.url)
    second.lasting([DISK])
    until(lambda: len(webhook.heard) == 2, "what was left")
    second.close()
    assert webhook.titles() == [f"Dropreel: {DISK.title}", "Dropreel: 1 flagged"]


def test_a_memory_that_cannot_be_read_is_begun_anew(desk: Desk, webhook: Webhook) -> None:
    desk.file.write_bytes(b'{"troubles": 7')
    desk.teller(webhook.url).lasting([DISK])
    until(lambda: webhook.heard, "a message")
    until(lambda: DISK.key in json.loads(desk.file.read_bytes())["troubles"], "a memory")


# Secrets


def test_no_secret_of_a_url_reaches_the_log(webhook: Webhook, tmp_path: Path) -> None:
    webhook.status = 401
    failed_and_said_so = """
written = (here / "it.log").read_text
while written().count("notify.failed") < 2 or "notify.unusable" not in written():
    time.sleep(0.01)
teller.close()
"""
    gone = webhook.secret_url.replace(str(webhook.server_address[1]), "1")
    said = end(a_process(failed_and_said_so, tmp_path, webhook.secret_url, gone, "nonsense://user:hunter2@host/tok3n"))
    written = said + "".join(path.read_text() for path in tmp_path.iterdir())
    assert f"service={webhook.url}" in written, "one can tell which of them it was"
    assert [secret for secret in SECRETS if secret in written] == []


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("jsons://user:hunter2@host.example/tok3n?x=query-key", "jsons://host.example"),
        ("mailtos://me:hunter2@mail.example?to=ops@example.com", "mailtos://mail.example"),
        ("tgram://123456789:hunter2_hijklmnop/12315544/", "tgram://1...p"),
        ("discord://4174216298/tok3nI8qBe7bk2ZwO5U711o3dV_js", "discord://4...8"),
    ],
)
def test_a_service_has_a_name_that_can_be_shown(url: str, name: str) -> None:
    assert Service(url).name == name


@pytest.mark.parametrize("url", ["", "nonsense://x", "json://", "just words", "mailto://"])
def test_what_is_no_service_is_refused(url: str) -> None:
    with pytest.raises(Unusable):
        Service(url)


def test_why_a_message_did_not_arrive_is_told_to_the_one_who_asks(webhook: Webhook) -> None:
    webhook.status = 503
    with pytest.raises(NotDelivered, match="503"):
        Service(webhook.url).send("title", "text")


# Who tells nobody pays nothing


def test_without_urls_nothing_is_imported_written_or_started(tmp_path: Path) -> None:
    nothing = """
teller.happened("flag", "img", str)
assert "apprise" not in sys.modules and "requests" not in sys.modules
assert threading.active_count() == 1
teller.close()
"""
    end(a_process(nothing, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["it.log"]


# The command


def test_the_command_says_which_arrived(webhook: Webhook, tmp_path: Path) -> None:
    (tmp_path / "dropreel.toml").write_text(
        f'[notify]\nurls = ["{webhook.secret_url}", "json://127.0.0.1:1", "nonsense://x"]\n'
    )
    ended = CliRunner().invoke(app, ["notify", "--home", str(tmp_path)])
    assert ended.exit_code == 1
    first, second, third = ended.output.splitlines()
    assert first == f"1: arrived: {webhook.url}"
    assert second.startswith("2: failed: ")
    assert "127.0.0.1" in second
    assert third.startswith("3: failed: ")
    assert webhook.titles() == ["Dropreel: a test"]


def test_the_command_says_where_to_put_urls(tmp_path: Path) -> None:
    (tmp_path / "dropreel.toml").write_text("")
    ended = CliRunner().invoke(app, ["notify", "--home", str(tmp_path)])
    assert "urls" in str(ended.exception)
