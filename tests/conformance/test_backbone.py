# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' common tests, those of models and those of backbones, on `SAILViTBackbone`."""

import unittest

from sailvit_hf import SAILViTBackbone, SAILViTConfig, SAILViTModel

from .testers import VisionModelTests, VisionTester
from .upstream import common_tests

backbones = common_tests("test_backbone_common")


class SAILViTBackboneModelTest(VisionModelTests, unittest.TestCase):
    """What every model must do."""

    # The tests of gradients take the first class only, and a backbone's first output is a tuple.
    all_model_classes = (SAILViTModel, SAILViTBackbone)

    def setUp(self):
        self.model_tester = VisionTester(self, SAILViTConfig, out_features=["stem", "stage2"])


class SAILViTBackboneTest(backbones.BackboneTesterMixin, unittest.TestCase):
    """What every backbone must do."""

    all_model_classes = (SAILViTBackbone,)
    config_class = SAILViTConfig

    def setUp(self):
        self.model_tester = VisionTester(self, SAILViTConfig, out_features=["stage1", "stage2"])
