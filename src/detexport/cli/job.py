"""``detexport-job``: what a scheduler runs; see ``detexport-job --help``."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from detexport.cli import main as run_main
from detexport.errors import TRACEBACK

NAME = "detexport-job"
EXIT_CODES = f"""Exit codes: 0 promoted, or nothing to do; 1 refused: the data, a validation or a comparison
with the champion failed, and the champion is as before; 2 invalid request: an option, a parameter, a file of
the project; 3 something broke, or another run is active: run it again later ({TRACEBACK}=1 prints the stack
trace); 143, 130, 129 ended by SIGTERM, SIGINT, SIGHUP: the next run continues."""

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Retrain, export, validate and promote without a user.",
)

Project = Annotated[Path, Option(help="Folder of the project: a checkout with dvc.yaml.")]


@app.callback()
def _options() -> None: ...


@app.command("retrain", epilog=EXIT_CODES)
def retrain_command(
    project: Project = Path(),
    fetch: Annotated[
        bool, Option(help="First update imported data and pull from the default remote, if there is one.")
    ] = True,
    push: Annotated[
        bool, Option(help="In the end push data and results to the default remote, if there is one.")
    ] = True,
    accept_data: Annotated[
        bool, Option("--accept-data", help="Train on data that the data checks refuse.")
    ] = False,
    notify: Annotated[
        str,
        Option(
            metavar="URL",
            envvar="DETEXPORT_NOTIFY_URL",
            show_envvar=True,
            help="Send the summary to this address, as JSON in an HTTP POST, unless nothing changed.",
        ),
    ] = "",
) -> None:
    """Fetch data; if something changed, train, export, validate and promote what passes the gate.

    \b
      detexport-job retrain
      detexport-job retrain --project /srv/detector --notify https://hooks.example.com/detector

    If nothing changed, the run ends within seconds. Data that differ too much from the champion's are refused
    before anything is trained on them. The summary is reports/retraining.json, and a page beside it. A run
    that was killed is completed by the next one.
    """  # noqa: D301
    from detexport.retraining.job import Options, retrain

    summary = retrain(project, Options(fetch=fetch, push=push, accept_data=accept_data, notify=notify))
    print("\n".join(summary.lines()))
    raise typer.Exit(summary.exit_code)


def main() -> None:
    """Run the command line and exit with its code."""
    run_main(app, NAME)


if __name__ == "__main__":
    main()
