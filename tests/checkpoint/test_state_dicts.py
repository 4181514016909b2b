"""Where the weights are inside a checkpoint, and what they are called."""

from __future__ import annotations

import argparse
from collections import OrderedDict, defaultdict

import numpy
import pytest
import torch
from safetensors.torch import save_file

from manifest.checkpoint import open_checkpoint
from manifest.errors import InputError


@pytest.fixture
def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def names(path) -> list[str]:
    with open_checkpoint(path) as checkpoint:
        return list(checkpoint.tensors)


def test_weights_when_the_root_is_a_state_dict_then_are_all_of_it(save, model):
    with open_checkpoint(save(model.state_dict())) as checkpoint:
        assert list(checkpoint.tensors) == list(model.state_dict())
        assert (checkpoint.state_path, checkpoint.prefix, checkpoint.extras) == ((), "", ())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "model_state", "module"])
def test_weights_when_wrapped_under_a_usual_key_then_are_found_there(save, model, key):
    with open_checkpoint(save({"epoch": 3, key: model.state_dict(), "name": "run"})) as checkpoint:
        assert list(checkpoint.tensors) == list(model.state_dict())
        assert checkpoint.state_path == (key,)
        assert checkpoint.extras == ("epoch", "name")


def test_weights_when_wrapped_twice_then_are_found(save, model):
    with open_checkpoint(save({"model": {"state_dict": model.state_dict(), "arch": "x"}})) as checkpoint:
        assert checkpoint.state_path == ("model", "state_dict")
        assert list(checkpoint.tensors) == list(model.state_dict())


def test_keys_when_several_hold_weights_then_the_first_in_order_is_taken(save, model):
    other = torch.nn.Linear(1, 1).state_dict()
    with open_checkpoint(save({"model": other, "state_dict": model.state_dict()})) as checkpoint:
        assert checkpoint.state_path == ("state_dict",)


def test_key_when_it_holds_no_tensors_then_the_next_is_tried(save, model):
    with open_checkpoint(save({"state_dict": {}, "model": model.state_dict()})) as checkpoint:
        assert checkpoint.state_path == ("model",)


def test_statistics_when_beside_a_wrapped_state_dict_then_are_no_weights(save, model):
    saved = {"model": model.state_dict(), "loss": torch.tensor(0.1), "best": torch.tensor(0.2), "epoch": 1}
    with open_checkpoint(save(saved)) as checkpoint:
        assert checkpoint.state_path == ("model",)
        assert checkpoint.extras == ("loss", "best", "epoch")


def test_entries_when_they_are_no_tensors_then_are_extras(save, model):
    saved = {**model.state_dict(), "1._extra_state": {"scale": 1}, "version": 7}
    with open_checkpoint(save(saved)) as checkpoint:
        assert list(checkpoint.tensors) == list(model.state_dict())
        assert checkpoint.extras == ("1._extra_state", "version")


def test_entries_when_inside_a_wrapped_state_dict_then_are_extras_by_their_path(save, model):
    saved = {"state_dict": {**model.state_dict(), "_extra_state": None}, "epoch": 1}
    with open_checkpoint(save(saved)) as checkpoint:
        assert checkpoint.extras == ("epoch", "state_dict._extra_state")


def test_extras_when_keys_are_no_strings_then_are_shown_by_their_repr(save, model):
    saved = {"state_dict": model.state_dict(), 3: "x", (1, 2): "y", None: "z", 2**70: "w"}
    with open_checkpoint(save(saved)) as checkpoint:
        assert checkpoint.extras == ("3", "<tuple>", "None", "<int>")


def test_optimizer_when_saved_beside_the_weights_then_is_an_extra(save, model, strangers):
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    saved = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 9}
    with open_checkpoint(save(saved)) as checkpoint:
        assert list(checkpoint.tensors) == list(model.state_dict())
        assert checkpoint.extras == ("optimizer", "epoch")
        assert strangers(checkpoint) == ()


def test_optimizer_when_it_is_all_there_is_then_there_are_no_weights(save, model, refusal):
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    error = refusal(save({"optimizer": optimizer.state_dict(), "epoch": 9}))
    assert error.rule == "F001"
    assert "it holds no weights: its keys are 'optimizer', 'epoch'" in str(error)


def test_objects_of_classes_when_beside_the_weights_then_are_named_as_unsafe(save, model, strangers):
    saved = {
        "state_dict": model.state_dict(),
        "args": argparse.Namespace(lr=0.1),
        "history": defaultdict(list, {"loss": [1.0]}),
    }
    with open_checkpoint(save(saved)) as checkpoint:
        assert list(checkpoint.tensors) == list(model.state_dict())
        assert strangers(checkpoint) == ("argparse.Namespace", "collections.defaultdict")


def test_numbers_of_numpy_when_beside_the_weights_then_are_benign(save, model, strangers):
    saved = {
        "state_dict": model.state_dict(),
        "best": numpy.float64(0.5),
        "curve": numpy.arange(3),
        "classes": {"cat", "dog"},
        "raw": bytearray(b"x"),
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
    }
    for protocol in (2, 4):
        with open_checkpoint(save(saved, pickle_protocol=protocol)) as checkpoint:
            assert list(checkpoint.tensors) == list(model.state_dict())
            assert strangers(checkpoint) == ()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_weights_when_pickled_by_any_protocol_then_are_listed(save, model, protocol):
    path = save({"state_dict": OrderedDict(model.state_dict())}, pickle_protocol=protocol)
    assert names(path) == list(model.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "module._orig_mod."])
def test_prefix_of_a_wrapper_when_on_every_name_then_is_stripped(save, tmp_path, model, prefix):
    wrapped = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    with open_checkpoint(save(wrapped)) as checkpoint:
        assert list(checkpoint.tensors) == list(model.state_dict())
        assert checkpoint.prefix == prefix
        assert [tensor.name for tensor in checkpoint.tensors.values()] == list(wrapped)
    save_file(wrapped, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert checkpoint.prefix == prefix
        assert checkpoint.tensors.keys() == model.state_dict().keys()


def test_prefix_when_one_name_lacks_it_then_stays(save):
    assert names(save({"module.a": torch.ones(1), "b": torch.ones(1)})) == ["module.a", "b"]


def test_prefix_when_it_is_a_whole_name_then_stays(save):
    assert names(save({"module.": torch.ones(1)})) == ["module."]


def test_prefix_when_it_is_of_a_part_then_stays(save):
    assert names(save({"encoder.a": torch.ones(1), "encoder.b": torch.ones(1)})) == ["encoder.a", "encoder.b"]


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_module_when_pickled_whole_then_its_parameters_and_buffers_are_listed(save, model, values, options):
    model.register_buffer("scratch", torch.ones(2), persistent=False)
    model.tied = model[0]
    with open_checkpoint(save({"model": model, "epoch": 1}, **options)) as checkpoint:
        assert checkpoint.state_path == ("model",)
        assert checkpoint.extras == ("epoch",)
        assert "torch.nn.modules.container.Sequential" in checkpoint.globals
        expected = model.state_dict()
        assert list(checkpoint.tensors) == list(expected)
        for name, tensor in checkpoint.tensors.items():
            assert bytes(checkpoint.values(tensor)) == values(expected[name])


def test_module_when_it_nests_in_itself_then_is_over_a_limit(save, model, refusal):
    model[0]._modules["again"] = model
    error = refusal(save({"model": model}))
    assert error.rule == "F003"
    assert "nests more than" in str(error)


def test_tensor_when_saved_alone_then_gets_a_name(save):
    with open_checkpoint(save(torch.ones(()))) as checkpoint:
        assert list(checkpoint.tensors) == ["tensor"]
        assert checkpoint.tensors["tensor"].shape == ()


def test_tensors_when_in_a_list_then_are_named_by_their_places(save):
    assert names(save([torch.ones(2), "x", torch.ones(3)])) == ["0", "2"]


def test_state_dicts_when_in_a_list_then_are_all_candidates(save, model):
    with open_checkpoint(save([model.state_dict(), {"w": torch.ones(2)}])) as checkpoint:
        assert [candidate.path for candidate in checkpoint.candidates] == [("0",), ("1",)]
        assert list(checkpoint.tensors) == list(model.state_dict())


@pytest.mark.parametrize(
    "key", ["model_ema", "ema_state_dict", "state_dict_ema", "ema", "swa_model", "averaged_model", "shadow_params"]
)
def test_average_when_beside_the_weights_then_is_the_second_choice(save, model, key):
    average = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    with open_checkpoint(save({key: average, "model": model.state_dict(), "epoch": 1})) as checkpoint:
        assert checkpoint.state_path == ("model",)
        assert checkpoint.extras == (key, "epoch")
        assert [(candidate.path, candidate.average) for candidate in checkpoint.candidates] == [
            (("model",), False),
            ((key,), True),
        ]
        before = checkpoint.digest(checkpoint.tensors["0.weight"])
        chosen = checkpoint.select(key)
        assert (chosen.state_path, checkpoint.state_path) == ((key,), ("model",))
        assert chosen.extras == ("model", "epoch")
        assert chosen.digest(chosen.tensors["0.weight"]) != before


def test_average_when_it_is_all_there_is_then_is_chosen(save, model):
    with open_checkpoint(save({"model_ema": model.state_dict(), "epoch": 1})) as checkpoint:
        assert checkpoint.state_path == ("model_ema",)


def test_weights_when_under_an_unusual_key_then_are_found(save, model):
    saved = {"generator": model.state_dict(), "critic": {"w": torch.ones(2)}, "optimizer_g": {"w": torch.ones(9)}}
    with open_checkpoint(save(saved)) as checkpoint:
        assert [candidate.path for candidate in checkpoint.candidates] == [("generator",), ("critic",)]


def test_candidate_when_there_is_none_under_a_key_then_the_others_are_named(save, model):
    with (
        open_checkpoint(save({"state_dict": model.state_dict()})) as checkpoint,
        pytest.raises(InputError, match="no weights under 'ema', only under 'state_dict'; name one of these"),
    ):
        checkpoint.select("ema")


def test_optimizer_when_under_any_key_then_is_told_by_its_form(save, model):
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    with open_checkpoint(save({"net": model.state_dict(), "trainer": optimizer.state_dict()})) as checkpoint:
        assert [candidate.path for candidate in checkpoint.candidates] == [("net",)]


def test_dictionary_when_of_an_unknown_class_then_is_looked_into(save, model):
    history = defaultdict(dict, model.state_dict())
    with open_checkpoint(save({"state_dict": history})) as checkpoint:
        assert list(checkpoint.tensors) == list(model.state_dict())


@pytest.mark.parametrize(
    ("root", "rule", "found"),
    [
        ([1.0], "F001", "a pickled list"),
        (argparse.Namespace(lr=1), "F004", "a pickled object of 'argparse.Namespace' without parameters"),
        ("text", "F001", "a pickled str"),
        (None, "F001", "a pickled NoneType"),
        ({}, "F001", "its keys are none"),
        ({1: torch.ones(2)}, "F001", "its keys are '1'"),
        ({"\x1b[31m": 1}, "F001", r"its keys are '\x1b[31m'"),
    ],
    ids=str,
)
def test_root_when_it_is_no_state_dict_then_says_what_it_is(save, refusal, root, rule, found):
    error = refusal(save(root))
    assert error.rule == rule
    assert found in str(error)


def test_keys_when_there_are_many_then_the_message_stays_short(save, refusal):
    error = refusal(save({f"key {index} {'x' * 1000}": index for index in range(1000)}))
    assert len(str(error)) < 800


def test_extras_when_there_are_thousands_then_the_rest_is_counted(save, model):
    saved = {"model": {**model.state_dict(), **{f"n{index}": index for index in range(1_500)}}, "x" * 500: 1}
    with open_checkpoint(save(saved)) as checkpoint:
        assert checkpoint.extras[0] == "x" * 199 + "…"
        assert checkpoint.extras[1] == "model.n0"
        assert checkpoint.extras[-1] == "… and 500 more"


def test_tensor_when_it_has_no_values_then_is_named_beside_the_others(save):
    with open_checkpoint(save({"w": torch.ones(2), "odd": torch.empty(3, device="meta")})) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert checkpoint.unlisted == {"odd": "a meta tensor, without values"}


def test_tensors_when_none_has_values_then_are_refused(save, refusal):
    error = refusal(save({"odd": torch.empty(3, device="meta")}))
    assert error.rule == "F004"
    assert "tensor 'odd' is a meta tensor" in str(error)


def test_tensor_when_it_has_attributes_then_is_listed(save):
    tagged = torch.ones(3)
    tagged.note = "kept beside it"
    assert names(save({"w": tagged})) == ["w"]
