"""``dropreel notify``: a test message to everyone who is told of trouble."""

from __future__ import annotations

import socket

import typer

from core.errors import DropreelError
from core.notify import NotDelivered, Service, Unusable
from core.settings import load_settings
from daemons.cli.app import HERE, HomeOption, app, console


@app.command()
def notify(home: HomeOption = HERE) -> None:
    """Send a test message to every URL in the settings' `[notify]`, and say which arrived, or why not.

    What a service says of a failure may show a part of its URL: look before you pass it on.
    **Exit status:** 0, or 1 where one did not arrive.
    """
    settings, _ = load_settings(home)
    if not settings.notify.urls:
        raise DropreelError("Nobody is told of trouble: `urls` in [notify] is empty. docs/how-to/alerts.md shows "
                            "what can stand there.")  # fmt: skip
    failed = 0
    for number, url in enumerate(settings.notify.urls, 1):
        try:
            service = Service(url)
            service.send("Dropreel: a test", f"If you read this, you will hear of trouble. — {socket.gethostname()}")
        except (Unusable, NotDelivered) as error:
            failed += 1
            console.print(f"{number}: failed: {error}", markup=False)
        else:
            console.print(f"{number}: arrived: {service.name}", markup=False)
    if failed:
        raise typer.Exit(1)
