# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Tests of `generate`, ours: those of transformers are not in its source distribution."""

import torch
from transformers import set_seed
from transformers.testing_utils import torch_device

NEW_TOKENS = 5


class GenerationTesterMixin:
    """For the classes of `all_generative_model_classes`; the common tests ask for a mixin of this name."""

    def _each_model(self):
        for model_class in self.all_generative_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            config.get_text_config().eos_token_id = None
            set_seed(0)
            model = model_class(config).to(torch_device).eval()
            model.generation_config.eos_token_id = None
            with self.subTest(model_class.__name__):
                yield model, inputs

    def _generate(self, model, inputs, **kwargs):
        settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 1}
        # A random model would write pictures' places too.
        settings["suppress_tokens"] = [self.model_tester.image_token_id]
        set_seed(0)
        return model.generate(**inputs, **{**settings, **kwargs})

    def test_greedy_generation_takes_the_forward_pass_at_its_word(self):
        for model, inputs in self._each_model():
            generated = self._generate(model, inputs)
            sequence = inputs["input_ids"]
            for _ in range(NEW_TOKENS):
                whole = {**inputs, "input_ids": sequence, "attention_mask": torch.ones_like(sequence)}
                with torch.no_grad():
                    logits = model(**whole, use_cache=False).logits[:, -1]
                logits[:, self.model_tester.image_token_id] = -torch.inf
                sequence = torch.cat([sequence, logits.argmax(-1, keepdim=True)], dim=1)
            self.assertEqual(generated.tolist(), sequence.tolist())

    def test_the_kind_of_cache_does_not_matter(self):
        for model, inputs in self._each_model():
            expected = self._generate(model, inputs).tolist()
            self.assertEqual(self._generate(model, inputs, use_cache=False).tolist(), expected)
            self.assertEqual(self._generate(model, inputs, cache_implementation="static").tolist(), expected)

    def test_beams_of_a_batch_are_those_of_its_rows(self):
        for model, inputs in self._each_model():
            batch = self._generate(model, inputs, num_beams=3, num_return_sequences=2)
            for row in range(len(inputs["input_ids"])):
                alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
                expected = self._generate(model, alone, num_beams=3, num_return_sequences=2)
                self.assertEqual(batch[2 * row : 2 * row + 2].tolist(), expected.tolist())

    def test_sampling_repeats_with_the_seed(self):
        for model, inputs in self._each_model():
            first, again = (
                self._generate(model, inputs, do_sample=True, num_return_sequences=2).tolist() for _ in range(2)
            )
            self.assertEqual(first, again)
            self.assertNotEqual(first[0], first[1])

    def test_left_padding_changes_nothing(self):
        for model, inputs in self._each_model():
            expected = self._generate(model, inputs)[:, -NEW_TOKENS:]
            pad = torch.ones_like(inputs["input_ids"][:, :3])
            padded = {
                **inputs,
                "input_ids": torch.cat([pad, inputs["input_ids"]], dim=1),
                "attention_mask": torch.cat([0 * pad, inputs["attention_mask"]], dim=1),
            }
            self.assertEqual(self._generate(model, padded)[:, -NEW_TOKENS:].tolist(), expected.tolist())

    def test_embeddings_in_place_of_tokens(self):
        for model, inputs in self._each_model():
            expected = self._generate(model, inputs)[:, -NEW_TOKENS:]
            rest = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
            with torch.no_grad():
                embedded = model.get_input_embeddings()(inputs["input_ids"])
            self.assertEqual(self._generate(model, {**rest, "inputs_embeds": embedded}).tolist(), expected.tolist())

    def test_going_on_from_a_cache(self):
        for model, inputs in self._each_model():
            expected = self._generate(model, inputs)
            begun = self._generate(
                model, inputs, max_new_tokens=2, min_new_tokens=2, return_dict_in_generate=True, use_cache=True
            )
            further = {
                "input_ids": begun.sequences,
                "attention_mask": torch.ones_like(begun.sequences),
                "past_key_values": begun.past_key_values,
            }
            rest = NEW_TOKENS - 2
            ended = self._generate(model, further, max_new_tokens=rest, min_new_tokens=rest)
            self.assertEqual(ended.tolist(), expected.tolist())
