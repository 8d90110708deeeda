# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' common tests on `SAILViTForConditionalGeneration` and `SAILViTVLMModel`."""

import unittest

import torch
from transformers import set_seed
from transformers.testing_utils import torch_device

from sailvit_hf import SAILViTForConditionalGeneration, SAILViTVLMConfig, SAILViTVLMModel

from .testers import TINY_TEXT, VisionLanguageTester
from .upstream import common_tests

modeling = common_tests("test_modeling_common")
configuration = common_tests("test_configuration_common")
generation = common_tests("generation.test_utils")
training = common_tests("test_training_mixin")

TINY_VISION = {"model_type": "sailvit", "image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2}
TINY_VISION |= {"num_attention_heads": 4, "intermediate_size": 37}


# A tower with a class token, and a language model that shares its embeddings with the head.
DINO = {**TINY_VISION, "model_type": "dinov2"}
TIED_LLAMA = {**TINY_TEXT, "model_type": "llama", "tie_word_embeddings": True}


def tiny_tester(parent, tester_class=VisionLanguageTester, vision=TINY_VISION, text=TINY_TEXT, **config):
    return tester_class(
        parent,
        SAILViTVLMConfig,
        tokens_per_image=4,
        vision_config=vision,
        text_config=text,
        image_token_id=VisionLanguageTester.image_token_id,
        **config,
    )


class SAILViTVLMTest(modeling.ModelTesterMixin, generation.GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (SAILViTVLMModel, SAILViTForConditionalGeneration)
    _is_composite = True

    def setUp(self):
        self.model_tester = tiny_tester(self)
        self.config_tester = configuration.ConfigTester(self, config_class=SAILViTVLMConfig, has_text_modality=False)

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_chats_with_several_pictures_keep_them_in_order_in_every_beam(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        set_seed(0)
        model = SAILViTForConditionalGeneration(config).to(torch_device).eval()
        pictures = inputs["pixel_values"] * torch.tensor([-30.0, 1.0, 30.0], device=torch_device).view(3, 1, 1, 1)
        # Two pictures in the first chat, one in the second.
        image, text = [0] * 4, [5, 6, 8, 3]
        input_ids = torch.tensor([[*image, 9, *image, 7], [*text, 9, *image, 7]], device=torch_device)
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 1, "suppress_tokens": [0]}
        batch = {"attention_mask": torch.ones_like(input_ids), "pixel_values": pictures}
        once = model.generate(input_ids, **batch, **settings)
        # Sampling with one candidate: every copy of a chat must say what the chat says.
        settings |= {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
        self.assertEqual(
            model.generate(input_ids, **batch, **settings).tolist(), once.repeat_interleave(2, dim=0).tolist()
        )


class OtherPartsTest(SAILViTVLMTest):
    """The same with another tower, of which an inner layer is read, and another language model."""

    # The layers after it do not learn.
    test_all_params_have_gradient = False

    def setUp(self):
        self.model_tester = tiny_tester(self, vision=DINO, text=TIED_LLAMA, vision_feature_layer=-2)
        self.config_tester = configuration.ConfigTester(self, config_class=SAILViTVLMConfig, has_text_modality=False)

    # transformers writes other names for this tower than the model has; ours does not, for the Trainer's resume.
    def test_reverse_loading_mapping(self):
        super().test_reverse_loading_mapping(check_keys_were_modified=False)


class TrainedTester(VisionLanguageTester):
    """Says itself how many words there are, as configurations of language models do."""

    causal_lm_class = SAILViTForConditionalGeneration

    def get_config(self):
        config = super().get_config()
        config.vocab_size = self.vocab_size
        return config


class SAILViTVLMTrainingTest(training.TrainingTesterMixin, unittest.TestCase):
    model_tester = None
    training_overfit_steps = 120
    training_overfit_learning_rate = 3e-3

    def setUp(self):
        # Its text begins with token 1, which must not be the padding: that has no embedding to learn.
        self.model_tester = tiny_tester(self, TrainedTester, text={**TINY_TEXT, "pad_token_id": None})
