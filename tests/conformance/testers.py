# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The "model testers" that transformers' common tests ask for: tiny configurations and the inputs that fit them."""

import inspect
from collections.abc import Callable
from typing import Any
from unittest import TestCase, mock

import torch
import transformers
from packaging.version import parse
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.testing_utils import torch_device

from .upstream import common_tests

_common = common_tests("test_modeling_common")


class VisionTester:
    """Tiny configurations and pictures for a vision transformer without class token."""

    is_training = True
    batch_size = 5
    num_channels = 3
    image_size = 16
    patch_size = 4
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    intermediate_size = 37
    seq_length = 16
    num_labels = 3

    def __init__(self, parent: TestCase, make_config: Callable[..., PreTrainedConfig], **config: Any) -> None:
        self.parent, self.make_config, self.config = parent, make_config, config

    def get_config(self) -> PreTrainedConfig:
        names = ("num_channels", "image_size", "patch_size", "hidden_size", "num_hidden_layers")
        names += ("num_attention_heads", "intermediate_size", "num_labels")
        return self.make_config(**{name: getattr(self, name) for name in names}, **self.config)

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        shape = [self.batch_size, self.num_channels, self.image_size, self.image_size]
        return self.get_config(), {"pixel_values": _common.floats_tensor(shape)}


class VisionLanguageTester:
    """Tiny configurations, and chats that begin with a picture, for a vision-language model."""

    is_training = True
    batch_size = 3
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32
    vocab_size = 99
    pad_token_id = 1
    image_token_id = 0
    text_length = 7

    def __init__(
        self,
        parent: TestCase,
        make_config: Callable[..., PreTrainedConfig],
        tokens_per_image: int,
        vision_config: dict[str, Any],
        text_config: dict[str, Any],
        **config: Any,
    ) -> None:
        self.parent, self.make_config, self.config = parent, make_config, config
        self.tokens_per_image = tokens_per_image
        self.vision_config, self.text_config = vision_config, text_config
        self.seq_length = self.encoder_seq_length = self.text_length + tokens_per_image

    def get_config(self) -> PreTrainedConfig:
        return self.make_config(vision_config=self.vision_config, text_config=self.text_config, **self.config)

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        side = self.vision_config["image_size"]
        input_ids = _common.ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 2) + 2
        input_ids[:, : self.tokens_per_image] = self.image_token_id
        inputs = {
            "pixel_values": _common.floats_tensor([self.batch_size, 3, side, side]),
            "input_ids": input_ids,
            "attention_mask": torch.ones(input_ids.shape, dtype=torch.long, device=torch_device),
        }
        return self.get_config(), inputs


TINY_TEXT = {
    "model_type": "qwen3",
    "vocab_size": VisionLanguageTester.vocab_size,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 37,
    "max_position_embeddings": 512,
    "pad_token_id": VisionLanguageTester.pad_token_id,
    "bos_token_id": None,
    "eos_token_id": None,
}


class VisionModelTests(_common.ModelTesterMixin):
    """The common tests of a vision model, with the two that in-tree vision models override as well."""

    test_resize_embeddings = False

    # The input embedding of a vision transformer is a convolution, not an `nn.Embedding`.
    def test_model_get_set_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), torch.nn.Conv2d)
            self.assertIsNone(model.get_output_embeddings())

    def test_forward_signature(self):
        for model_class in self.all_model_classes:
            self.assertEqual(list(inspect.signature(model_class.forward).parameters)[1], "pixel_values")

    # The test looks for a recorder of transformers; our models select hidden states themselves, to the same effect.
    def test_can_capture_specific_layers_hidden_states(self):
        if parse(transformers.__version__) < parse("5.23"):
            self.skipTest("the embeddings are not counted")
        for model_class in self.all_model_classes:
            patch = mock.patch.object(model_class, "_can_record_outputs", {"hidden_states": torch.nn.Module})
            patch.start()
            self.addCleanup(patch.stop)
        super().test_can_capture_specific_layers_hidden_states()


def byte_tokenizer(special_tokens: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that gives back every text as it was: one token a byte, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=special_tokens,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
