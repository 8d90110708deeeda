# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The vision-language model that refines a vision tower: any tower, the connector, any causal language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, torch_compilable_check

from .configuration_sailvit import SAILViTConfig, SAILViTVLMConfig
from .loading_sailvit import StrictPreTrainedModel
from .lockstep_sailvit import in_pieces, most_of_all
from .loss_sailvit import (
    LanguageModelingHead,
    LearntPositions,
    LogitTransform,
    chunked_loss,
    learnt_positions,
    mean_loss,
    shifted,
    weighted_loss,
)
from .modeling_sailvit import SAILViTModel
from .vision_towers import layers_run, native_size, only_patches, patch_grid, run_tower, tower_facts, vision_half


@dataclass
class SAILViTVLMModelOutput(ModelOutput):
    """Output of [`SAILViTVLMModel`]: `last_hidden_state` (B, L, d), and `image_hidden_states` (images, tokens, d)."""

    last_hidden_state: torch.FloatTensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: torch.FloatTensor | None = None


@dataclass
class SAILViTCausalLMOutput(ModelOutput):
    """Output of [`SAILViTForConditionalGeneration`]: `loss` (scalar), `logits` (B, L, vocabulary) unless skipped."""

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: torch.FloatTensor | None = None


def pixel_shuffle(features: torch.Tensor, rows: int, columns: int, merge_size: int) -> torch.Tensor:
    """Merge squares of patches into channels, in InternVL's "v2" order.

    A grid that is not made of whole squares is filled up with zeros at the right and the bottom (ours).

    Args:
        features (`torch.Tensor` of shape `(B, rows * columns, h)`): Patch features, row-major.

    Returns:
        `torch.Tensor` of shape `(B, ceil(rows / merge_size) * ceil(columns / merge_size), merge_size**2 * h)`,
        row-major; the channels of a token are its patches' one after the other, row-major too.
    """
    batch, _, width = features.shape
    if rows % merge_size or columns % merge_size:
        more_rows, more_columns = -rows % merge_size, -columns % merge_size
        grid = features.view(batch, rows, columns, width)
        features = nn.functional.pad(grid, (0, 0, 0, more_columns, 0, more_rows))
        rows, columns = rows + more_rows, columns + more_columns
    squares = features.view(batch, rows // merge_size, merge_size, columns // merge_size, merge_size, width)
    return squares.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1, merge_size**2 * width)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


class SAILViTMultiModalProjector(GradientCheckpointingLayer):
    """The connector: LayerNorm, Linear, activation, Linear (the published `mlp1`)."""

    def __init__(self, config: SAILViTVLMConfig) -> None:
        super().__init__()
        merged = config.vision_config.hidden_size * config.merge_size**2
        width = config.text_config.hidden_size
        self.norm = nn.LayerNorm(merged)
        self.linear_1 = nn.Linear(merged, width)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(self.norm(features))))


class SAILViTVLMPreTrainedModel(StrictPreTrainedModel):
    """What the vision-language models share."""

    config: SAILViTVLMConfig
    config_class = SAILViTVLMConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _auto_classes = {
        "AutoConfig": "configuration_sailvit.SAILViTVLMConfig",
        "AutoModel": "modeling_sailvit_vlm.SAILViTVLMModel",
        "AutoModelForImageTextToText": "modeling_sailvit_vlm.SAILViTForConditionalGeneration",
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The tower and the language model initialise themselves; what is ours is the connector and the head.
        std = getattr(self.config.text_config, "initializer_range", 0.02)
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


class SAILViTVLMModel(SAILViTVLMPreTrainedModel):
    """Vision tower, connector and language model, without a language modeling head."""

    def __init__(self, config: SAILViTVLMConfig) -> None:
        super().__init__(config)
        if config.vision_config.model_type == SAILViTConfig.model_type:
            # Not through AutoModel: remote code must find its own class without registering anything. By name, because
            # transformers loads the configuration's file a second time, as another module, beside this one.
            self.vision_tower = SAILViTModel(config.vision_config)
        else:
            self.vision_tower = AutoModel.from_config(config.vision_config)
        self.vision_facts = tower_facts(self.vision_tower)
        layers_run(config.vision_config, config.vision_feature_layer)
        self.multi_modal_projector = SAILViTMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_image_features(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor],
        return_dict: bool | None = None,
        vision_features: Sequence[torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling | tuple:
        r"""
        Encode pictures and project them into the language model's space.

        Args:
            pixel_values (`torch.Tensor` of shape `(images, C, H, W)`): Pictures or tiles of the whole batch. If their
                sizes differ, a list of `(C, H, W)`: the tower runs once for each size.
            vision_features (`Sequence[torch.Tensor]`, *optional*): The tower's patches `(rows * columns, h)` of each
                picture, where they are known already (a frozen tower's, kept): the tower does not run.
            kwargs: What the tower is to return besides, such as `output_hidden_states` and `output_attentions`.

        Returns:
            The tower's output up to `config.vision_feature_layer`, whose `pooler_output` is `(images, tokens, d)`:
            `tokens` per picture, of the language model's width `d`. Of a list, `pooler_output` only, of shape
            `(tokens of all, d)`, in the order of the pictures.

        Raises:
            ValueError: if the tower does not read pictures of this size.
        """
        if not isinstance(pixel_values, torch.Tensor):
            result = BaseModelOutputWithPooling(pooler_output=self._features_of_sizes(pixel_values, vision_features))
            return_dict = self.config.return_dict if return_dict is None else return_dict
            return result if return_dict else result.to_tuple()
        rows, columns = patch_grid(self.config.vision_config, pixel_values)
        if vision_features is None:
            # A wholly frozen tower builds no graph: its activations would be kept for nothing.
            layer, facts = self.config.vision_feature_layer, self.vision_facts
            with torch.set_grad_enabled(torch.is_grad_enabled() and _learns(self.vision_tower)):
                outputs = run_tower(self.vision_tower, pixel_values, layer, facts, **kwargs)
            patches = only_patches(outputs.last_hidden_state, rows, columns, facts)
        else:
            patches = torch.stack(tuple(vision_features))
            outputs = BaseModelOutputWithPooling(last_hidden_state=patches)
        merged = pixel_shuffle(patches, rows, columns, self.config.merge_size)
        projected = self.multi_modal_projector(merged.to(self.multi_modal_projector.linear_1.weight.dtype))
        result = BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=projected,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return result if return_dict else result.to_tuple()

    def _features_of_sizes(
        self, pictures: Sequence[torch.Tensor], vision_features: Sequence[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The connector's output (tokens of all pictures, d) for pictures (C, H, W) of different sizes, in order."""
        places: dict[tuple[int, ...], list[int]] = {}
        for place, picture in enumerate(pictures):
            places.setdefault(tuple(picture.shape), []).append(place)
        found: dict[int, torch.Tensor] = {}
        for same in places.values():
            batch = torch.stack([pictures[place] for place in same])
            known = None if vision_features is None else [vision_features[place] for place in same]
            features = self.get_image_features(batch, return_dict=True, vision_features=known).pooler_output
            found |= zip(same, features, strict=True)
        return torch.cat([found[place] for place in range(len(pictures))])

    def get_placeholder_mask(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, image_features: torch.Tensor
    ) -> torch.Tensor:
        """Where the pictures' tokens go, (B, L, d); `ValueError` when their number differs from the features'."""
        if input_ids is None:
            token = torch.tensor(self.config.image_token_id, dtype=torch.long, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token)).all(-1)
        else:
            mask = input_ids == self.config.image_token_id
        tokens, features = mask.sum(), image_features.shape[:-1].numel()
        torch_compilable_check(
            tokens == features,
            lambda: f"Image features and image tokens do not match, tokens: {tokens}, features: {features}",
        )
        return mask.unsqueeze(-1).expand_as(inputs_embeds)

    def _silent_image_features(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Zero, computed through tower and connector from a blank picture; a tower that nobody awaits does not run.

        With it a batch without pictures uses the same parameters as every other one: data-parallel and sharded
        training would otherwise wait for gradients or parameter gathers that never come.
        """
        config = self.config.vision_config
        blank = inputs_embeds.new_zeros(1, config.num_channels, *native_size(config))
        known = None
        if not _learns(self.vision_tower) and not in_pieces(self.vision_tower):
            rows, columns = patch_grid(config, blank)
            known = inputs_embeds.new_zeros(1, rows * columns, config.hidden_size)
        features = self.get_image_features(blank, return_dict=True, vision_features=known).pooler_output
        return features[..., :0].sum()  # not times zero: that may be no number

    def _runs_to_add(self, runs: int, device: torch.device) -> int:
        """How often a blank picture must follow a batch that runs tower and connector `runs` times.

        Data-parallel training waits for the gradients of whatever trains. Sharded weights are brought together by all
        processes as often, or by none, whether anything trains or not.
        """
        parts = (self.vision_tower, self.multi_modal_projector)
        wanted = runs
        if self.training and torch.is_grad_enabled() and any(map(_learns, parts)):
            wanted = max(1, runs)
        if in_pieces(*parts):
            wanted = most_of_all(wanted, device)
        return wanted - runs

    def _with_pictures(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None,
        encoded: BaseModelOutputWithPooling | None,
        vision_features: Sequence[torch.Tensor] | None,
        may_be_silent: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The embeddings with the pictures' tokens in their places, and these tokens (None without pictures)."""
        if pixel_values is not None and not len(pixel_values):
            pixel_values = None
        runs = 0
        if encoded is not None:
            runs = 1
        elif pixel_values is not None:
            runs = 1 if isinstance(pixel_values, torch.Tensor) else len({each.shape for each in pixel_values})
        silent = self._runs_to_add(runs, inputs_embeds.device) if may_be_silent else 0
        image_features = None
        if encoded is None and pixel_values is not None:
            encoded = self.get_image_features(pixel_values, return_dict=True, vision_features=vision_features)
        if encoded is not None:
            image_features = encoded.pooler_output.to(inputs_embeds)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, image_features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, image_features)
        for _ in range(silent):
            inputs_embeds = inputs_embeds + self._silent_image_features(inputs_embeds).to(inputs_embeds)
        return inputs_embeds, image_features

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        vision_features: Sequence[torch.Tensor] | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SAILViTVLMModelOutput | tuple:
        r"""
        Run the model up to the last hidden state.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`): Tokens; pictures are runs of `config.image_token_id`.
            pixel_values (`torch.Tensor` of shape `(images, C, H, W)`, *optional*): All pictures, in reading order.
            mm_encoder_outputs (`dict`, *optional*): The output of `get_image_features` as `"image"`, instead of
                `pixel_values`: `generate` encodes pictures once, and repeats them chat by chat for its beams.
            vision_features (`Sequence[torch.Tensor]`, *optional*): See `get_image_features`.

        Raises:
            ValueError: if neither or both of `input_ids` and `inputs_embeds` are given, or the number of placeholders
                differs from the number of picture tokens.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        encoded = (mm_encoder_outputs or {}).get("image")
        inputs_embeds, image_features = self._with_pictures(
            input_ids, inputs_embeds, pixel_values, encoded, vision_features, may_be_silent=past_key_values is None
        )
        if self.training:
            kwargs.setdefault("use_cache", False)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            return_dict=True,
            **kwargs,
        )
        result = SAILViTVLMModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            image_hidden_states=image_features,
        )
        return result if return_dict is not False else result.to_tuple()


class SAILViTForConditionalGeneration(SAILViTVLMPreTrainedModel, GenerationMixin):
    """The vision-language model with its language modeling head: what the three stages train."""

    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: SAILViTVLMConfig) -> None:
        super().__init__(config)
        self.model = SAILViTVLMModel(config)
        self.lm_head = LanguageModelingHead(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self._name_tied_weights()
        self.post_init()

    def _name_tied_weights(self) -> None:
        # Language models name their embeddings differently (embed_tokens, wte, ...), so the name is looked up.
        embeddings = self.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        if self.config.tie_word_embeddings:
            # The file holds the shared tensor once; the Trainer reads this list when it resumes.
            self._keys_to_ignore_on_save = ["lm_head.weight"]

    @classmethod
    def from_parts(
        cls,
        vision_tower: PreTrainedModel,
        language_model: PreTrainedModel,
        image_token_id: int,
        **config_kwargs: Any,
    ) -> "SAILViTForConditionalGeneration":
        """Join two pre-trained models by a fresh connector (the start of the coarse stage).

        Args:
            vision_tower ([`~transformers.PreTrainedModel`]): Any vision transformer that `AutoModel` knows; of a
                contrastive pair (CLIP, SigLIP) its vision half.
            language_model ([`~transformers.PreTrainedModel`]): Any causal language model of transformers. Both are
                shared, not copied.
            image_token_id (`int`): Token that stands for a picture's tokens in the prompt.
            config_kwargs: Further fields of [`SAILViTVLMConfig`].

        Raises:
            ValueError: if the language model has no head, or no embedding for `image_token_id`, or the vision tower
                no patch grid.
        """
        head = language_model.get_output_embeddings()
        if head is None or getattr(head, "bias", None) is not None:
            raise ValueError(
                f"{type(language_model).__name__} has no language modeling head without bias; "
                "load the language model with AutoModelForCausalLM."
            )
        rows = language_model.get_input_embeddings().num_embeddings
        if image_token_id >= rows:
            raise ValueError(
                f"image_token_id is {image_token_id}, but the language model has {rows} embeddings; call its "
                "resize_token_embeddings after adding the image tokens to the tokenizer."
            )
        vision_tower = vision_half(vision_tower)
        config = cls.config_class(
            vision_config=vision_tower.config,
            text_config=language_model.config,
            image_token_id=image_token_id,
            **config_kwargs,
        )
        with torch.device("meta"):
            model = cls(config)
        model.model.vision_tower = vision_tower
        model.model.language_model = language_model.base_model
        model.lm_head = LanguageModelingHead.of(head)
        model.model.multi_modal_projector = SAILViTMultiModalProjector(model.config)
        model.model.multi_modal_projector.apply(model._init_weights)
        if language_model.generation_config is not None:
            model.generation_config = language_model.generation_config
        # The parts keep the configurations they were built with, which carry their attention implementations.
        model.config.vision_config, model.config.text_config = vision_tower.config, language_model.config
        model.tie_weights()
        return model

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = LanguageModelingHead.of(new_embeddings)

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling | tuple:
        """See [`SAILViTVLMModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        skip_logits: bool | None = None,
        loss_weights: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SAILViTCausalLMOutput | tuple:
        r"""
        Predict the next token at every position.

        Args:
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*): The tokens to learn; -100 where there is none.
            logits_to_keep (`int` or `torch.Tensor`, *optional*): How many last positions, or which, get logits.
            num_items_in_batch (`int`, *optional*): Number of learnt tokens of the whole global batch (with
                `loss_weights` the sum of their weights); the loss is their mean, however the batch was cut.
            skip_logits (`bool`, *optional*): Give the loss without logits (they are `None`), which are made where
                labels are, a chunk of positions at a time. Its backward pass can be run once.
            loss_weights (`torch.Tensor` of shape `(B, L)`, *optional*): Weights of the labels, place for place.
            kwargs: Those of [`SAILViTVLMModel`]; `shift_labels` (`torch.LongTensor` of shape `(B, L)`), the labels
                moved one place to the left already, and weights with them, when `labels` only says that a loss is
                wanted; `label_smoothing` (`float`), as in `torch.nn.functional.cross_entropy`.

        Returns:
            [`SAILViTCausalLMOutput`], the loss in fp32.
        """
        # Not named above: the Trainer takes every argument that is called labels for one that a batch must have, and
        # gives no `eval_loss` without it.
        loss_options = {name: kwargs.pop(name, None) for name in ("shift_labels", "label_smoothing")}
        pictures_and_text = dict(
            input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, mm_encoder_outputs=mm_encoder_outputs,
        )  # fmt: skip
        outputs = self.model(**pictures_and_text, return_dict=True, **kwargs)
        if skip_logits and labels is None:
            raise ValueError("skip_logits leaves nothing to return without labels")
        loss, hidden = None, outputs.last_hidden_state
        logits = None if skip_logits else self._logits(hidden, logits_to_keep)
        if labels is not None:
            loss = self._loss(hidden, logits, labels, num_items_in_batch, loss_weights, **loss_options)
        result = SAILViTCausalLMOutput(
            loss, logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions,
            outputs.image_hidden_states,
        )  # fmt: skip
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return result if return_dict else result.to_tuple()

    def _logits(self, hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor = 0) -> torch.Tensor:
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return LogitTransform.of(self.config.text_config)(self.lm_head(hidden_states[:, keep]))

    def _loss(
        self,
        hidden_states: torch.Tensor,
        logits: torch.Tensor | None,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None,
        loss_weights: torch.Tensor | None,
        shift_labels: torch.Tensor | None,
        label_smoothing: float | None,
    ) -> torch.Tensor:
        smoothing = label_smoothing or 0.0
        if logits is not None and loss_weights is None and not smoothing:
            return self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.text_config.vocab_size,
                num_items_in_batch=num_items_in_batch,
                shift_labels=shift_labels,
            )
        positions: LearntPositions = learnt_positions(*shifted(labels, shift_labels, loss_weights))
        if logits is None:
            transform = LogitTransform.of(self.config.text_config)
            whole = self.tp_size in (None, 1)
            total = chunked_loss(self.lm_head, hidden_states, positions, transform, smoothing, whole)
        else:
            total = weighted_loss(logits, positions, smoothing)
        return mean_loss(total, positions, num_items_in_batch)


SAILViTVLMModel.register_for_auto_class("AutoModel")
SAILViTForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["SAILViTForConditionalGeneration", "SAILViTVLMModel", "SAILViTVLMPreTrainedModel"]
