"""Names of detectron2 that are not here."""

from detexport.detectron2_names import REFUSED, missing, own_path, refusal


def test_a_refused_module_refuses_its_names() -> None:
    module = "detectron2.evaluation.lvis_evaluation"
    assert refusal(f"{module}.LVISEvaluator") == REFUSED[module]
    assert refusal("detectron2.evaluation.lvis") is None
    assert own_path("detectron2.layers.nms") == "detexport.layers.nms"


def test_the_message_gives_the_reason_or_where_to_turn() -> None:
    assert missing("detectron2.modeling.MMDetDetector").endswith(REFUSED["detectron2.modeling.MMDetDetector"])
    assert "open an issue" in missing("detectron2.modeling.Nope")
