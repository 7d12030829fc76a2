"""PT2 archives, the files of exported programs: written reproducibly, read without running their code.

``torch.export.load`` unpickles members that an archive declares as pickles, loads its native code, looks
operators up by any dotted name, and passes its expressions to ``eval``. Here an archive is read only if it
holds nothing but tensors and a graph of the operators of PyTorch and torchvision.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
import torch.fx.experimental._config as symbolic_shapes
import torchvision  # noqa: F401 - its operators are looked up by name when a program is loaded
from torch.export import ExportedProgram

from detexport.errors import ArtifactError
from detexport.formats.zip_archive import ARCHIVE_ROOT, repack_zip
from detexport.system.log_levels import only_errors

# A checksum of the other members.
LEFT_OUT = (".data/serialization_id",)
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/version|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
)
NAME = re.compile(r"[\w.]*")
_WORDS = (
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|PowByNatural|Max|Min|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod"
    "|ModularIndexing|IntTrueDiv|FloatTrueDiv|ToFloat|CeilToInt|FloorToInt|TruncToInt|Where|Identity"
    "|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|Equality|Unequality|And|Or|Not"
    "|BooleanTrue|BooleanFalse|True|False|true|false|positive|nonnegative|integer"
)
RULES = {
    "target": re.compile(
        # Excluded: aten's two operators that access files.
        r"torch\.ops\.aten\.(?!save\b|from_file\b)\w+\.\w+|torch\.ops\.torchvision\.\w+\.\w+"
        r"|torch\.ops\.higher_order\.while_loop"
        r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
        r"|torch\._?sym_\w+|math\.\w+"
    ),
    "expr_str": re.compile(rf"(?:[\s(),=-]|'[a-z]+\d+'|\b\d+(?:\.\d+)?\b|\b(?:{_WORDS})\b)*"),
    # A mode of an operator, or the message of a failed size check.
    "as_string": re.compile(
        r"\w*|Runtime assertion failed for expression [\w\s()<>=!&|+*/,.-]* on node '\w+'"
    ),
    "torch_version": re.compile(r"[\w.+]*"),
    "type": re.compile(r"builtins\.(tuple|list|dict)|[a-z]*"),
    "context": re.compile(r"null|\[\]"),
}
"""The allowed text by its key; text under any other key must be a plain name."""
EMPTY = ("metadata", "guards_code", "treespec_namedtuple_fields")
"""Keys whose values torch would import or compile: they must be empty."""


def save_program(program: ExportedProgram, path: Path) -> None:
    """Save a program so that the same program yields the same bytes.

    Args:
        program: without metadata on its nodes.
        path: the file to write.

    Raises:
        ArtifactError: the program holds more than ``load_program`` accepts.
    """
    # Into memory first: torch's own writer aborts the process if the disk is full.
    saved, plain = io.BytesIO(), io.BytesIO()
    torch.export.save(program, saved)
    repack_zip(saved, plain, LEFT_OUT)
    require_plain(plain, path)
    path.write_bytes(plain.getbuffer())


def load_program(path: Path) -> ExportedProgram:
    """Load a program from an untrusted file.

    Raises:
        ArtifactError: the file holds more than tensors and a graph, or this torch cannot read it.
    """
    plain = read_plain(path)
    try:
        # It warns of sizes that occur only within a loop.
        with only_errors("torch._export.serde.serialize"):
            return torch.export.load(plain)
    except Exception as error:  # the reader's errors have no common base class
        raise ArtifactError(
            f"{path} cannot be loaded by torch {torch.__version__}",
            got=(str(error).strip().splitlines() or [type(error).__name__])[-1],
            expected="a program written by this version of torch",
            remedy="export the model again with the installed torch",
        ) from error


def read_plain(path: Path) -> IO[bytes]:
    """Read an archive that holds nothing but tensors and a graph of PyTorch's operators.

    One file can be two archives: torch may find another directory of members than ``zipfile``. And the file
    can change before it is opened again. So it is read once, and the checked members are repacked.

    Returns:
        An archive of the checked members alone.

    Raises:
        ArtifactError: it holds more, or is not an archive.
    """
    read, plain = io.BytesIO(path.read_bytes()), io.BytesIO()
    require_plain(read, path)
    repack_zip(read, plain)
    plain.seek(0)
    return plain


def require_plain(file: IO[bytes], path: Path) -> None:
    """Check that an archive holds nothing but tensors and a graph of PyTorch's operators.

    Args:
        file: the archive.
        path: its path in error messages.

    Raises:
        ArtifactError: it holds more, or is not an archive.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _require_members(archive, path)
            for name in archive.namelist():
                data = archive.read(name)
                if name.endswith(".json"):
                    _require_text(json.loads(data), "", f"{path}: {name}")
                elif name.endswith(SAMPLE_INPUTS):
                    # torch.export.load would fall back to weights_only=False.
                    torch.load(io.BytesIO(data), weights_only=True)
    except ArtifactError:
        raise
    except Exception as error:  # a broken archive, text that is not JSON, a pickle of more than tensors
        raise _refusal(path, f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}") from error


def _require_members(archive: zipfile.ZipFile, path: Path) -> None:
    root = f"{ARCHIVE_ROOT}/"
    names = archive.namelist()
    for member in archive.infolist():
        name = member.filename
        known = name.startswith(root) and MEMBERS.fullmatch(name.removeprefix(root))
        if not known or member.compress_type != zipfile.ZIP_STORED or names.count(name) > 1:
            raise _refusal(path, f"the member {name!r}")


def _require_text(value: Any, key: str, place: str) -> None:
    """Check every text in ``value``, the value of ``key``, against the rule of its key."""
    if (key == "use_pickle" and value is not False) or (key in EMPTY and value):
        raise _refusal(place, f"{key}: {str(value)[:100]}")
    if isinstance(value, dict):
        for name, item in value.items():
            _require_text(name, "", place)
            _require_text(item, name, place)
    elif isinstance(value, list):
        for item in value:
            _require_text(item, key, place)
    elif isinstance(value, str):
        if key in ("in_spec", "out_spec"):
            _require_text(json.loads(value), "", place)
        elif not RULES.get(key, NAME).fullmatch(value):
            raise _refusal(place, f"{key or 'a name'}: {value[:100]!r}")


def _refusal(place: Path | str, got: str) -> ArtifactError:
    return ArtifactError(
        f"{place} is not a plain exported program",
        got=got,
        expected="tensors, and a graph of the operators of torch and torchvision",
        remedy="export the model again; do not load this file: it could run any code",
    )


@contextmanager
def dynamic_nms_count() -> Iterator[None]:
    """Make ``torch.export`` expect any number of boxes after NMS, 0 and 1 included.

    torchvision's own shape rule guarantees at least two, and the exported program would fail on fewer.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")

    def kept(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
        count = torch.library.get_ctx().new_dynamic_size(min=0)
        return dets.new_empty((count,), dtype=torch.int64)

    torch.library.register_fake("torchvision::nms", kept, lib=library, allow_override=True)
    yield


def dynamic_size_one() -> Any:
    """Return a context in which a size of 1 is dynamic too: without it, a feature map of one cell fails."""
    return symbolic_shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
