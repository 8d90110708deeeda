# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The processor of SAILViT's vision-language model: chats with pictures to tensors, and the labels to learn from."""

from typing import Any

import numpy as np
import torch
from transformers.processing_utils import MultiModalData, ProcessorMixin

# Special tokens of SAIL-VL2's tokenizer. The template marks each assistant answer together with its stop token, so
# that exactly these are learnt.
IMAGE_TOKEN, IMAGE_START_TOKEN, IMAGE_END_TOKEN = "<IMG_CONTEXT>", "<img>", "</img>"
TURN_START_TOKEN, TURN_END_TOKEN = "<|im_start|>", "<|im_end|>"
IGNORE_INDEX = -100

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- set parts = [message['content']] if message['content'] is string else message['content'] -%}"
    "{%- set ns = namespace(text='') -%}"
    "{%- for part in parts -%}"
    "{%- if part is string -%}{%- set ns.text = ns.text + part -%}"
    "{%- elif part['type'] == 'image' -%}{%- set ns.text = ns.text + '<img><IMG_CONTEXT></img>\\n' -%}"
    "{%- else -%}{%- set ns.text = ns.text + part['text'] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- ns.text + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- ns.text + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class SAILViTProcessor(ProcessorMixin):
    r"""
    Image processor and tokenizer in one, for chats with any number of pictures.

    A picture in a prompt reads `<img>`, then one `<IMG_CONTEXT>` per token of the connector's output, then `</img>`.

    Args:
        image_processor ([`SAILViTImageProcessorPil`] or another): Prepares the pictures.
        tokenizer ([`~transformers.PreTrainedTokenizerFast`]): Must know the image tokens; see [`from_parts`].
        patch_size (`int`, *optional*, defaults to 14): Patch side of the vision tower in pixels.
        downsample_ratio (`float`, *optional*, defaults to 0.5): Pixel shuffle of the connector.
        image_token (`str`, *optional*, defaults to `"<IMG_CONTEXT>"`): The placeholder.
        chat_template (`str`, *optional*): Jinja template; ours (ChatML) when not given.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 14,
        downsample_ratio: float = 0.5,
        image_token: str = IMAGE_TOKEN,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.patch_size = patch_size
        self.downsample_ratio = downsample_ratio
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if self.image_token_id is None or self.image_token_id == tokenizer.unk_token_id:
            raise ValueError(
                f"The tokenizer does not know the image token {image_token!r}; build the processor with "
                "SAILViTProcessor.from_parts, which adds it."
            )
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @classmethod
    def from_parts(
        cls, image_processor: Any, tokenizer: Any, patch_size: int, downsample_ratio: float = 0.5, **kwargs: Any
    ) -> "SAILViTProcessor":
        """Build a processor from any tokenizer, adding the special tokens that it lacks (once).

        The language model's embeddings must then be resized to `len(processor.tokenizer)` rows or more.
        """
        wanted = [IMAGE_START_TOKEN, IMAGE_END_TOKEN, kwargs.get("image_token", IMAGE_TOKEN)]
        if kwargs.get("chat_template") is None:
            wanted += [TURN_START_TOKEN, TURN_END_TOKEN]
        known = tokenizer.get_vocab()
        missing = [token for token in wanted if token not in known]
        if missing:
            tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
        return cls(image_processor, tokenizer, patch_size=patch_size, downsample_ratio=downsample_ratio, **kwargs)

    def _tokens_per_image(self, height: int, width: int) -> int:
        """As many as the connector yields: what is less than a patch is not seen, what is less than a token counts."""
        merge = round(1 / self.downsample_ratio)
        rows, columns = height // self.patch_size, width // self.patch_size
        return -(-rows // merge) * -(-columns // merge)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """The placeholder of picture `image_idx`, as often as the connector yields tokens for it."""
        shape = image_inputs["pixel_values"][image_idx].shape
        if len(shape) != 3:
            raise ValueError(
                f"{type(self.image_processor).__name__} gives an array of shape {tuple(shape)} for a picture, not "
                "(C, H, W); use an image processor that resizes to a fixed size, such as SAILViTImageProcessorPil."
            )
        height, width = shape[-2:]
        return self.image_token * self._tokens_per_image(height, width)

    def _get_num_multimodal_tokens(
        self, image_sizes: list[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """How many placeholders pictures of these (height, width) need; serving engines plan their memory with it."""
        if image_sizes is None:
            return MultiModalData()
        known = self.image_processor.valid_kwargs.__annotations__
        kwargs = {name: value for name, value in kwargs.items() if name in known}
        counts = {}
        for height, width in set(map(tuple, image_sizes)):
            # The image processor itself decides: it may be any, with any settings.
            blank = np.zeros((height, width, 3), dtype=np.uint8)
            rows, columns = self.image_processor(blank, **kwargs)["pixel_values"][0].shape[-2:]
            counts[height, width] = self._tokens_per_image(rows, columns)
        tokens = [counts[height, width] for height, width in image_sizes]
        return MultiModalData(num_image_tokens=tokens, num_image_patches=[1] * len(tokens))

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> list[str]:
        """Save all parts. The map of the code files is written, but does not stay on the objects that were saved."""
        parts = (self, self.image_processor)
        before = [dict(getattr(part, "auto_map", None) or {}) for part in parts]
        files = super().save_pretrained(save_directory, **kwargs)
        for part, auto_map in zip(parts, before, strict=True):
            vars(part).pop("auto_map", None)
            if auto_map:
                part.auto_map = auto_map
        return files

    def encode_conversations(
        self,
        conversations: list[list[dict[str, Any]]],
        images: list[list[Any]] | None = None,
        max_length: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Turn conversations into a training batch.

        Args:
            conversations: Chats, each a list of messages with `role` and `content` (a string, or a list of parts of
                type `"text"` or `"image"`).
            images: For each chat the pictures of its image parts, in reading order.
            max_length: Longest chat allowed, in tokens.

        Returns:
            `input_ids`, `attention_mask` and `labels`, int64 of shape `(B, L)`, padded on the right; labels are -100
            except on the assistant's answers and the stop tokens that end them. `pixel_values`, float32 of shape
            `(pictures, 3, H, W)`, unless no chat has a picture.

        Raises:
            ValueError: if a chat's pictures are not as many as its image parts, or a chat is longer than `max_length`
                (chats are never cut: a cut could fall into a picture).
        """
        conversations = list(conversations)
        images = [[] for _ in conversations] if images is None else list(images)
        for index, (chat, pictures) in enumerate(zip(conversations, images, strict=True)):
            places = _image_parts(chat)
            if places != len(pictures):
                raise ValueError(
                    f"Conversation {index} of the batch has {places} image parts but {len(pictures)} pictures; "
                    "give one picture for each part of type 'image'."
                )
        # Lists, not tensors: the mask is made by a loop over the tokens, which is slow on a tensor's elements.
        batch = self.apply_chat_template(
            [_with_pictures(chat, pictures) for chat, pictures in zip(conversations, images, strict=True)],
            tokenize=True,
            return_dict=True,
            return_tensors=None,
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "padding_side": "right", "return_token_type_ids": False},
        )
        tensors = {key: torch.tensor(batch[key]) for key in ("input_ids", "attention_mask")}
        if any(images):
            tensors["pixel_values"] = torch.from_numpy(np.asarray(batch["pixel_values"]))
        answers = torch.tensor(batch["assistant_masks"], dtype=torch.bool)
        tensors["labels"] = tensors["input_ids"].masked_fill(~answers, IGNORE_INDEX)
        longest = int(tensors["attention_mask"].sum(dim=1).max())
        if max_length is not None and longest > max_length:
            raise ValueError(
                f"A conversation of the batch has {longest} tokens, more than max_length={max_length}; "
                "leave it out of the data or raise max_length."
            )
        return tensors


def _image_parts(chat: list[dict[str, Any]]) -> int:
    contents = (message["content"] for message in chat if not isinstance(message["content"], str))
    return sum(part["type"] == "image" for content in contents for part in content)


def _with_pictures(chat: list[dict[str, Any]], pictures: list[Any]) -> list[dict[str, Any]]:
    """The chat with its pictures in its image parts, where every version of transformers looks for them."""
    rest = iter(pictures)
    filled = []
    for message in chat:
        content = message["content"]
        if not isinstance(content, str):
            content = [{"type": "image", "image": next(rest)} if part["type"] == "image" else part for part in content]
        filled.append({**message, "content": content})
    return filled


SAILViTProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["SAILViTProcessor"]
