"""``detexport-job``: what a scheduler runs; see ``detexport-job --help``."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from detexport.cli import main as run_main
from detexport.errors import TRACEBACK, ConfigError

NAME = "detexport-job"
EXIT_CODES = f"""Exit codes: 0 promoted, or nothing to do; 1 refused, or promoted in part: the data, a
validation or a comparison with the champion failed, and what failed did not become a champion; 2 invalid
request: an option, a parameter, a file of the project; 3 the network, the registry, the disk or a program
failed, the notification was not received, or another retraining run is active: run it again later
({TRACEBACK}=1 prints the stack trace); 143, 130, 129 ended by SIGTERM, SIGINT, SIGHUP: the next run
continues."""

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Retrain, export, validate and promote unattended.",
)

Timeout = Annotated[
    float | None,
    Option(
        min=1,
        metavar="SECONDS",
        help="End a run with code 3 after this time; the next one continues. Default: no limit.",
    ),
]
Project = Annotated[
    Path,
    Option(
        help="Folder of the project: a clone of detexport's repository, or a checkout with its .dvc/, "
        "dvc.yaml, params.yaml and tools/preflight.py."
    ),
]


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
    accept_reexport: Annotated[
        bool,
        Option(
            "--accept-reexport",
            help="Register artifacts that differ from the champion's of the same weights, "
            "after a change of the environment.",
        ),
    ] = False,
    timeout: Timeout = None,
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
    """Fetch data; if something changed, train, export, validate and promote what passes the promotion gate.

    \b
      detexport-job retrain
      detexport-job retrain --project /srv/detector --notify https://hooks.example.com/detector

    If nothing changed, the run ends within seconds. Data that differ too much from the champion's are refused
    before anything is trained on them. If torch, a runtime or the base image changed, artifacts are exported
    again and compared with the champion's. The summary is reports/retraining.json, and a page beside it. A
    run that was killed is completed by the next one.
    """  # noqa: D301
    from detexport.retraining.retrain import Options, retrain

    options = Options(
        fetch=fetch,
        push=push,
        accept_data=accept_data,
        accept_reexport=accept_reexport,
        timeout_s=timeout,
        notify=notify,
    )
    summary = retrain(project, options)
    print("\n".join(summary.lines()))
    raise typer.Exit(summary.exit_code)


@app.command("schedule", epilog=EXIT_CODES)
def schedule_command(
    cron: Annotated[str, Option(help="When to run, as a cron expression: minute hour day month weekday.")],
    project: Project = Path(),
    python: Annotated[
        Path, Option(help="Python of the project's environment. Default: the one that runs this command.")
    ] = Path(sys.executable),
    timezone: Annotated[str, Option(help="Time zone of the expression, such as Europe/Berlin.")] = "UTC",
    retries: Annotated[int, Option(min=0, help="Number of retries after exit code 3.")] = 2,
    retry_delay: Annotated[float, Option(min=0, help="Seconds between two tries.")] = 600.0,
    timeout: Timeout = None,
    port: Annotated[int, Option(min=1, max=65535, help="Port of the server that is started.")] = 4200,
) -> None:
    """Run `detexport-job retrain` at fixed times with Prefect, until the process ends.

    \b
      detexport-job schedule --cron "0 2 * * *" --python .venv/bin/python

    A refused run fails; one that failed with code 3 is tried again. PREFECT_API_URL names an existing server,
    whose page shows all runs; without it Prefect starts one.
    """  # noqa: D301
    from detexport.retraining.pipeline import Pipeline
    from detexport.retraining.prefect_server import prefect_server

    Pipeline(project)
    if not python.is_file():
        raise ConfigError(
            "there is no such Python",
            got=python,
            expected="an interpreter, such as .venv/bin/python",
            remedy="correct --python",
        )
    with prefect_server(port) as address:
        print(f"schedule: {cron} ({timezone}); all runs: {address.removesuffix('/api')}", flush=True)
        from detexport.retraining.schedule import serve

        serve(
            project,
            python=python.absolute(),
            cron=cron,
            timezone=timezone,
            retries=retries,
            retry_delay_s=retry_delay,
            timeout_s=timeout,
        )


def main() -> None:
    """Run the command line and exit with its code."""
    run_main(app, NAME)


if __name__ == "__main__":
    main()
