"""Weights that a model has under two names and its file under one, as transformers' `save_pretrained` writes them."""

from __future__ import annotations

import pytest
import torch

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.storage.transaction import read_manifest

TIED = "cls.predictions.decoder.weight"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A model, and the directory of its `save_pretrained`."""
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 99}
    model = BertForMaskedLM(BertConfig(num_hidden_layers=1, max_position_embeddings=16, **sizes)).eval()
    directory = tmp_path_factory.mktemp("bert")
    model.save_pretrained(directory)
    manifest.create(directory / "model.safetensors", str(directory), family="transformers")
    return model, directory / "model.safetensors"


def test_create_when_the_file_has_one_name_of_a_tied_weight_then_both_are_on_record(bert):
    _, path = bert
    with open_checkpoint(path) as stored:
        assert TIED not in stored.tensors
    weights = read_manifest(path).weights
    assert weights.tied[TIED] == "bert.embeddings.word_embeddings.weight"


def test_verify_when_the_file_has_one_name_of_a_tied_weight_then_it_passes(bert):
    assert manifest.verify(bert[1]).exit_code == 0


def test_load_when_the_file_has_one_name_of_a_tied_weight_then_the_module_shares_it(bert):
    model, path = bert
    loaded = manifest.load(path)
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight
    tokens = torch.arange(10)[None]
    assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_weights_digest_when_one_file_has_both_names_then_it_is_the_same(bert, tmp_path):
    model, path = bert
    both = manifest.save(model, tmp_path / "both.pt", golden=False)
    assert both.weights.digest == read_manifest(path).weights.digest


def test_convert_when_the_file_has_one_name_of_a_tied_weight_then_it_is_carried_over(bert, tmp_path):
    from manifest.workflows.converting import convert

    converted = tmp_path / "converted.safetensors"
    convert(bert[1], converted)
    assert manifest.verify(converted, fast=True).exit_code == 0
