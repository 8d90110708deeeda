# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' common tests on `SAILViTModel`."""

import unittest

from sailvit_hf import SAILViTConfig, SAILViTModel

from .testers import VisionModelTests, VisionTester
from .upstream import common_tests

configuration = common_tests("test_configuration_common")


class SAILViTModelTest(VisionModelTests, unittest.TestCase):
    all_model_classes = (SAILViTModel,)

    def setUp(self):
        self.model_tester = VisionTester(self, SAILViTConfig)
        self.config_tester = configuration.ConfigTester(
            self, config_class=SAILViTConfig, has_text_modality=False, hidden_size=40
        )

    def test_config(self):
        self.config_tester.run_common_tests()
