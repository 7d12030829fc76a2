"""Tiny trainings in processes of their own, which a test can kill."""

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from detexport.engine.training_settings import TrainingSettings
from synthetic_shapes import synthetic_shapes

CONFIGS = Path(__file__).parents[1] / "conf/detectron2"
TINY: dict[str, Any] = {
    "iterations": 9,
    "batch_size": 2,
    "learning_rate": 0.002,
    "warmup_iterations": 2,
    "weight_decay": 0.05,
    "gradient_norm": 5.0,
    "average_decay": 0.9,
    "flip": True,
    "seed": 0,
    "threads": 1,
    "checkpoint_period": 2,
    "log_period": 1,
}
CONTEXT = multiprocessing.get_context("forkserver")
# Imported once; each process is forked from this server, which has run nothing.
CONTEXT.set_forkserver_preload(["detexport.workflows.train"])


def write_shapes(folder: Path, train_images: int = 5) -> Path:
    """Write a data set whose passes do not end with a batch or a checkpoint."""
    synthetic_shapes(
        train_images=train_images, val_images=2, sizes=((64, 64),), object_px=(20, 40), max_objects=2
    ).write(folder)
    return folder


def start(target: Any, *arguments: Any) -> Any:
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def train_tiny(
    folder: Path, data: Path, architecture: str, changes: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Train in a folder, which keeps the state, the weights, the metrics, the MLflow store and the output."""
    from detexport.registry.settings import RegistrySettings
    from detexport.workflows.train import Start, Tracking, train_model

    os.environ.pop("MLFLOW_TRACKING_URI", None)
    config = CONFIGS / f"{architecture}.yaml"
    if changes:
        lines = [f"_BASE_: {config}", *(f"{key}: {value}" for key, value in changes.items())]
        config = folder / "config.yaml"
        config.write_text("\n".join(lines))
    options = dict(options)
    checkpoint = options.pop("from", None)
    with (folder / "output.txt").open("a") as output, redirect_stdout(output):
        train_model(
            architecture,
            config,
            data,
            TrainingSettings(**{**TINY, **options}),
            checkpoint=folder / "weights.safetensors",
            metrics=folder / "metrics.json",
            start=Start(str(checkpoint)) if checkpoint else None,
            state_file=folder / "state.pt",
            tracking=Tracking(folder, RegistrySettings.of({})),
        )


def train_rank(rank: int, port: int, *arguments: Any) -> None:
    """Train as one of two processes that a launcher started."""
    os.environ |= {
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    train_tiny(*arguments)


def wait_for(file: Path, process: Any) -> None:
    """Wait until a process has written a file, or has ended."""
    while process.is_alive() and not file.exists():
        time.sleep(0.01)


def continued(folder: Path) -> bool:
    """Whether a training in a folder loaded a state."""
    return "continue after step" in (folder / "output.txt").read_text()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the metrics that the only training of a folder's MLflow store logged, by step."""
    import mlflow

    from detexport.registry.store import open_store

    with open_store(folder, experiment="detexport") as store:
        client = mlflow.MlflowClient()
        (run,) = client.search_runs([store.experiment_id])
        return {
            name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }


if __name__ == "__main__":
    import torch

    train_tiny(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], {}, json.loads(sys.argv[4]))
    print(f"rank {os.environ['LOCAL_RANK']}: {torch.get_num_threads()} threads", flush=True)
