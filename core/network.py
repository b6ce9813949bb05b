"""The operating system's word that this machine's network has changed: a cable, a Wi-Fi, a VPN, waking up."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys

_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 0x1, 0x10, 0x40, 0x100, 0x400
"""linux/rtnetlink.h: the multicast groups ``RTMGRP_…``."""


class NetworkChanges:
    """A descriptor that becomes readable when a link, an address or a route comes or goes.

    Linux tells by rtnetlink, macOS by a routing socket; neither asks for rights. Where there is no such socket
    nothing is ever told, and whoever waits waits as long as it would have.
    """

    def __init__(self) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            if sys.platform == "linux":
                opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)  # 0 is NETLINK_ROUTE
                opened.bind((0, _LINK | _IPV4_ADDRESS | _IPV4_ROUTE | _IPV6_ADDRESS | _IPV6_ROUTE))
            elif sys.platform == "darwin":
                opened = socket.socket(socket.PF_ROUTE, socket.SOCK_RAW, 0)
            else:
                return
            opened.setblocking(False)
            self._fd = opened.detach()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What to select on; none where the system does not tell."""
        return (self._fd,) if self._fd >= 0 else ()

    def happened(self) -> bool:
        """Whether the network has changed since the last time this was asked."""
        told = False
        while self._fd >= 0:
            try:
                os.read(self._fd, 65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # which says that more has changed than was kept
                    break
            told = True
        return told

    def close(self) -> None:
        """Listen no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
