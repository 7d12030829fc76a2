"""PT2 archives: the same bytes for the same program, and nothing is run that a file says."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from detexport.errors import ArtifactError
from detexport.formats.pt2 import SAMPLE_INPUTS, load_program, save_program
from hostile_archives import Touch, disguise, rewrite

MODEL = "model/models/model.json"
WEIGHTS = "model/data/weights/model_weights_config.json"
CONSTANTS = "model/data/constants/model_constants_config.json"


class Tiny(nn.Module):
    """A parameter, a constant and a size that is computed."""

    constant: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("constant", torch.arange(3.0), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x).relu() + self.constant, x.new_ones((x.shape[0] * 2 + 1) // 3)


def recorded() -> ExportedProgram:
    torch.manual_seed(0)
    program = torch.export.export(
        Tiny().eval(), (torch.zeros(5, 4),), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False
    )
    for node in program.graph.nodes:
        for note in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(note, None)
    program._guards_code.clear()
    return program


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    save_program(recorded(), path)
    return path


def edit(member: str, change: Callable[[Any], Any]) -> Callable[[dict[str, bytes]], None]:
    """A change of the JSON of one member."""

    def apply(members: dict[str, bytes]) -> None:
        value = json.loads(members[member])
        change(value)
        members[member] = json.dumps(value).encode()

    return apply


def first_expression(value: Any) -> dict[str, Any]:
    return next(
        item["as_expr"]
        for item in value["graph_module"]["graph"]["sym_int_values"].values()
        if "as_expr" in item
    )


def test_a_program_comes_back_and_computes_the_same(saved: Path) -> None:
    x = torch.randn(7, 4)
    expected = recorded().module()(x)
    for got, want in zip(load_program(saved).module()(x), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_the_same_program_gives_the_same_bytes_whatever_the_files_are_called(tmp_path: Path) -> None:
    first, second = tmp_path / "here.pt2", tmp_path / "and somewhere" / "else.pt2"
    second.parent.mkdir()
    save_program(recorded(), first)
    save_program(recorded(), second)
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in tmp_path.iterdir()].count("model.pt2") == 0


def test_a_program_with_notes_of_its_source_is_not_saved(tmp_path: Path) -> None:
    program = torch.export.export(Tiny().eval(), (torch.zeros(5, 4),), strict=False)
    with pytest.raises(ArtifactError, match="metadata"):
        save_program(program, tmp_path / "model.pt2")


def test_an_archive_that_was_only_packed_anew_is_read(saved: Path) -> None:
    rewrite(saved, lambda members: None)
    assert load_program(saved).module()(torch.zeros(7, 4))[1].shape == (5,)


def node_target(target: str) -> Callable[[dict[str, bytes]], None]:
    return edit(MODEL, lambda value: value["graph_module"]["graph"]["nodes"][0].update(target=target))


HOSTILE: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "a function of another module": node_target("torch.os.system"),
    "a function that calls another": node_target("_operator.methodcaller"),
    "an operator that writes a file": node_target("torch.ops.aten.save.default"),
    "an operator that reads a file": node_target("torch.ops.aten.from_file.default"),
    "an operator of another library": node_target("torch.ops.image.write_file.default"),
    "code for an expression": edit(
        MODEL, lambda value: first_expression(value).update(expr_str="__import__('os').getpid()")
    ),
    "an attribute in an expression": edit(
        MODEL, lambda value: first_expression(value).update(expr_str="Symbol('s1').func")
    ),
    "code for a guard": edit(MODEL, lambda value: value.update(guards_code=["print(1)"])),
    "code for the name of an argument": edit(
        MODEL,
        lambda value: value["graph_module"]["graph"]["inputs"].append({"as_tensor": {"name": "x=print(1)"}}),
    ),
    "a container whose class is imported": edit(
        MODEL,
        lambda value: value["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "collections.defaultdict", "context": "null", "children_spec": []}]'
        ),
    ),
    "notes on a node": edit(
        MODEL,
        lambda value: value["graph_module"]["graph"]["nodes"][0].update(metadata={"stack_trace": "here"}),
    ),
    "a weight as a pickle": edit(
        WEIGHTS, lambda value: next(iter(value["config"].values())).update(use_pickle=True)
    ),
    "a constant as an object": edit(
        CONSTANTS, lambda value: next(iter(value["config"].values())).update(path_name="../../x")
    ),
    "native code": lambda members: members.update({"model/data/aotinductor/model/a.so": b"\x7fELF"}),
    "weights of the older kind": lambda members: members.update({"model/data/weights/model.pt": b""}),
    "an object": lambda members: members.update({"model/data/constants/opaque_obj_0": b""}),
    "another folder": lambda members: members.update({"other/models/model.json": members[MODEL]}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_that_says_more_than_a_graph_is_refused(saved: Path, what: str) -> None:
    rewrite(saved, HOSTILE[what])
    with pytest.raises(ArtifactError, match="not a plain exported program"):
        load_program(saved)


def test_sample_inputs_of_more_than_tensors_are_refused_and_not_run(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    payload = pickle.dumps(Touch(mark))
    rewrite(saved, lambda members: members.update({"model/data/sample_inputs/model.pt": payload}))
    with pytest.raises(ArtifactError, match="not a plain exported program"):
        load_program(saved)
    assert not mark.exists()


def test_a_file_that_is_two_archives_is_the_one_that_was_looked_at(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    disguise(saved, mark)
    seen_by_torch = torch._C.PyTorchFileReader(str(saved)).get_record(SAMPLE_INPUTS)
    assert seen_by_torch == pickle.dumps(Touch(mark))
    assert load_program(saved).module()(torch.zeros(7, 4))[1].shape == (5,)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        load_program(path)
