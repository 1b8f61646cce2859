"""`python -m flows serve`: all deployments in this process, for who wants neither a worker nor a work pool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.command import Debug, choose_prefect, errors_in_words
from flows.display import say
from pgferry.private import make_folder
from pgferry.settings import load_settings

serve_command = typer.Typer()

Limit = Annotated[int, typer.Option(min=1, help="Flow runs at a time; each is a process of its own.")]


@serve_command.command()
def serve(limit: Limit = 4, debug: Debug = False) -> None:
    """Register all deployments of prefect.yaml and run what is due, here, until Ctrl-C or SIGTERM."""
    with errors_in_words(debug):
        settings = load_settings()
        settings.target_url()
        ui = choose_prefect(settings, no_ui=False)
        from flows.prefect_worker import paused_mark
        from flows.serve import build, read_deployments
        from flows.serve import serve as run

        _tell_of_worker(settings.home)
        deployments = [build(deployment) for deployment in read_deployments(Path.cwd())]
        say(f"{len(deployments)} deployments are served here; Ctrl-C ends it, and pauses their schedules.")
        say(f"Prefect UI: {ui}")
        mark = paused_mark(settings.home)
        make_folder(mark.parent)
        mark.touch()  # Before, so that it is there however this ends.
        run(deployments, limit)
        say("Ended; the schedules are paused, until the next `serve` or `make ui`.")


def _tell_of_worker(home: Path) -> None:
    from flows import background
    from flows.prefect_server import server_folder
    from flows.prefect_worker import NAME

    if background.running(server_folder(home), NAME) is not None:
        say("A worker runs here too (`make ui`); from now on the deployments are run by this process, not by it.")
