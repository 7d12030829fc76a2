r"""Extract the part of a checkpoint that a model of another configuration has, too, as a checkpoint.

    python examples/extract_weights.py conf/detectron2/proposal_network.yaml \
        checkpoints/faster_rcnn.safetensors checkpoints/proposal_network.safetensors data/shapes

This is necessary since weights are loaded strictly: a file with more parameters than the model is refused.
The metrics of the model on the validation split are written next to the new file, as by training.
"""

import sys
from pathlib import Path

from detexport.checkpoint import load_weights, read_state_dict, write_state_dict
from detexport.config.cfg import load_cfg
from detexport.data.coco import load_coco
from detexport.engine.evaluation import evaluate
from detexport.modeling import build_model
from detexport.system.files import write_json


def main(config_file: Path, checkpoint: Path, part: Path, data: Path) -> None:
    """Write PART of CHECKPOINT, and the metrics of the model of CONFIG_FILE on DATA next to it."""
    model = build_model(load_cfg(config_file))
    names = set(model.state_dict())
    state = {name: value for name, value in read_state_dict(checkpoint).items() if name in names}
    load_weights(model, state, str(checkpoint))
    write_state_dict(state, part)
    accuracy = evaluate(model, load_coco(data, "val"))
    write_json(part.with_suffix(".json"), {name: round(value, 4) for name, value in accuracy.items()})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
