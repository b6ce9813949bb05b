"""Telling the service manager how a daemon is: systemd's notify protocol, which ``dropreel up`` speaks too."""

from __future__ import annotations

import contextlib
import os
import socket


class Notifier:
    """Sends ``READY=1``, ``STATUS=…``, ``WATCHDOG=1`` and ``STOPPING=1`` to ``$NOTIFY_SOCKET``; silent without one."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if address:
            if address.startswith("@"):  # Linux's abstract name space
                address = "\0" + address[1:]
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            try:
                self._socket.connect(address)
            except OSError:  # nobody listens: work goes on unwatched
                self.close()

    def send(self, **fields: str | int) -> None:
        """Send one message, such as ``send(READY=1, STATUS="waiting")``; never blocks, never raises."""
        if self._socket is not None:
            message = "\n".join(f"{key}={value}" for key, value in fields.items())
            with contextlib.suppress(OSError):
                self._socket.send(message.encode())

    def close(self) -> None:
        """Stop telling."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
