"""``DetectionCheckpointer``: saving and loading of a model with its training state."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from detexport.checkpoint.download import fetch
from detexport.checkpoint.load import LoadReport, load_weights
from detexport.checkpoint.read import read_checkpoint
from detexport.errors import CheckpointError
from detexport.system.atomic import atomic_file
from detexport.system.files import is_url
from detexport.system.redaction import public_uri

LAST = "last_checkpoint"
"""Name of the file that names the last saved checkpoint."""

logger = logging.getLogger(__name__)


class DetectionCheckpointer:
    """Checkpoints of a model and other objects with a state, such as the optimizer.

    A file holds ``{"model": ..., <checkpointable>: ..., <extra>: ...}`` written by ``torch.save``.

    Args:
        model: the model; a data parallel wrapper is removed.
        save_dir: folder of the checkpoints.
        save_to_disk: whether ``save`` writes; None: only in the main process.
        checkpointables: objects with ``state_dict`` and ``load_state_dict``, such as an optimizer, by name.

    ``report`` is the ``LoadReport`` of the last ``load``, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | os.PathLike[str] = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        self.model: nn.Module = (
            model.module if isinstance(model, DataParallel | DistributedDataParallel) else model
        )
        self.save_dir = os.fspath(save_dir)
        self.save_to_disk = _is_main_process() if save_to_disk is None else save_to_disk
        self.checkpointables: dict[str, Any] = {}
        self.report: LoadReport | None = None
        for name, checkpointable in checkpointables.items():
            self.add_checkpointable(name, checkpointable)

    def add_checkpointable(self, key: str, checkpointable: Any) -> None:
        """Register an object to save and load under ``key``.

        Raises:
            CheckpointError: the key is in use, or the object has no state.
        """
        lacking = [verb for verb in ("state_dict", "load_state_dict") if not hasattr(checkpointable, verb)]
        if lacking or key == "model" or key in self.checkpointables:
            raise CheckpointError(
                f"cannot save {key} with the model",
                got=f"{type(checkpointable).__name__} without {lacking[0]}" if lacking else "a name in use",
                expected="a unique name and an object with state_dict and load_state_dict",
                remedy="pass plain values to save()",
            )
        self.checkpointables[key] = checkpointable

    def load(
        self,
        path: str | os.PathLike[str] | None,
        checkpointables: Sequence[str] | None = None,
        *,
        strict: bool = False,
        new_parameters: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Load the model, and the checkpointables that the file contains.

        Tensors that do not match are left out and logged together; ``self.report`` lists them, too.

        Args:
            path: a file for ``read_checkpoint``, or a URL for ``fetch``; empty or None leaves the model
                unchanged.
            checkpointables: names of those to load; None: all.
            strict: raise CheckpointError unless the file matches the model completely.
            new_parameters: patterns of names that need not match; see ``match_weights``.

        Returns:
            entries of the file other than the model and the loaded checkpointables, such as ``iteration``.

        Raises:
            CheckpointError: the file cannot be downloaded or read, no tensor matches the model, or not all
                match and ``strict`` is set.
        """
        self.report = None
        if not path:
            logger.info("no checkpoint is given: the model keeps its initial weights")
            return {}
        wanted = self._named(checkpointables)
        source = os.fspath(path)
        checkpoint = read_checkpoint(fetch(source) if is_url(source) else Path(source))
        source = public_uri(source) if is_url(source) else source  # without secrets, since it is logged
        self.report = load_weights(
            self.model, checkpoint.model, source, strict=strict, new_parameters=new_parameters
        )
        if problems := self.report.describe():
            logger.warning("%s: %d tensors are loaded; %s", source, len(self.report.loaded), problems)
        else:
            logger.info("%s: all %d tensors are loaded", source, len(self.report.loaded))
        for name, checkpointable in wanted.items():
            if name in checkpoint.extra:
                checkpointable.load_state_dict(checkpoint.extra.pop(name))
            else:
                logger.warning("%s holds no %s: it keeps its state", source, name)
        return checkpoint.extra

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` atomically and tag it as the last checkpoint.

        Args:
            name: of the file, without folder and suffix.
            kwargs: other plain values to save, such as ``iteration=100``.

        Raises:
            CheckpointError: a value is not plain, so that the file could not be read safely; or a name is
                in use.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        taken = kwargs.keys() & {"model", *self.checkpointables}
        if taken or Path(name).name != name:
            raise CheckpointError(
                "cannot save a checkpoint under this name",
                got=f"the extra value {sorted(taken)[0]}" if taken else repr(name),
                expected="names that are not in use" if taken else "a file name without folder and suffix",
            )
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        with atomic_file(path) as temporary:
            torch.save({"model": self.model.state_dict(), **states, **kwargs}, temporary)
            _check_readable(temporary, path)
        self.tag_last_checkpoint(path.name)

    def resume_or_load(self, path: str | os.PathLike[str] | None, *, resume: bool = True) -> dict[str, Any]:
        """Resume from the last checkpoint of ``save_dir``, including all checkpointables, if there is one.

        Otherwise load only the model from ``path``: the optimizer state of another training does not apply.
        Arguments, result and errors are those of ``load``.
        """
        if resume and self.has_checkpoint():
            return self.load(self.get_checkpoint_file())
        return self.load(path, checkpointables=[])

    def has_checkpoint(self) -> bool:
        """Return whether a checkpoint in ``save_dir`` is tagged as the last."""
        return (Path(self.save_dir) / LAST).is_file()

    def get_checkpoint_file(self) -> str:
        """Return the path of the last saved checkpoint; empty if there is none."""
        if not self.has_checkpoint():
            return ""
        last = (Path(self.save_dir) / LAST).read_text(encoding="utf-8").strip()
        return os.path.join(self.save_dir, last)

    def get_all_checkpoint_files(self) -> list[str]:
        """Return the sorted paths of all checkpoints in ``save_dir``, without files of interrupted saves."""
        return [
            os.path.join(self.save_dir, path.name)
            for path in sorted(Path(self.save_dir).glob("*.pth"))
            if path.is_file() and not path.name.startswith(".")
        ]

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Tag the file of this name as the last checkpoint, from which ``resume_or_load`` resumes."""
        with atomic_file(Path(self.save_dir) / LAST) as temporary:
            temporary.write_text(last_filename_basename, encoding="utf-8")

    def _named(self, names: Sequence[str] | None) -> Mapping[str, Any]:
        if names is None:
            return self.checkpointables
        unknown = [name for name in names if name not in self.checkpointables]
        if unknown:
            raise CheckpointError(
                "no checkpointable has this name",
                got=", ".join(unknown),
                expected=", ".join(self.checkpointables) or "no name",
                remedy="pass it to the constructor of the checkpointer",
            )
        return {name: self.checkpointables[name] for name in names}


class PeriodicCheckpointer:
    """Checkpoints at each ``period`` iterations and after the last one.

    Args:
        checkpointer: saves the checkpoints.
        period: number of iterations between two checkpoints.
        max_iter: number of iterations; after the last one ``<file_prefix>_final`` is saved.
        max_to_keep: number of periodic checkpoints to keep; None: all.
        file_prefix: prefix of the file names.
    """

    def __init__(
        self,
        checkpointer: DetectionCheckpointer,
        period: int,
        max_iter: int | None = None,
        max_to_keep: int | None = None,
        file_prefix: str = "model",
    ) -> None:
        if max_to_keep is not None and max_to_keep < 1:
            raise CheckpointError(
                "no checkpoint would be kept", got=f"max_to_keep={max_to_keep}", expected="at least 1"
            )
        self.checkpointer = checkpointer
        self.period = int(period)
        self.max_iter = max_iter
        self.max_to_keep = max_to_keep
        self.file_prefix = file_prefix
        self.recent: list[str] = []

    def step(self, iteration: int, **kwargs: Any) -> None:
        """Save a checkpoint with ``kwargs`` if ``iteration``, from 0 on, ends a period or the training."""
        kwargs = {"iteration": int(iteration), **kwargs}
        if (iteration + 1) % self.period == 0:
            name = f"{self.file_prefix}_{iteration:07d}"
            self.checkpointer.save(name, **kwargs)
            self._forget_oldest(name)
        if self.max_iter is not None and iteration >= self.max_iter - 1:
            self.checkpointer.save(f"{self.file_prefix}_final", **kwargs)

    def save(self, name: str, **kwargs: Any) -> None:
        """Save a checkpoint now."""
        self.checkpointer.save(name, **kwargs)

    def _forget_oldest(self, name: str) -> None:
        if self.max_to_keep is None:
            return
        self.recent.append(name)
        while len(self.recent) > self.max_to_keep:
            oldest = Path(self.checkpointer.save_dir) / f"{self.recent.pop(0)}.pth"
            if self.checkpointer.save_to_disk:
                oldest.unlink(missing_ok=True)


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank())


def _check_readable(written: Path, path: Path) -> None:
    """Raise CheckpointError if the file cannot be read back safely; its tensors are not copied."""
    try:
        torch.load(written, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # any error means that the file cannot be loaded
        raise CheckpointError(
            f"cannot save {path}: loading it would require executing code",
            got=str(error).partition("\n")[0],
            expected="tensors, numbers, strings and plain containers in every state",
            remedy="pass plain values to save(), and let state_dict() return them",
        ) from error
