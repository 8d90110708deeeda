# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The same common tests on transformers' own nearest models: what they skip, ours may skip too."""

import unittest

import pytest
from torch import nn
from transformers import (
    Aimv2VisionConfig,
    Aimv2VisionModel,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaProcessor,
)

from .testers import TINY_TEXT, VisionLanguageTester, VisionTester, byte_tokenizer
from .upstream import common_tests

modeling = common_tests("test_modeling_common")
generation = common_tests("generation.test_utils")
images = common_tests("test_image_processing_common")
processors = common_tests("test_processing_common")

pytestmark = pytest.mark.slow

CLIP = {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 2, "hidden_size": 32, "num_hidden_layers": 2}
CLIP |= {"num_attention_heads": 4, "intermediate_size": 37, "projection_dim": 32}


class Aimv2VisionModelTest(modeling.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (Aimv2VisionModel,)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = VisionTester(self, Aimv2VisionConfig, is_native=False, use_head=False)

    def test_model_get_set_embeddings(self):
        model = Aimv2VisionModel(self.model_tester.get_config())
        self.assertIsInstance(model.get_input_embeddings(), nn.Module)


class LlavaTest(modeling.ModelTesterMixin, generation.GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (LlavaModel, LlavaForConditionalGeneration)
    # Its tower's last norm is not used.
    test_all_params_have_gradient = False
    _is_composite = True

    def setUp(self):
        self.model_tester = VisionLanguageTester(
            self,
            LlavaConfig,
            tokens_per_image=16,
            vision_config=CLIP,
            text_config=TINY_TEXT,
            image_token_index=0,
            image_seq_length=16,
            vision_feature_layer=-1,
        )


class ClipTester(images.ImageProcessingTester):
    def __init__(self, parent):
        size = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}}
        super().__init__(parent, min_resolution=30, max_resolution=60, **size)

    def _get_image_processing_classes(self):
        return {"pil": CLIPImageProcessorPil}


class CLIPImageProcessorTest(images.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ClipTester

    def test_new_models_require_torchvision_backend(self):
        """For new models only."""

    def test_pil_can_load_without_torchvision(self):
        """Before 5.23 it goes by the name of the test's folder."""


class LlavaProcessorTest(processors.ProcessorTesterMixin, unittest.TestCase):
    processor_class = LlavaProcessor

    @classmethod
    def _setup_image_processor(cls):
        return CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})

    @classmethod
    def _setup_tokenizer(cls):
        return byte_tokenizer(["<image>"])

    @staticmethod
    def prepare_processor_dict():
        template = "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        template += "{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}"
        template += "{% endif %}{% endfor %}"
        sizes = {"patch_size": 14, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0}
        return {"chat_template": template, **sizes}
