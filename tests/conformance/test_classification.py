# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' common tests on `SAILViTForImageClassification`."""

import unittest

import torch
from transformers import set_seed

from sailvit_hf import SAILViTConfig, SAILViTForImageClassification, SAILViTModel

from .testers import VisionModelTests, VisionTester


class SAILViTForImageClassificationTest(VisionModelTests, unittest.TestCase):
    # With its base, so that the tests of loading one from the other run.
    all_model_classes = (SAILViTModel, SAILViTForImageClassification)

    def setUp(self):
        self.model_tester = VisionTester(self, SAILViTConfig)


class SAILViTForImageClassificationTrainingTest(unittest.TestCase):
    """The overfitting test of transformers knows texts only; this is the same for pictures, to the same thresholds."""

    def test_training_overfit(self):
        set_seed(42)
        config, inputs = VisionTester(self, SAILViTConfig).prepare_config_and_inputs_for_common()
        model = SAILViTForImageClassification(config).train()
        batch = {"pixel_values": inputs["pixel_values"].cpu(), "labels": torch.tensor([0, 1, 2, 1, 0])}
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses, norms = [], []
        for _ in range(120):
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0).item())
            losses.append(loss.item())
            optimizer.step()
        self.assertLess(losses[-1], 0.1 * losses[0])
        self.assertLess(norms[-1], 0.1 * norms[0])
