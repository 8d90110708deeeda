# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The processor of SAILViT's vision-language model: chats with pictures to tensors, and the labels to learn from."""

from .versions_sailvit import check_transformers  # noqa: F401  # first, or another import fails in worse words

# isort: split
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
        """The placeholder of picture `image_idx`, as often as the connector yields tokens for all its tiles."""
        tiles = [int(count) for count in image_inputs["num_tiles"]] if "num_tiles" in image_inputs else None
        first = image_idx if tiles is None else sum(tiles[:image_idx])
        shape = image_inputs["pixel_values"][first].shape
        if len(shape) != 3:
            raise ValueError(
                f"{type(self.image_processor).__name__} gives an array of shape {tuple(shape)} for a picture, not "
                "(C, H, W); use an image processor that resizes to a fixed size, such as SAILViTImageProcessorPil."
            )
        height, width = shape[-2:]
        return self.image_token * (self._tokens_per_image(height, width) * (1 if tiles is None else tiles[image_idx]))

    @property
    def unused_input_names(self) -> list[str]:
        """What the image processor says for the placeholders, and the model does not need."""
        return ["num_tiles"]

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
            counts[height, width] = self._tokens_and_tiles(height, width, kwargs)
        found = [counts[height, width] for height, width in image_sizes]
        return MultiModalData(
            num_image_tokens=[tokens for tokens, _ in found], num_image_patches=[tiles for _, tiles in found]
        )

    def _tokens_and_tiles(self, height: int, width: int, kwargs: dict[str, Any]) -> tuple[int, int]:
        """Placeholders and tiles of a picture of this size."""
        size = kwargs.get("size", self.image_processor.size)
        size = size if isinstance(size, dict) else vars(size)
        if hasattr(self.image_processor, "get_number_of_tiles") and size.get("height") and size.get("width"):
            resizes = kwargs.get("do_resize", self.image_processor.do_resize)
            crops = kwargs.get("do_center_crop", self.image_processor.do_center_crop)
            if resizes and not crops:
                tiles = self.image_processor.get_number_of_tiles(height, width, kwargs)
                return tiles * self._tokens_per_image(size["height"], size["width"]), tiles
        # The image processor itself decides: it may be any, with any settings.
        blank = np.zeros((height, width, 3), dtype=np.uint8)
        rows, columns = self.image_processor(blank, **kwargs)["pixel_values"][0].shape[-2:]
        return self._tokens_per_image(rows, columns), 1

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The values as a dictionary, in which `auto_map` names a part's own code only."""
        # transformers gives the parts the map of this class, too. An image processor that was read from there and is
        # saved beside a vision tower alone would name a file that is not there.
        values = super().to_dict(**kwargs)
        part = values.get("image_processor")
        if isinstance(part, dict) and "auto_map" in part:
            rest = {key: value for key, value in part["auto_map"].items() if key != "AutoProcessor"}
            del part["auto_map"]
            if rest:
                part["auto_map"] = rest
        return values

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
        batch = self.apply_chat_template(
            [_with_pictures(chat, pictures) for chat, pictures in zip(conversations, images, strict=True)],
            tokenize=True,
            return_dict=True,
            return_tensors=None,
            processor_kwargs={"padding": True, "padding_side": "right", "return_token_type_ids": False},
        )
        tensors = {key: torch.tensor(batch[key]) for key in ("input_ids", "attention_mask")}
        if any(images):
            tensors["pixel_values"] = torch.from_numpy(np.asarray(batch["pixel_values"]))
        answers = self._answers(conversations, tensors["input_ids"], tensors["attention_mask"].bool())
        tensors["labels"] = tensors["input_ids"].masked_fill(~answers, IGNORE_INDEX)
        longest = int(tensors["attention_mask"].sum(dim=1).max())
        if max_length is not None and longest > max_length:
            raise ValueError(
                f"A conversation of the batch has {longest} tokens, more than max_length={max_length}; "
                "leave it out of the data or raise max_length."
            )
        return tensors

    def _answers(
        self, conversations: list[list[dict[str, Any]]], input_ids: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        """Which tokens the assistant's answers are, bool of shape `(B, L)`.

        The tokenizer is asked, about texts with one token for a picture: older versions of transformers look for the
        answers at these places in texts with all of a picture's tokens, where they are not.

        Raises:
            ValueError: if the two texts differ in more than the pictures' tokens.
        """
        short = self.tokenizer.apply_chat_template(
            conversations,
            chat_template=self.chat_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        answers = torch.zeros_like(real)
        for row, ids in enumerate(input_ids):
            tokens, marks = torch.tensor([short["input_ids"][row], short["assistant_masks"][row]])
            tokens, marks = tokens[tokens != self.image_token_id], marks[tokens != self.image_token_id]
            # Pictures aside, the tokens are the same but for what the tokenizer puts around a text.
            places = ((ids != self.image_token_id) & real[row]).nonzero()[:, 0]
            found = []
            if len(tokens) <= len(places):
                found = (ids[places].unfold(0, len(tokens), 1) == tokens).all(dim=1).nonzero()[:1, 0].tolist()
            if not found:
                raise ValueError(
                    f"Conversation {row} of the batch reads otherwise with its pictures than without them, so its "
                    "answers cannot be found; use a chat template that writes a picture as one image token."
                )
            start = found[0]
            answers[row, places[start : start + len(tokens)]] = marks.bool()
        return answers


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
