# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' common tests of image processors and processors, on ours."""

import unittest

from transformers.utils import is_torchvision_available

from sailvit_hf import SAILViTImageProcessor, SAILViTImageProcessorPil, SAILViTProcessor
from sailvit_hf.processing.picture_settings_sailvit import backends

from .testers import byte_tokenizer
from .upstream import common_tests

images = common_tests("test_image_processing_common")
processors = common_tests("test_processing_common")

# With torchvision where it is: tests/processing/test_torchvision_backend.py runs this file beside one.
BACKENDS = {"pil": SAILViTImageProcessorPil}
if is_torchvision_available():
    BACKENDS["torchvision"] = SAILViTImageProcessor


class ImageProcessorTester(images.ImageProcessingTester):
    """Pictures to process, and the small size to process them to."""

    def __init__(self, parent):
        super().__init__(parent, min_resolution=30, max_resolution=60, size={"height": 20, "width": 20})

    def _get_image_processing_classes(self):
        return BACKENDS


class SAILViTImageProcessorTest(images.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ImageProcessorTester

    def test_new_models_require_torchvision_backend(self):
        self.image_processor_tester.image_processing_classes = backends()
        super().test_new_models_require_torchvision_backend()

    # They look for the class in transformers, where ours is not; tests/processing has the same test.
    @unittest.skip("our class is not in transformers")
    def test_pil_can_run_without_torchvision(self):
        pass

    test_pil_can_load_without_torchvision = test_pil_can_run_without_torchvision  # its name before 5.23


class SAILViTProcessorTest(processors.ProcessorTesterMixin, unittest.TestCase):
    processor_class = SAILViTProcessor

    @classmethod
    def _setup_image_processor(cls):
        return SAILViTImageProcessorPil(size={"height": 56, "width": 56})

    @classmethod
    def _setup_tokenizer(cls):
        return byte_tokenizer(["<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>"])
