"""``dropreel ssh-setup``: the keys of this Mac, the host key of the server, and what each must know of the other."""

from __future__ import annotations

from typing import Annotated

import typer

from core import fsops
from core.errors import BadSettings, DropreelError, ProcessFailed
from core.settings import load_settings
from core.ssh import Ssh
from core.work import unwatched
from daemons.cli.app import HERE, HomeOption, app, console


@app.command("ssh-setup")
def ssh_setup(
    home: HomeOption = HERE,
    server_home: Annotated[str, typer.Option(help="The home on the server: its whole path there.")] = "/srv/dropreel",
    pin: Annotated[
        str, typer.Option(help="The server's fingerprint, SHA256:…, where nobody can be asked whether it is right.")
    ] = "",
) -> None:
    """Make two keys, pin the server's host key, print the lines that the server's `authorized_keys` needs.

    May be run again: keys that are there are kept, and a server that was set up anew is asked about.

    **On the server**, `ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub` says its fingerprint.
    """
    if not server_home.startswith("/"):
        raise typer.BadParameter("--server-home is the whole path on the server, such as /srv/dropreel: not from ~, "
                                 "and not from the folder one is in.")  # fmt: skip
    settings, folders = load_settings(home)
    if settings.transport.kind != "rsync":
        raise BadSettings('This home copies within itself. Set kind = "rsync" and host in [transport] first.')
    fsops.confine(folders.root, folders.root / settings.transport.keys.expanduser())
    ssh = Ssh(folders.root, settings.transport)
    for key in ssh.make_keys(unwatched):
        console.print(f"Made the key [bold]{key}[/].", soft_wrap=True)
    _pin(ssh, pin)
    account = f"{settings.transport.user}@{settings.transport.host}"
    console.print(f"\nThese two lines belong into ~/.ssh/authorized_keys of {account}:\n")
    for line in ssh.authorized_keys(server_home):
        typer.echo(line)  # as it is: to be copied, whatever the terminal's width
    console.print("\nThen try it: [bold]dropreel doctor[/].")


def _pin(ssh: Ssh, expected: str) -> None:
    """Pin the host keys that a person, or the fingerprint that was given, confirms."""
    host, port = ssh.settings.host, ssh.settings.port
    said = ""
    try:
        lines = ssh.offered_host_keys(unwatched)
    except ProcessFailed as error:
        lines, said = [], error.stderr
    if not lines:  # what it says, it says once for each kind of key
        why = "".join(f" {line}." for line in dict.fromkeys(said.splitlines()) if not line.startswith("#"))
        raise DropreelError(f"No sshd answers at {host}, port {port}.{why} Is the server up, are transport.host and "
                            "transport.port right, does a firewall let you through?")  # fmt: skip
    offered = {ssh.fingerprint(line, unwatched): line for line in lines}
    if expected and expected not in offered:
        raise DropreelError(f"No host key of {host} has the fingerprint {expected}; it has {', '.join(offered)}. "
                            "Look on the server which is right; if none is, another machine answers.")  # fmt: skip
    known = ssh.known_hosts.read_text(encoding="utf-8").splitlines() if ssh.known_hosts.is_file() else []
    if known and set(known) <= set(offered.values()) and (not expected or offered[expected] in known):
        console.print(f"The host keys of {host} are pinned already.")
        return
    if expected:
        chosen = [offered[expected]]
    else:
        console.print(f"{host} says that its host keys are:\n")
        for fingerprint, line in offered.items():
            typer.echo(f"{line.split()[1]:<22} {fingerprint}")
        try:
            typer.confirm("\nAre they the server's own? Compare them there; a stranger's would get your pictures.",
                          abort=True)  # fmt: skip
        except typer.Abort:
            raise DropreelError("Nothing is pinned. Compare the fingerprints, and run this again; where nobody can be "
                                "asked, with --pin and the right one.") from None  # fmt: skip
        chosen = list(offered.values())
    ssh.pin(chosen)
    console.print(f"Pinned in [bold]{ssh.known_hosts}[/].", soft_wrap=True)
