"""ExportedProgram -> AOTInductor package: native code that runs without Python."""

import io
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch._inductor
from torch._inductor.codecache import cache_dir
from torch._inductor.package import package_aoti
from torch.export.passes import move_to_device_pass

from detexport.artifact import Artifact, Format
from detexport.contract import IMAGE, Contract, TensorSpec
from detexport.convert.conversion import Conversion, Samples
from detexport.errors import ExportError, RuntimeUnavailableError
from detexport.formats.pt2 import dynamic_nms_count, dynamic_size_one, load_program
from detexport.formats.zip_archive import repack_zip
from detexport.processing.preprocess import graph_inputs
from detexport.system.log_levels import only_errors

MAIN_FILE = "model.pt2"
LEFT_OUT = (".cpp", "kernel_metadata.json", ".data/serialization_id")
"""Members that no runtime reads: the source code, and a random number."""
DIGEST = re.compile(r"[^/.]+(?=\.wrapper)")
"""The digest in a member's name; it depends on paths of this machine."""
CHECK_LAYOUTS = "AOTI_RUNTIME_CHECK_INPUTS"
INSTRUCTION_SETS = {"x86-64": 1, "x86-64-v3": 256}
"""Instruction sets, by the names of the System V ABI, with the width in bits of their vectors."""
MAX_ERROR = 1e-3
"""Error relative to an output's largest value: above another summation order's, below a wrong stride's."""
MAX_DIFFERING = 0.05
"""Fraction of an output's values that may differ: detections of equal score swap places."""
CHECKED_SAMPLES = 4


@dataclass(frozen=True)
class AotInductor(Conversion):
    """Compilation by AOTInductor; height, width and the number of detections stay dynamic.

    Args:
        device: the kind of device to compile for, ``"cpu"`` or ``"cuda"``; the code runs on no other.
        instruction_set: one of ``INSTRUCTION_SETS``; loading on a CPU without it raises an error.
    """

    device: Literal["cpu", "cuda"]
    instruction_set: Literal["x86-64", "x86-64-v3"]

    name = "aot_inductor"
    source_format = Format.EXPORTED_PROGRAM
    format = Format.AOT_INDUCTOR
    main_file = MAIN_FILE
    packages = ("torch", "torchvision")

    def prepare(self, source: Artifact, model_file: Path, samples: Samples) -> Callable[[Path], None]:
        """Read the program and the images to compare with; see ``Conversion.prepare``."""
        program = load_program(model_file)
        reference = program.module()
        images = [*islice(iter(samples), CHECKED_SAMPLES), *plain_images(source.contract)]

        def write(folder: Path) -> None:
            package = folder / MAIN_FILE
            self._compile(program, package)
            inputs = (tuple(graph_inputs(source.contract, image).values()) for image in images)
            require_equal(reference, package, inputs, self.device)

        return write

    def check(self) -> None:
        """Check that this machine can compile for the device and the instruction set.

        Raises:
            RuntimeUnavailableError: this machine lacks the compiler or the device.
            ExportError: the device or the instruction set is not supported.
        """
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise RuntimeUnavailableError(
                "AOTInductor needs a C++ compiler",
                got=f"no program '{compiler}'",
                expected="g++ on the PATH, or the compiler that CXX names",
                remedy="install one (Debian: apt-get install g++)",
            )
        if self.instruction_set not in INSTRUCTION_SETS or platform.machine() != "x86_64":
            raise ExportError(
                "AOTInductor cannot compile for this instruction set",
                got=f"instruction_set '{self.instruction_set}' on {platform.machine()}",
                expected=f"one of {', '.join(INSTRUCTION_SETS)}, on x86_64",
                remedy="choose one of these, or convert on an x86_64 machine",
            )
        if self.device not in ("cpu", "cuda"):
            raise ExportError(
                f"AOTInductor cannot compile for '{self.device}'",
                expected="'cpu' or 'cuda'",
                remedy="choose one",
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeUnavailableError(
                "AOTInductor cannot compile for 'cuda'",
                got="no CUDA device on this machine",
                expected="a CUDA device and its driver",
                remedy="choose 'cpu', or convert on a machine with the device",
            )

    def _compile(self, program: torch.export.ExportedProgram, package: Path) -> None:
        if self.device != "cpu":
            program = move_to_device_pass(program, self.device)
        args, kwargs = program.example_inputs
        files: Any  # a list, as it is packaged
        with dynamic_nms_count(), dynamic_size_one(), quiet():
            try:
                files = torch._inductor.aot_compile(program.module(), args, kwargs, options=self._settings())
            except Exception as error:  # Inductor's errors have no common base class
                raise ExportError(
                    "AOTInductor cannot compile the program",
                    got=f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}",
                    expected="a program of operators that it supports, and a C++ compiler for its code",
                    remedy="ship this model as the ExportedProgram, or by another target",
                ) from error
        # Into memory first: torch's own writer aborts the process if the disk is full.
        saved = io.BytesIO()
        package_aoti(saved, files)
        repack_zip(saved, package, LEFT_OUT, lambda name: DIGEST.sub("model", name))
        shutil.rmtree(Path(files[0]).parent)  # Inductor never removes it from its cache

    def _settings(self) -> dict[str, Any]:
        # Inductor passes this to the compiler unchanged. It has no other option to keep paths and symbols out
        # of the code.
        flags = [
            self.instruction_set,
            *(f"ffile-prefix-map={path}=." for path in (cache_dir(), Path(torch.__file__).parent)),
            "s",
        ]
        return {
            # With it, convolutions whose batch is the number of detections return channels-last tensors, but
            # the compiled code expects contiguous ones.
            "layout_optimization": False,
            "aot_inductor.package": True,
            "fallback_by_default": True,
            "post_grad_custom_post_pass": choose_compiled,
            "cpp.march": " -".join(flags),
            "cpp.simdlen": INSTRUCTION_SETS[self.instruction_set],
            "cpp.vec_isa_ok": True,
            # The number of threads of the machine that runs the code, not of this one.
            "cpp.dynamic_threads": True,
            # Off: the check of layouts would reject a feature map of one cell, which the code supports. The
            # smallest of the plain images test that.
            "aot_inductor.check_lowerbound": False,
            # Only calls between kernels: there is nothing to optimize, and O1 would double the compile time.
            "aot_inductor.compile_wrapper_opt_level": "O0",
            "aot_inductor.precompile_headers": False,  # 300 MB, and slower than compiling one model without
            "aot_inductor.enable_line_tables": False,
        }


def choose_compiled(graph: torch.fx.Graph) -> None:
    """Mark the operators to compile: arithmetic on feature maps. The rest runs as PyTorch's operators.

    Operators on lists of boxes would take most of the compile time and hardly any of the run time.
    """
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and _is_compiled(node):
            node.meta["custom"] = {**(node.meta.get("custom") or {}), "compile_with_inductor": True}


def _is_compiled(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else (value,)
    return (
        node.target.is_view  # type: ignore[union-attr]
        # Operators defined in Python are not available where the package runs without it.
        or node.target.namespace not in ("aten", "torchvision")  # type: ignore[union-attr]
        or any(isinstance(one, torch.Tensor) and one.ndim >= 4 for one in values)
        # A package cannot store a non-finite number as an operator's argument.
        or any(isinstance(arg, float) and not math.isfinite(arg) for arg in node.args)
    )


def plain_images(contract: Contract) -> list[np.ndarray]:
    """Return a blank image and noise images, also of small and odd sizes if the sizes are dynamic.

    Empty for a graph whose input is not an image.
    """
    spec = contract.inputs[0]
    if spec.name != IMAGE.name:
        return []
    random = np.random.default_rng(0)
    noise = [
        random.integers(0, 256, _sized(spec, size), dtype=np.uint8)
        for size in ((1, 1), (16, 40), (64, 96), (131, 77), (320, 256))
    ]
    return [np.zeros(_sized(spec, (160, 160)), np.uint8), *noise]


def _sized(spec: TensorSpec, size: tuple[int, int]) -> list[int]:
    sides = iter(size)
    return [dim if isinstance(dim, int) else next(sides) for dim in spec.shape]


def require_equal(program: Any, package: Path, inputs: Iterable[tuple[np.ndarray, ...]], device: str) -> None:
    """Check that a package computes the same as the program that it was compiled from.

    Compiled code assumes a fixed layout of every tensor; with another layout it silently returns wrong
    numbers. So layouts are checked while it runs, and every output afterwards.

    Raises:
        ExportError: a layout or an output differs.
    """
    with checked_layouts(), quiet():
        compiled = torch._inductor.aoti_load_package(str(package))
        for arrays in inputs:
            tensors = [torch.from_numpy(np.require(array, requirements=("C", "W"))) for array in arrays]
            with torch.inference_mode():
                expected = program(*tensors)
                try:
                    actual = compiled(*(tensor.to(device) for tensor in tensors))
                except RuntimeError as error:
                    raise _differs(arrays[0], str(error).strip().splitlines()[0]) from error
            for index, (want, got) in enumerate(zip(expected, actual, strict=True)):
                fault = _fault(want, got.cpu())
                if fault:
                    raise _differs(arrays[0], f"output {index}: {fault}")


def _fault(want: torch.Tensor, got: torch.Tensor) -> str:
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{got.dtype} {tuple(got.shape)}, but {want.dtype} {tuple(want.shape)} from the program"
    want, got = want.double(), got.double()
    limit = MAX_ERROR * want.abs().flatten().amax().clamp(min=1) if want.numel() else 0
    differing = int((~((want - got).abs() <= limit)).sum())
    return "" if differing <= MAX_DIFFERING * want.numel() else f"{differing} of {want.numel()} values differ"


def _differs(image: np.ndarray, got: str) -> ExportError:
    return ExportError(
        "the compiled package does not compute what the program computes",
        got=f"on an image of {' x '.join(map(str, image.shape))}, {got}",
        expected="the program's outputs",
        remedy="ship this model as the ExportedProgram, or by another target",
    )


@contextmanager
def checked_layouts() -> Iterator[None]:
    """Make packages that are loaded in this block check sizes and strides of every tensor."""
    previous = os.environ.get(CHECK_LAYOUTS)
    os.environ[CHECK_LAYOUTS] = "1"
    try:
        yield
    finally:
        if previous is None:
            del os.environ[CHECK_LAYOUTS]
        else:
            os.environ[CHECK_LAYOUTS] = previous


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress two warnings: operators left to PyTorch (which is intended), and a newer instruction set."""
    with only_errors("torch._inductor.ir", "torch.export.pt2_archive._package"):
        yield
