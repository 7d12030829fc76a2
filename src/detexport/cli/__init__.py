"""The standalone command line, for one model and one target: see ``detexport --help``.

A command imports torch and the runtimes when it runs, after its request was checked.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option
from typer.exceptions import TyperException

from detexport import __version__
from detexport.errors import (
    REQUEST,
    TRACEBACK,
    VERDICT,
    ArtifactError,
    ConfigError,
    DiskError,
    OutputError,
    did_you_mean,
    fail,
)
from detexport.system.extras import extra_imports
from detexport.system.files import OF_THE_DISK
from detexport.system.process import end_on_signals
from detexport.system.script import PROJECTS

EXIT_CODES = f"""Exit codes: 0 done and passed; 1 a verdict failed; 2 invalid request; 3 environment or
program fault: a missing runtime or device, out of memory, a full disk, a bug ({TRACEBACK}=1 prints the stack
trace); 130, 143, 129 ended by SIGINT, SIGTERM, SIGHUP. An error is one line on the standard error."""

COMPLETE = "_DETEXPORT_COMPLETE"
"""The environment variable by which the script of ``--show-completion`` requests completions."""

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="""Export a detection model, inspect the artifact, run it on images, validate it, serve it.

    \b
      detexport export --config-file config.yaml --weights model.pth --target onnx --output model_onnx
      detexport inspect model_onnx
      detexport predict model_onnx photo.jpg --draw drawn
      detexport validate model_onnx --data coco --config-file config.yaml --weights model.pth
      detexport diagnose model_onnx --config-file config.yaml --weights model.pth
      detexport serve models:/mask_rcnn-onnx@champion
      detexport promote mask_rcnn-onnx

    `detexport COMMAND --help` explains a command. `dvc repro` in the project's repository does the same for
    many models and targets, measures latency, and registers the artifacts that passed.""",
)

Artifact = Annotated[Path, Argument(metavar="ARTIFACT", help="Folder of an exported artifact.")]
Source = Annotated[
    str,
    Argument(
        metavar="ARTIFACT|models:/...",
        help="Folder of an exported artifact, or models:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN_ID/PATH "
        "in the store that MLFLOW_TRACKING_URI names.",
    ),
]
AllowNew = Annotated[
    list[str] | None,
    Option(
        metavar="PATTERN",
        help="Parameters that may be missing from the weights or have another shape, such as "
        "'roi_heads.box_predictor.*'. They keep their initial values; repeatable.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    Argument(metavar="[KEY VALUE]...", help="Keys that override the configuration, as in the export."),
]


def _limit_pixels(pixels: int | None) -> None:
    """Set the limit in the environment, so that it also applies in child processes."""
    if pixels is not None:
        from detexport.data.images import LIMIT_VARIABLE

        os.environ[LIMIT_VARIABLE] = str(pixels)


def _trust_config(trusted: bool) -> None:
    """Store the trust in the environment, so that it also applies in child processes."""
    if trusted:
        from detexport.config.lazy_python import TRUST

        os.environ[TRUST] = "1"


TrustConfig = Annotated[
    bool,
    Option(
        "--trust-config",
        callback=_trust_config,
        expose_value=False,
        help="Execute a .py configuration, in a separate process. Read the file first: it is code.",
    ),
]
MaxImagePixels = Annotated[
    int | None,
    Option(
        min=1,
        metavar="N",
        callback=_limit_pixels,
        expose_value=False,
        help="Maximum number of pixels of an image. Default: DETEXPORT_MAX_IMAGE_PIXELS in the environment, "
        "else 50000000.",
    ),
]


def main(program: typer.Typer = app, name: str = "detexport") -> None:
    """Run a command line and exit with its code.

    Args:
        program: the commands.
        name: name of the program, in errors and help.
    """
    end_on_signals()
    for stream in (sys.stdout, sys.stderr):
        # A file name may be invalid UTF-8; JSON reads it back from the escapes of its surrogates.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    sys.exit(run_command(sys.argv[1:], program, name))


def run_command(arguments: Sequence[str], program: typer.Typer = app, name: str = "detexport") -> int:
    """Run a command and return its exit code (``EXIT_CODES``); print an error as one line.

    Args:
        arguments: the command with its options; if empty, the help is printed and the code is 2.
        program: the commands.
        name: name of the program.
    """
    try:
        try:
            with extra_imports():
                _invoke(arguments or ["--help"], program, name)
            code = 0 if arguments else REQUEST
        except typer.Exit as done:
            code = done.exit_code if arguments else REQUEST
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except Exception as error:
            if _is_of_the_output(error):
                raise
            code = fail(_usage_error(error) if isinstance(error, TyperException) else error)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe has ended
        _close_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _close_output()
        return fail(_unwritable_output(error))
    return code


def _invoke(arguments: Sequence[str], program: typer.Typer, name: str) -> None:
    """Parse the arguments and run the command; errors are raised, not printed by the parser."""
    command = typer.main.get_command(program)
    if COMPLETE in os.environ:  # the shell requests completions
        command.main(list(arguments), prog_name=name)
    with command.make_context(name, list(arguments)) as context:
        command.invoke(context)


def _close_output() -> None:
    """Discard the unwritten standard output, which the interpreter would try to write at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_of_the_output(error: Exception) -> bool:
    """Return whether an error is of writing the standard output: such an error names no file."""
    if not isinstance(error, OSError) or error.filename is not None:
        return False
    return isinstance(error, BrokenPipeError) or error.errno in OF_THE_DISK


def _unwritable_output(error: OSError) -> OutputError:
    return DiskError(
        "cannot write the standard output",
        got=error.strerror,
        expected="a terminal, a pipe, or a file with room for what is printed",
        remedy="make room, or write elsewhere",
    )


def _usage_error(error: TyperException) -> ConfigError:
    """Return the parser's error as a ConfigError."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "detexport"
    name, options = getattr(error, "option_name", ""), getattr(error, "possibilities", None) or ()
    meant = did_you_mean(name, options)
    return ConfigError(
        error.message if meant else error.format_message(),
        remedy=meant or f"`{command} --help` lists the arguments and options",
    )


def _fix_hashes() -> None:
    """Restart with PYTHONHASHSEED=0: the order of a scripted module's constants follows the hashes."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})


def _print_version(asked: bool) -> None:
    if asked:
        print(f"detexport {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    projects: Annotated[
        list[str] | None,
        Option(
            "--with",
            metavar="PROJECT",
            envvar=PROJECTS,
            help="Import this package or module before the command; repeatable. It may be written for "
            "detectron2: its imports of detectron2 then resolve to detexport.",
        ),
    ] = None,
) -> None:
    if projects:
        os.environ[PROJECTS] = " ".join(projects)  # also for a restart, and for child processes
        from detexport.detectron2_alias import import_projects

        import_projects(projects)


@app.command("export", epilog=EXIT_CODES)
def export_command(
    config_file: Annotated[
        str,
        Option(help="detectron2 YAML, by path or by its name in the model zoo (COCO-Detection/...yaml)."),
    ],
    target: Annotated[str, Option(help="Target; an unknown name prints the list of all targets.")],
    output: Annotated[Path, Option(help="Folder of the artifact: new, empty, or an artifact to replace.")],
    weights: Annotated[
        str,
        Option(
            help="Checkpoint (.pth, .pkl, .safetensors), by path, https:// or detectron2://. It must hold "
            "every parameter of the model. Default: MODEL.WEIGHTS; for a zoo name its trained checkpoint."
        ),
    ] = "",
    sample: Annotated[
        list[str] | None,
        Option(
            help="Image, folder or 'pattern'; repeatable. The first image is the example input of the "
            "export; all are inputs of the check. Default: a bundled image."
        ),
    ] = None,
    calibration: Annotated[
        list[str] | None,
        Option(
            help="Calibration images for int8: image, folder or 'pattern'; repeatable. Default: the training "
            "images of --data, else the samples."
        ),
    ] = None,
    opt: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=VALUE", help="Option of the export method, such as opset_version=18; repeatable."
        ),
    ] = None,
    class_names: Annotated[
        str,
        Option(
            metavar="A,B,...",
            help="Class names. Default: those of --data, else of DATASETS.TEST, else numbers.",
        ),
    ] = "",
    data: Annotated[
        Path | None,
        Option(help="Data set in COCO format: images/val and annotations/instances_val.json."),
    ] = None,
    run_eval: Annotated[
        bool, Option("--run-eval", help="Evaluate the task metrics (AP, ...) of both on --data.")
    ] = False,
    device: Annotated[
        str, Option(help="Device that the artifact is compiled for and checked on: cpu or cuda.")
    ] = "cpu",
    check: Annotated[
        bool,
        Option(
            "--check/--no-check",
            "--proof/--no-proof",  # an earlier name, which scripts use
            help="Compare the artifact with the model; keep it only if it passes.",
        ),
    ] = True,
    max_image_pixels: MaxImagePixels = None,
    trust_config: TrustConfig = False,
    allow_new: AllowNew = None,
    overrides: Annotated[
        list[str] | None,
        Argument(
            metavar="[KEY VALUE]...",
            help="Keys that override the configuration, such as MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.3. "
            "Write -- before them if a value begins with -.",
        ),
    ] = None,
) -> None:
    """Export a model, and check the artifact against the model.

    \b
      detexport export --config-file COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml \\
        --weights model_final.pkl --target onnx --output mask_rcnn_onnx --sample street.jpg \\
        --opt opset_version=18 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.3

    The check runs the artifact and the model on the samples at several sizes and on a blank image, and
    compares boxes, scores, masks and keypoints within the tolerance. If the artifact does not pass, it is not
    kept and the exit code is 1. A target in bf16 or int8 is evaluated by its task metrics on --data.
    """  # noqa: D301
    from detexport.cli.checks import Request, check_export

    request = check_export(
        Request(
            config_file=config_file,
            weights=weights,
            target=target,
            output=output,
            samples=tuple(sample or ()),
            calibration=tuple(calibration or ()),
            options=tuple(opt or ()),
            class_names=tuple(name.strip() for name in class_names.split(",")) if class_names else (),
            data=data,
            run_eval=run_eval,
            device=device,
            check=check,
            overrides=tuple(overrides or ()),
            allow_new=tuple(allow_new or ()),
        )
    )
    _fix_hashes()
    from detexport.cli.export import make

    make(request)


@app.command("predict", epilog=EXIT_CODES)
def predict_command(
    source: Source,
    images: Annotated[
        list[str],
        Argument(
            help="Image files, folders, or 'patterns' in quotes. With --output: one folder, including its "
            "subfolders, or a URL such as s3://bucket/images."
        ),
    ],
    as_json: Annotated[bool, Option("--json", help="Print one JSON document instead of a table.")] = False,
    draw: Annotated[
        Path | None, Option(help="Folder for a copy of each image with its detections drawn.")
    ] = None,
    device: Annotated[str, Option(help="Device: cpu, cuda or cuda:<index>.")] = "cpu",
    target: Annotated[
        str, Option(help="Run the artifact as this target. Default: the format's runtime, in float32.")
    ] = "",
    score_threshold: Annotated[
        float, Option(min=0.0, max=1.0, help="Return instances with a score above this.")
    ] = 0.5,
    output: Annotated[
        str,
        Option(
            metavar="FOLDER|URL",
            help="Write the results to this folder or URL, in parts; an interrupted run is resumed.",
        ),
    ] = "",
    result_format: Annotated[
        str, Option("--format", help="With --output: parquet, or coco to also write results.json.")
    ] = "parquet",
    engine: Annotated[
        str, Option(help="With --output: local (this process), or ray (a cluster or a local Ray instance).")
    ] = "local",
    address: Annotated[
        str, Option(help="Address of a Ray cluster. Default: RAY_ADDRESS, else a local Ray instance.")
    ] = "",
    workers: Annotated[
        int, Option(min=0, help="Number of Ray actors, each of which loads the model; 0: as many as fit.")
    ] = 0,
    part_images: Annotated[int, Option(min=1, help="With --output: number of images per part.")] = 64,
    max_image_pixels: MaxImagePixels = None,
) -> None:
    """Run an artifact or a registered model on images, without torch unless its runtime needs it.

    \b
      detexport predict model_onnx photo.jpg
      detexport predict model_onnx 'photos/*.jpg' --json --score-threshold 0.3 > found.json
      detexport predict model_onnx photos --draw drawn
      detexport predict models:/mask_rcnn-onnx@champion s3://bucket/images --output found --engine ray

    Images may have any size: they are resized by the artifact's rule. Boxes (x0, y0, x1, y1), masks and
    keypoints are in px of the original image. In JSON, masks are COCO's compressed RLE.
    """  # noqa: D301
    from detexport.cli.checks import check_predict, check_predict_folder

    if output:
        check_predict_folder(
            source,
            images,
            others={"--json": as_json, "--draw": draw is not None},
            device=device,
            target=target,
            result_format=result_format,
            engine=engine,
        )
        from detexport.cli.predict_folder import predict_to_output

        predict_to_output(
            source,
            images[0],
            output,
            device=device,
            target=target,
            score_threshold=score_threshold,
            part_images=part_images,
            result_format=result_format,
            engine=engine,
            address=address,
            workers=workers,
        )
        return
    check_predict(source, images, draw_to=draw, device=device, target=target, engine=engine)
    from detexport.cli.predict import predict

    predict(
        source,
        images,
        as_json=as_json,
        draw_to=draw,
        device=device,
        target=target,
        score_threshold=score_threshold,
    )


@app.command("verify", epilog=EXIT_CODES)
def verify_command(
    uri: Annotated[
        str,
        Argument(metavar="VERSION", help="models:/NAME/NUMBER or models:/NAME@ALIAS in MLflow's registry."),
    ],
    sample: Annotated[
        bool, Option("--sample/--no-sample", help="Run the stored sample again, or compare digests only.")
    ] = True,
    provenance_sha256: Annotated[
        str,
        Option(metavar="SHA256", help="Digest of the provenance, if you keep it outside of the registry."),
    ] = "",
    device: Annotated[str, Option(help="Device of the sample: cpu, cuda or cuda:<index>.")] = "cpu",
    as_json: Annotated[bool, Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Verify a registered version: download it, check every digest, run its sample again.

    \b
      detexport verify models:/mask_rcnn-onnx@champion
      detexport verify models:/mask_rcnn-onnx/3 --json

    MLFLOW_TRACKING_URI names the registry. Exit code 1 if a check fails.
    """  # noqa: D301
    from detexport.cli.verify import verify

    if not verify(uri, device=device, sample=sample, provenance_sha256=provenance_sha256, as_json=as_json):
        raise typer.Exit(VERDICT)


@app.command("validate", epilog=EXIT_CODES)
def validate_command(
    artifact: Artifact,
    data: Annotated[
        Path | None,
        Option(help="Data set in COCO format: images/val and annotations/instances_val.json."),
    ] = None,
    against: Annotated[
        Path | None, Option(metavar="ARTIFACT2", help="Compare with this artifact instead of a model.")
    ] = None,
    config_file: Annotated[
        str, Option(help="Configuration of the model to compare with, as for export.")
    ] = "",
    weights: Annotated[str, Option(help="Weights of the model, as for export.")] = "",
    target: Annotated[
        str, Option(help="Run the artifact as this target. Default: the format's runtime, in float32.")
    ] = "",
    against_target: Annotated[str, Option(help="Run ARTIFACT2 as this target.")] = "",
    images: Annotated[
        int | None,
        Option(
            min=1,
            help="Number of images of the data set, each run at three sizes; ignored in the pipeline's "
            "folders, where the stored reference has its own. Default: that of --params, else 8.",
        ),
    ] = None,
    accuracy_images: Annotated[
        int | None,
        Option(
            "--accuracy-images",
            "--quality-images",  # an earlier name, which scripts use
            min=0,
            help="Number of annotated images for the task metrics (AP, AR, PQ, mIoU); 0 leaves them out, for "
            "data without annotations. Also ignored in the pipeline's folders, unless 0. Default: that of "
            "--params, else 100.",
        ),
    ] = None,
    device: Annotated[str, Option(help="Device: cpu, cuda or cuda:<index>.")] = "cpu",
    max_image_pixels: MaxImagePixels = None,
    trust_config: TrustConfig = False,
    params: Annotated[
        Path | None,
        Option(
            help="params.yaml of a project: tolerance, budgets, inputs and numbers of images are read from "
            "its section `parity` (except `draw`). Options of this command take precedence."
        ),
    ] = None,
    save_dir: Annotated[
        Path | None,
        Option(
            help="Folder for parity.json and certificate.json, as in the pipeline. Finished measurements are "
            "kept there until the run ends, so that the same command continues an interrupted run."
        ),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON document instead of text.")] = False,
    allow_new: AllowNew = None,
    overrides: Overrides = None,
) -> None:
    """Compare an artifact with its model, or with another artifact; exit with 1 if it does not pass.

    \b
      detexport validate model_onnx --data coco --config-file config.yaml --weights model_final.pth
      detexport validate model_onnx --data coco --against yesterday/model_onnx
      detexport validate outputs/models/mask_rcnn/artifacts/onnx --data data/shapes

    The last artifact is in the pipeline's folders: it is compared with the reference stored there. Four
    verdicts are reported: contract (it runs, with the fields, types and shapes declared), numerics (errors of
    paired detections), matching (missing and extra detections), accuracy (task metrics against ground truth,
    compared with the model's). The inputs are images of the data set and edge cases: odd and extreme sizes,
    no detection, one and the most detections, ties, scores next to the threshold, batches.
    """  # noqa: D301
    from detexport.cli.checks import check_model_is_named, check_validate
    from detexport.workflows.model_source import ModelSource

    model = ModelSource(config_file, weights, tuple(overrides or ()), tuple(allow_new or ()))
    check_model_is_named(model)
    check_validate(
        artifact,
        data=data,
        against=against,
        model=model if config_file else None,
        target=target,
        against_target=against_target,
        device=device,
        save_dir=save_dir,
        params=params,
    )
    from detexport.cli.validate import validate

    report = validate(
        artifact,
        model if config_file else against,
        data=data,
        target=target,
        other_target=against_target,
        images=images,
        accuracy_images=accuracy_images,
        device=device,
        params=params,
        save_dir=save_dir,
        as_json=as_json,
    )
    if not report.passed:
        raise typer.Exit(VERDICT)


@app.command("diagnose", epilog=EXIT_CODES)
def diagnose_command(
    artifact: Artifact,
    config_file: Annotated[
        str,
        Option(
            help="Configuration that was exported, as for export. Default: ../../build/config.yaml from the "
            "artifact, as in the pipeline's folders."
        ),
    ] = "",
    weights: Annotated[
        str,
        Option(
            help="Weights that were exported. Default: ../../weights/model.safetensors from the artifact."
        ),
    ] = "",
    image: Annotated[str, Option(help="Image to run on. Default: a bundled image.")] = "",
    max_image_pixels: MaxImagePixels = None,
    trust_config: TrustConfig = False,
    target: Annotated[
        str, Option(help="Run the artifact as this target. Default: the format's runtime, in float32.")
    ] = "",
    save_dir: Annotated[
        Path | None, Option(help="Folder for diagnosis.json and, if a segment differs, difference.png.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON document instead of a table.")] = False,
    allow_new: AllowNew = None,
    overrides: Overrides = None,
) -> None:
    """Name the first segment of the model whose outputs differ in an artifact.

    \b
      detexport diagnose model_onnx --config-file config.yaml --weights model_final.pth --image street.jpg
      detexport diagnose outputs/models/mask_rcnn/artifacts/onnx --save-dir diagnosis

    The model is cut into segments: preprocessing, stages of the backbone, FPN levels, proposals, pooled
    features, heads, post-processing. Each segment is exported alone by the artifact's method, run in its
    runtime on the eager model's tensors, and compared with the eager model's outputs. Weights and
    configuration must be those of the artifact. The exit code is 1 if a segment or the artifact differs.
    """  # noqa: D301
    from detexport.cli.checks import check_diagnose
    from detexport.workflows.model_source import ModelSource

    model = ModelSource(config_file, weights, tuple(overrides or ()), tuple(allow_new or ()))
    check_diagnose(artifact, model, image=image, target=target, save_dir=save_dir)
    _fix_hashes()
    from detexport.cli.diagnose import diagnose

    diagnosis = diagnose(artifact, model, image=image, target=target, save_dir=save_dir, as_json=as_json)
    if diagnosis.diverges:
        raise typer.Exit(VERDICT)


@app.command("serve", epilog=EXIT_CODES)
def serve_command(
    source: Source,
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0 is every address of this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 is a free one.")] = 8000,
    target: Annotated[
        str, Option(help="Run the artifact as this target. Default: as it was registered, or in float32.")
    ] = "",
    device: Annotated[str, Option(help="Device: cpu, cuda or cuda:<index>.")] = "cpu",
    workers: Annotated[int, Option(min=1, max=64, help="Copies of the model that run side by side.")] = 1,
    threads: Annotated[
        int, Option(min=0, max=1024, help="Threads of each copy; 0: as registered, or the runtime's choice.")
    ] = 0,
    max_body_mb: Annotated[int, Option(min=1, max=2000, help="Maximum size of a request in MB.")] = 20,
    max_images: Annotated[int, Option(min=1, max=10000, help="Maximum number of images of a request.")] = 16,
    max_queue: Annotated[int, Option(min=1, max=100000, help="Maximum number of images in the queue.")] = 64,
    timeout: Annotated[
        float,
        Option(
            min=0.1, max=3600, help="Time limit in seconds for a request's header, and again for its body."
        ),
    ] = 30.0,
    shutdown_timeout: Annotated[
        int, Option(min=0, max=3600, help="Time limit in seconds for the accepted requests after SIGTERM.")
    ] = 30,
    max_image_pixels: MaxImagePixels = None,
) -> None:
    """Serve an artifact over HTTP, with a page that shows what it detects.

    \b
      detexport serve models:/mask_rcnn-onnx@champion
      detexport serve model_onnx --port 8080 --threads 4
      curl --data-binary @photo.jpg http://127.0.0.1:8000/predict

    /predict takes an image file as the body, a multipart form with the field image, or MLflow's JSON;
    /invocations is MLflow's. /health, /metrics (Prometheus), /model and the page at / need no body. SIGTERM
    and SIGINT end the server after the accepted requests; the exit code is then 0.
    """  # noqa: D301
    from detexport.cli.checks import check_serve

    check_serve(source, target=target, device=device)
    from detexport.cli.serve import report, serve
    from detexport.serving.limits import Limits
    from detexport.system.progress import step

    limits = Limits(
        body_bytes=1_000_000 * max_body_mb,
        images=max_images,
        queue=max_queue,
        body_timeout_s=timeout,
        buffered_bytes=max(500_000_000, 2_000_000 * max_body_mb),
    )
    serve(
        source,
        host=host,
        port=port,
        target=target,
        device=device,
        workers=workers,
        threads=threads,
        limits=limits,
        shutdown_s=shutdown_timeout,
        step=step,
        on_ready=report,
    )


@app.command("package", epilog=EXIT_CODES)
def package_command(
    source: Source,
    output: Annotated[Path, Option(help="Folder of the package: new, empty, or a package to replace.")],
    name: Annotated[
        str, Option(help="Name of the model. Default: the registered name, or the folder's.")
    ] = "",
    target: Annotated[
        str, Option(help="Run the artifact as this target. Default: as it was registered, or in float32.")
    ] = "",
) -> None:
    """Write a Dockerfile, a Triton model repository and a KServe manifest for an artifact.

    \b
      detexport package models:/mask_rcnn-onnx@champion --output package
      docker build -t mask-rcnn-onnx package

    The image runs `detexport serve` on the artifact, with a registered version's own requirements and code.
    Formats that Triton cannot run are packaged without its repository, and the reason is printed. The files
    name no registry: push the image yourself, and write its full name into kserve.yaml.
    """  # noqa: D301
    from detexport.cli.checks import check_package_request

    check_package_request(source, output, name=name, target=target)
    from detexport.cli.package import write_package

    write_package(source, output, name=name, target=target)


@app.command("inspect", epilog=EXIT_CODES)
def inspect_command(
    artifact: Artifact,
    as_json: Annotated[bool, Option("--json", help="Print one JSON document instead of text.")] = False,
    dump: Annotated[
        Path | None, Option(help="Folder for the code and graphs of a TorchScript artifact, as text.")
    ] = None,
) -> None:
    """Describe an artifact, and verify its files; exit with 1 if one was changed.

    \b
      detexport inspect model_onnx
      detexport inspect model_tracing --dump model_tracing_text
    """  # noqa: D301
    from detexport.cli.checks import check_inspect

    check_inspect(artifact, dump)
    from detexport.cli.inspect import inspect

    try:
        inspect(artifact, as_json=as_json, dump_to=dump)
    except ArtifactError as error:  # the verdict of this command
        fail(error)
        raise typer.Exit(VERDICT) from error


@app.command("doctor", epilog=EXIT_CODES)
def doctor_command(
    as_json: Annotated[bool, Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """List the runtimes and devices of this machine, and the commands that install missing ones.

    \b
      detexport doctor
      detexport doctor --json

    The exit code is 1 if an installed runtime cannot be imported, else 0. A runtime that is not installed
    does not change it.
    """  # noqa: D301
    from detexport.cli.doctor import doctor

    if not doctor(as_json=as_json):
        raise typer.Exit(VERDICT)


RegisteredName = Annotated[
    str, Argument(metavar="NAME", help="Registered model, such as mask_rcnn-onnx; MLflow's UI lists them.")
]


@app.command("promote", epilog=EXIT_CODES)
def promote_command(
    name: RegisteredName,
    version: Annotated[
        str | None, Option(metavar="N", help="Number of the version. Default: the newest, the challenger.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Let a registered version become the champion if it passes the promotion gate.

    \b
      detexport promote mask_rcnn-onnx
      detexport promote mask_rcnn-onnx --version 3

    The promotion gate checks the version's files and its certificate, and compares its latency and task
    metrics with the champion's. Limits and registry are those of params.yaml in the current folder, or the
    defaults if there is no such file; MLFLOW_TRACKING_URI overrides the registry. The decision is recorded in
    the registry. The exit code is 1 if the version was refused.
    """  # noqa: D301
    from detexport.cli.promote import promote

    if not promote(name, version=version, as_json=as_json):
        raise typer.Exit(VERDICT)


@app.command("rollback", epilog=EXIT_CODES)
def rollback_command(
    name: RegisteredName,
    as_json: Annotated[bool, Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Move the alias champion back to the version that had it before.

    \b
      detexport rollback mask_rcnn-onnx

    The pipeline does not promote a rolled-back version again; `detexport promote --version` does.
    """  # noqa: D301
    from detexport.cli.promote import rollback

    rollback(name, as_json=as_json)
