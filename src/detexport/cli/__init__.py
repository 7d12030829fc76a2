"""The standalone command line, for one model and one target. ``detexport --help`` says more.

What a command needs, torch among it, is imported when the command runs, after its request was checked.
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

EXIT_CODES = f"""Exit codes: 0 done and passed; 1 a verdict that failed; 2 a wrong request; 3 something broke:
an engine or a device that is not there, no memory, a full disk, a fault of this program ({TRACEBACK}=1
shows where); 130, 143, 129 ended by SIGINT, SIGTERM, SIGHUP. An error is one line on the standard error."""

COMPLETE = "_DETEXPORT_COMPLETE"
"""The environment variable in which the script of ``--show-completion`` asks for a completion."""

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="""Export a detection model, look at the artifact, run it on images, prove it.

    \b
      detexport export --config-file config.yaml --weights model.pth --target onnx --output model_onnx
      detexport inspect model_onnx
      detexport predict model_onnx photo.jpg --draw drawn
      detexport validate model_onnx --data coco --config-file config.yaml --weights model.pth
      detexport diagnose model_onnx --config-file config.yaml --weights model.pth

    `detexport COMMAND --help` explains a command. `dvc repro` in the project's repository does the same for
    many models and targets, and measures and registers what passed.""",
)

Artifact = Annotated[Path, Argument(metavar="ARTIFACT", help="Folder that an export wrote.")]
AllowNew = Annotated[
    list[str] | None,
    Option(
        metavar="PATTERN",
        help="Parameters that the weights may lack or hold in another shape, such as "
        "'roi_heads.box_predictor.*': they keep their initial values; repeatable.",
    ),
]


def _limit_pixels(pixels: int | None) -> None:
    """Set the limit where all that reads images finds it, also in processes that the command starts."""
    if pixels is not None:
        from detexport.data.images import LIMIT_VARIABLE

        os.environ[LIMIT_VARIABLE] = str(pixels)


MaxImagePixels = Annotated[
    int | None,
    Option(
        min=1,
        metavar="N",
        callback=_limit_pixels,
        expose_value=False,
        help="Most pixels of an image that is read. Default: DETEXPORT_MAX_IMAGE_PIXELS in the environment, "
        "else 50000000.",
    ),
]


def main() -> None:
    """Run the command line and exit with its code."""
    end_on_signals()
    for stream in (sys.stdout, sys.stderr):
        # File names may be no text; in JSON the escape of a lone surrogate is what it is read back from.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; whatever is raised becomes one line: see ``EXIT_CODES``.

    Args:
        arguments: the command with its options; without any it prints the help, and the code is 2.
    """
    try:
        try:
            with extra_imports():
                _invoke(arguments or ["--help"])
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
    except BrokenPipeError:  # the reader has what it wanted
        _close_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _close_output()
        return fail(_unwritable_output(error))
    return code


def _invoke(arguments: Sequence[str]) -> None:
    """Parse the arguments and run the command, without the parser's own ways to print and to exit."""
    command = typer.main.get_command(app)
    if COMPLETE in os.environ:  # the shell asks what could come next
        command.main(list(arguments), prog_name="detexport")
    with command.make_context("detexport", list(arguments)) as context:
        command.invoke(context)


def _close_output() -> None:
    """Drop what the standard output did not take, which the interpreter would try to write again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_of_the_output(error: Exception) -> bool:
    """Whether what was printed could not be written: such an error names no file."""
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
    """Say what the parser says in the form that all errors have."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "detexport"
    name, options = getattr(error, "option_name", ""), getattr(error, "possibilities", None) or ()
    meant = did_you_mean(name, options)
    return ConfigError(
        error.message if meant else error.format_message(),
        remedy=meant or f"`{command} --help` explains what there is",
    )


def _fix_hashes() -> None:
    """Start anew where hashes are random: the order of a scripted module's constants follows them."""
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
) -> None: ...


@app.command("export", epilog=EXIT_CODES)
def export_command(
    config_file: Annotated[
        str,
        Option(help="detectron2 YAML by path, or by its name in the model zoo (COCO-Detection/...yaml)."),
    ],
    target: Annotated[str, Option(help="What to make; an unknown name lists them all.")],
    output: Annotated[Path, Option(help="Folder of the artifact; an artifact that is there is replaced.")],
    weights: Annotated[
        str,
        Option(
            help="Checkpoint by path, https:// or detectron2://, .pth, .pkl or .safetensors. Every parameter "
            "must be accounted for. Default: MODEL.WEIGHTS; of a zoo's name what was trained with it."
        ),
    ] = "",
    sample: Annotated[
        list[str] | None,
        Option(
            help="Image, folder or 'pattern' to record with and to prove on; repeatable. "
            "Default: a picture that comes along."
        ),
    ] = None,
    calibration: Annotated[
        list[str] | None,
        Option(
            help="Images, likewise, that int8 takes its ranges from. Default: those of --data's training "
            "split, else the samples."
        ),
    ] = None,
    opt: Annotated[
        list[str] | None,
        Option(metavar="NAME=VALUE", help="Option of the method, such as opset_version=18; repeatable."),
    ] = None,
    class_names: Annotated[
        str,
        Option(
            metavar="A,B,...",
            help="Names of the classes. Default: those of --data, else of DATASETS.TEST, else numbers.",
        ),
    ] = "",
    data: Annotated[
        Path | None,
        Option(help="Data set: images/val and annotations/instances_val.json, as COCO has them."),
    ] = None,
    run_eval: Annotated[
        bool, Option("--run-eval", help="Average precision of the model and of the artifact on --data.")
    ] = False,
    device: Annotated[
        str, Option(help="Where the artifact is compiled for, if it is, and proved: cpu or cuda.")
    ] = "cpu",
    check: Annotated[
        bool,
        Option(
            "--check/--no-check",
            "--proof/--no-proof",
            help="Compare the artifact with the model; one that fails is not kept (formerly --proof).",
        ),
    ] = True,
    max_image_pixels: MaxImagePixels = None,
    allow_new: AllowNew = None,
    overrides: Annotated[
        list[str] | None,
        Argument(
            metavar="[KEY VALUE]...",
            help="Keys over the configuration's, such as MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.3. "
            "Write -- before them where a value begins with -.",
        ),
    ] = None,
) -> None:
    """Export a model, and prove that the artifact computes what the model computes.

    \b
      detexport export --config-file COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml \\
        --weights model_final.pkl --target onnx --output mask_rcnn_onnx --sample street.jpg \\
        --opt opset_version=18 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.3

    The artifact runs on the samples at several sizes beside the model, on a flat picture too, and every
    box, score and mask is held against a table of limits. One that does not pass is not left in the output
    folder, and the exit code is 1. A target of less precision than float32 is proved by its average
    precision, on --data.
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
    artifact: Artifact,
    images: Annotated[list[str], Argument(help="Files, folders, or 'patterns' in quotes.")],
    as_json: Annotated[bool, Option("--json", help="One JSON document instead of a table.")] = False,
    draw: Annotated[
        Path | None, Option(help="Folder for a picture of each image with what is found.")
    ] = None,
    device: Annotated[str, Option(help="Where to run: cpu, cuda or cuda:<index>.")] = "cpu",
    target: Annotated[
        str, Option(help="Run it as this target does. Default: the format's runtime, in float32.")
    ] = "",
    score_threshold: Annotated[
        float, Option(min=0.0, max=1.0, help="Instances are given whose score is greater.")
    ] = 0.5,
    max_image_pixels: MaxImagePixels = None,
) -> None:
    """Run an artifact on images, in its own runtime alone.

    \b
      detexport predict model_onnx photo.jpg
      detexport predict model_onnx 'photos/*.jpg' --json --score-threshold 0.3 > found.json
      detexport predict model_onnx photos --draw drawn

    Images have any size: they are resized by the artifact's rule, and boxes (x0, y0, x1, y1), masks and
    keypoints are in px of the image as it is. In JSON masks are COCO's compressed RLE.
    """  # noqa: D301
    from detexport.cli.checks import check_predict

    check_predict(artifact, images, draw_to=draw, device=device, target=target)
    from detexport.cli.predict import predict

    predict(
        artifact,
        images,
        as_json=as_json,
        draw_to=draw,
        device=device,
        target=target,
        score_threshold=score_threshold,
    )


@app.command("validate", epilog=EXIT_CODES)
def validate_command(
    artifact: Artifact,
    data: Annotated[
        Path | None,
        Option(help="Data set: images/val and annotations/instances_val.json, as COCO has them."),
    ] = None,
    against: Annotated[
        Path | None, Option(metavar="ARTIFACT2", help="Hold it against this artifact instead of a model.")
    ] = None,
    config_file: Annotated[
        str, Option(help="Hold it against this model: configuration, as for export.")
    ] = "",
    weights: Annotated[str, Option(help="The model's weights, as for export.")] = "",
    target: Annotated[
        str, Option(help="Run it as this target does. Default: the format's runtime, in float32.")
    ] = "",
    against_target: Annotated[str, Option(help="Likewise for ARTIFACT2.")] = "",
    images: Annotated[
        int | None,
        Option(
            min=1,
            help="Images of the data set, each at three sizes; the pipeline's reference has its own. "
            "Default: that of --params, else 8.",
        ),
    ] = None,
    accuracy_images: Annotated[
        int | None,
        Option(
            "--accuracy-images",
            "--quality-images",
            min=0,
            help="Annotated images that the task metric is measured on, likewise; 0 leaves it out, for data "
            "that lacks the annotations. Default: that of --params, else 100.",
        ),
    ] = None,
    device: Annotated[str, Option(help="Where to run: cpu, cuda or cuda:<index>.")] = "cpu",
    max_image_pixels: MaxImagePixels = None,
    params: Annotated[
        Path | None,
        Option(
            help="A project's params.yaml: limits, budgets, inputs and numbers of images are those of its "
            "section `parity`, but `draw`, and what an option of this command gives."
        ),
    ] = None,
    save_dir: Annotated[
        Path | None,
        Option(
            help="Folder for parity.json and certificate.json, as the pipeline has them. What is computed is "
            "kept there until the end, so the same command goes on after an interruption; without it "
            "nothing is kept."
        ),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON document instead of text.")] = False,
    allow_new: AllowNew = None,
    overrides: Annotated[
        list[str] | None,
        Argument(metavar="[KEY VALUE]...", help="Keys over the configuration's, as they were exported."),
    ] = None,
) -> None:
    """Say whether an artifact computes what its model, or another artifact, computes; if not, exit with 1.

    \b
      detexport validate model_onnx --data coco --config-file config.yaml --weights model_final.pth
      detexport validate model_onnx --data coco --against yesterday/model_onnx
      detexport validate outputs/models/mask_rcnn/artifacts/onnx --data data/shapes

    The last is an artifact where the pipeline leaves it, held against the reference beside it. Four verdicts
    are reported: contract (it runs, with the fields, types and shapes declared), numerics (errors of paired
    detections), matching (missing and extra detections), accuracy (AP against ground truth, compared with the
    model's). It runs on images of the data set and on edge-case inputs: odd and extreme sizes, no detection,
    one and the most detections, ties, scores next to the threshold, batches.
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
            "artifact, where the pipeline leaves it."
        ),
    ] = "",
    weights: Annotated[
        str,
        Option(help="Weights that were exported. Default: likewise ../../weights/model.safetensors."),
    ] = "",
    image: Annotated[str, Option(help="Image to run on. Default: a picture that comes along.")] = "",
    max_image_pixels: MaxImagePixels = None,
    target: Annotated[
        str, Option(help="Diagnose it as this target runs it. Default: the format's runtime, in float32.")
    ] = "",
    save_dir: Annotated[
        Path | None, Option(help="Folder for diagnosis.json and, where something differs, difference.png.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="One JSON document instead of a table.")] = False,
    allow_new: AllowNew = None,
    overrides: Annotated[
        list[str] | None,
        Argument(metavar="[KEY VALUE]...", help="Keys over the configuration's, as they were exported."),
    ] = None,
) -> None:
    """Name the first part of the model in which an artifact computes something else.

    \b
      detexport diagnose model_onnx --config-file config.yaml --weights model_final.pth --image street.jpg
      detexport diagnose outputs/models/mask_rcnn/artifacts/onnx --save-dir diagnosis

    The model is cut between the image, the backbone's stages, the pyramid's levels, the proposals, the pooled
    features, the heads and the post-processing. Each segment is exported alone by the artifact's method, run
    in its runtime on the eager model's own tensors, and held against what the model gives. Weights and
    configuration must be those of the artifact.
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


@app.command("inspect", epilog=EXIT_CODES)
def inspect_command(
    artifact: Artifact,
    as_json: Annotated[bool, Option("--json", help="One JSON document instead of text.")] = False,
    dump: Annotated[
        Path | None, Option(help="Folder for the code and the graphs of a TorchScript artifact, as text.")
    ] = None,
) -> None:
    """Say what an artifact is, and whether its files are those that were exported; if not, exit with 1.

    \b
      detexport inspect model_onnx
      detexport inspect model_tracing --dump model_tracing_text
    """  # noqa: D301
    from detexport.cli.checks import check_inspect

    check_inspect(artifact, dump)
    from detexport.cli.inspect import inspect

    try:
        inspect(artifact, as_json=as_json, dump_to=dump)
    except ArtifactError as error:  # here it is the verdict that was asked for
        fail(error)
        raise typer.Exit(VERDICT) from error


@app.command("doctor", epilog=EXIT_CODES)
def doctor_command(
    as_json: Annotated[bool, Option("--json", help="One JSON document instead of text.")] = False,
) -> None:
    """List the runtimes and devices found, and the command that installs what is missing.

    \b
      detexport doctor
      detexport doctor --json

    The exit code is 0 if every runtime that is installed can be imported, and 1 if one is broken. What is not
    installed is no fault.
    """  # noqa: D301
    from detexport.cli.doctor import doctor

    if not doctor(as_json=as_json):
        raise typer.Exit(VERDICT)
