# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The processor of SAILViT's vision-language model: chats with pictures to tensors, and the labels to learn from."""

from .versions_sailvit import check_transformers  # noqa: F401  # first, or another import fails in worse words

# isort: split
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers.processing_utils import ImagesKwargs, MultiModalData, ProcessingKwargs, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from .chat_templates_sailvit import (
    CHAT_TEMPLATE,
    IMAGE_END_TOKEN,
    IMAGE_START_TOKEN,
    IMAGE_TOKEN,
    TURN_END_TOKEN,
    TURN_START_TOKEN,
    choose_template,
)
from .conversations_sailvit import (
    ConversationSize,
    ImageBudgetError,
    answers_by_prefix,
    as_tensors,
    check_tools,
    expand_videos,
    find_tokens,
    flat,
    joined,
    levelled,
    lowered,
    marked_tokens,
    read_conversation,
    size_of,
)

IGNORE_INDEX = -100
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


class SAILViTProcessorImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """
    max_image_tokens (`int`, *optional*): Most tokens that the pictures of one text may have together.
    """

    max_image_tokens: int | None


class SAILViTProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """What a call of [`SAILViTProcessor`] takes."""

    _defaults = {}  # type: ignore[var-annotated]  # older versions of transformers look for it
    images_kwargs: SAILViTProcessorImagesKwargs


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
        image_token_budget (`int`, *optional*): Most tokens that the pictures of one chat may have together. Over it,
            the picture with the most is cut into fewer tiles, until they fit. `max_image_tokens` of a call goes first.
        max_frames (`int`, *optional*): Most frames taken of a video, at even distances.
    """

    valid_processor_kwargs = SAILViTProcessorKwargs

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 14,
        downsample_ratio: float = 0.5,
        image_token: str = IMAGE_TOKEN,
        chat_template: str | None = None,
        image_token_budget: int | None = None,
        max_frames: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.patch_size = patch_size
        self.downsample_ratio = downsample_ratio
        self.image_token_budget = image_token_budget
        self.max_frames = max_frames
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

        The language model keeps its own prompt format: the chat template is `choose_template`'s, unless one is given.
        Its embeddings must then be resized to `len(processor.tokenizer)` rows or more.

        Raises:
            ValueError: if the tokenizer's chat template cannot be given pictures.
        """
        image_token = kwargs.get("image_token", IMAGE_TOKEN)
        wanted = [IMAGE_START_TOKEN, IMAGE_END_TOKEN, image_token]
        if kwargs.get("chat_template") is None:
            kwargs["chat_template"] = choose_template(tokenizer, image_token)
            if tokenizer.chat_template is None and TURN_START_TOKEN in kwargs["chat_template"]:
                wanted += [TURN_START_TOKEN, TURN_END_TOKEN]
        known = tokenizer.get_added_vocab()
        missing = [token for token in wanted if token not in known]
        if missing:
            tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
        if tokenizer.pad_token is None:
            padding = "<|finetune_right_pad_id|>"
            tokenizer.pad_token = padding if padding in tokenizer.get_added_vocab() else tokenizer.eos_token
        return cls(image_processor, tokenizer, patch_size=patch_size, downsample_ratio=downsample_ratio, **kwargs)

    # Pictures

    def _tokens_per_image(self, height: int, width: int) -> int:
        """As many as the connector yields: what is less than a patch is not seen, what is less than a token counts."""
        merge = round(1 / self.downsample_ratio)
        rows, columns = height // self.patch_size, width // self.patch_size
        return -(-rows // merge) * -(-columns // merge)

    def _tokens_of_images(self, image_inputs: Any) -> list[int]:
        """How many tokens each picture has, from what the image processor gives.

        Raises:
            ValueError: if that is not an array (C, H, W) for each tile.
        """
        pixels, counts = image_inputs["pixel_values"], image_inputs.get("num_tiles")
        tokens = []
        for tile in pixels:
            if len(tile.shape) != 3:
                raise ValueError(
                    f"{type(self.image_processor).__name__} gives an array of shape {tuple(tile.shape)} for a "
                    "picture, not (C, H, W); use an image processor that resizes to a fixed size, such as "
                    "SAILViTImageProcessorPil."
                )
            tokens.append(self._tokens_per_image(*tile.shape[-2:]))
        if counts is None:
            return tokens
        ends = np.cumsum([int(count) for count in counts])
        return [sum(tokens[end - int(count) : end]) for end, count in zip(ends, counts, strict=True)]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """The placeholder of picture `image_idx`, as often as the connector yields tokens for all its tiles."""
        return self.image_token * self._tokens_of_images(image_inputs)[image_idx]

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """As transformers', with the pictures of each text in a list of their own, for the budget is a text's.

        Raises:
            ValueError: if there are not as many pictures as placeholders.
        """
        images, text, *rest = super().prepare_inputs_layout(images=images, text=text, **kwargs)
        if images is not None and isinstance(text, list) and all(isinstance(sample, str) for sample in text):
            pictures = list(flat(images))
            counts = [sample.count(self.image_token) for sample in text]
            if sum(counts) != len(pictures):
                raise ValueError(
                    f"The total number of {self.image_token} tokens in the prompts should be the same as the number "
                    f"of images passed. Found {sum(counts)} {self.image_token} tokens and {len(pictures)} images."
                )
            rest_of = iter(pictures)
            images = [[next(rest_of) for _ in range(count)] for count in counts]
        return images, text, *rest

    def _process_images(
        self, images: Any, max_image_tokens: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], list[str]]:
        nested = isinstance(images, (list, tuple)) and any(isinstance(group, (list, tuple)) for group in images)
        groups = [list(flat(group)) for group in images] if nested else [list(flat(images))]
        inputs = self._image_inputs(groups, max_image_tokens, kwargs)
        return inputs, [self.image_token * tokens for tokens in self._tokens_of_images(inputs)]

    def _image_inputs(self, groups: list[list[Any]], budget: int | None, kwargs: dict[str, Any]) -> Any:
        """What the image processor gives for all pictures, those of each group within the budget."""
        pictures = [picture for group in groups for picture in group]
        budget = self.image_token_budget if budget is None else budget
        if budget is None:
            return self.image_processor(pictures, **kwargs)
        limits: list[int | None] = []
        for group in groups:
            limits += self._limits([size_of(picture) for picture in group], budget, kwargs)
        parts = []
        for limit, run in groupby(zip(limits, pictures, strict=True), key=lambda pair: pair[0]):
            found = self.image_processor([picture for _, picture in run], **self._with_limit(kwargs, limit))
            parts.append((found["pixel_values"], found.get("num_tiles")))
        if len(parts) == 1:
            return found
        whole: dict[str, Any] = {"pixel_values": joined([pixels for pixels, _ in parts])}
        if any(counts is not None for _, counts in parts):
            whole["num_tiles"] = joined([[1] * len(pixels) if n is None else n for pixels, n in parts])
        return whole

    def _setting(self, name: str, kwargs: dict[str, Any], default: int) -> int:
        return int(kwargs.get(name) or getattr(self.image_processor, name, None) or default)

    def _native(self, kwargs: dict[str, Any]) -> tuple[int, int, int] | None:
        """Least and most pixels of a picture at its own resolution, and those of a step between; None for others."""
        size = kwargs.get("size") or getattr(self.image_processor, "size", None) or {}
        size = size if isinstance(size, dict) else vars(size)
        if not (size.get("min_pixels") and size.get("max_pixels")):
            return None
        return size["min_pixels"], size["max_pixels"], self._setting("size_divisor", kwargs, 1) ** 2

    def _with_limit(self, kwargs: dict[str, Any], limit: int | None) -> dict[str, Any]:
        """The image processor's settings, with fewer tiles, or fewer pixels at native resolution."""
        if limit is None:
            return kwargs
        native = self._native(kwargs)
        if native is not None:
            least, _, step = native
            return {**kwargs, "size": {"min_pixels": min(least, limit * step), "max_pixels": limit * step}}
        return {**kwargs, "max_tiles": limit, "min_tiles": min(limit, self._setting("min_tiles", kwargs, 1))}

    def _limits(
        self, sizes: Sequence[tuple[int, int]], budget: int | None, kwargs: dict[str, Any]
    ) -> list[int | None]:
        """A limit for each picture of a chat, as `_with_limit` takes it, None for the image processor's own."""
        if budget is None:
            return [None] * len(sizes)

        def counts(index: int, limit: int | None) -> tuple[int, int]:
            return self._tokens_and_tiles(*sizes[index], self._with_limit(kwargs, limit))

        native = self._native(kwargs)
        if native is not None:
            _, most, step = native
            level = levelled(lambda level: sum(counts(i, level)[0] for i in range(len(sizes))), most // step, budget)
            return [level] * len(sizes)
        return lowered(counts, sizes, self._setting("max_tiles", kwargs, 1), budget)

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
        found = self._counted(image_sizes, kwargs.get("max_image_tokens"), kwargs)
        return MultiModalData(
            num_image_tokens=[tokens for tokens, _ in found], num_image_patches=[tiles for _, tiles in found]
        )

    def _counted(
        self, sizes: Sequence[tuple[int, int]], budget: int | None, kwargs: dict[str, Any]
    ) -> list[tuple[int, int]]:
        """Tokens and tiles of the pictures of one chat, of these (height, width)."""
        known = self.image_processor.valid_kwargs.__annotations__
        kwargs = {name: value for name, value in kwargs.items() if name in known}
        sizes = [(int(height), int(width)) for height, width in sizes]
        limits = self._limits(sizes, self.image_token_budget if budget is None else budget, kwargs)
        counts: dict[Any, tuple[int, int]] = {}
        for key in set(zip(sizes, limits, strict=True)):
            (height, width), limit = key
            counts[key] = self._tokens_and_tiles(height, width, self._with_limit(kwargs, limit))
        return [counts[key] for key in zip(sizes, limits, strict=True)]

    def _tokens_and_tiles(self, height: int, width: int, kwargs: dict[str, Any]) -> tuple[int, int]:
        """Placeholders and tiles of a picture of this size."""
        if hasattr(self.image_processor, "get_output_size"):
            tiles = int(self.image_processor.get_number_of_tiles(height, width, kwargs))
            size = self.image_processor.get_output_size(height, width, kwargs)
            return tiles * self._tokens_per_image(*size), tiles
        # The image processor itself decides: it may be any, with any settings.
        blank = np.zeros((height, width, 3), dtype=np.uint8)
        found = self.image_processor([blank], **kwargs)
        return sum(self._tokens_of_images(found)), len(found["pixel_values"])

    # Chats

    def _template(self, given: str | None = None) -> str:
        """A chat template by its name, by its text, or the processor's own."""
        named = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        return named["default"] if given is None else named.get(given, given)

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """As transformers', for videos, too (lists of pictures), and with exact marks of the assistant's tokens.

        Raises:
            ValueError: if a text holds the placeholder of pictures, or a video cannot be read.
        """
        template = self._template(chat_template)
        batched = bool(conversation) and not isinstance(conversation[0], dict) and _is_chat(conversation[0])
        chats = list(conversation) if batched else [conversation]
        chats = [
            expand_videos(chat, self.image_token, self.max_frames) if isinstance(chat, (list, tuple)) else chat
            for chat in chats
        ]
        check_tools(template, chats, kwargs.get("tools"))
        # transformers writes into it.
        kwargs["processor_kwargs"] = dict(kwargs.get("processor_kwargs") or {})
        mask = kwargs.get("tokenize") and kwargs.get("return_dict") and kwargs.get("return_assistant_tokens_mask")
        if not mask:
            return super().apply_chat_template(chats if batched else chats[0], chat_template, **kwargs)
        # Older versions of transformers look for the answers in texts with all of a picture's tokens at the places
        # that they have in texts without.
        kwargs["return_assistant_tokens_mask"] = False
        inputs = super().apply_chat_template(chats if batched else chats[0], chat_template, **kwargs)
        variables = {name: kwargs[name] for name in kwargs if name not in _NOT_FOR_TEMPLATES}
        marks = []
        for index, (chat, row) in enumerate(zip(chats, inputs["input_ids"], strict=True)):
            texts = [{name: value for name, value in message.items() if value is not None} for message in chat]
            marks.append(self._marks(texts, np.asarray(row), template, variables, f"Conversation {index}"))
        tensors = isinstance(inputs["input_ids"], torch.Tensor)
        inputs["assistant_masks"] = torch.tensor(np.array(marks)) if tensors else [list(map(int, m)) for m in marks]
        return inputs

    def _marks(
        self, chat: list[dict[str, Any]], row: np.ndarray, template: str, variables: dict[str, Any], name: str
    ) -> np.ndarray:
        """1 for each of the row's tokens that is part of an answer, int64 of shape `(L,)`.

        Raises:
            ValueError: if the row is not the chat.
        """
        tokens, learnt = self._text_tokens(chat, template, variables)
        tokens, learnt = tokens[tokens != self.image_token_id], learnt[tokens != self.image_token_id]
        places = np.flatnonzero(row != self.image_token_id)
        start = find_tokens(row[places], tokens)
        if start is None:
            raise ValueError(
                f"{name} reads otherwise with its pictures than without them, so its answers cannot be found; do not "
                "cut texts, and use a chat template that writes a picture as one image token."
            )
        marks = np.zeros(len(row), dtype=np.int64)
        marks[places[start : start + len(tokens)]] = learnt
        return marks

    def _text_tokens(
        self, chat: list[dict[str, Any]], template: str | None = None, variables: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of a chat with one placeholder for a picture, and which of them are to be learnt.

        Returns:
            int64 and bool of shape `(L,)`.

        Raises:
            ValueError: if the tokenizer cannot tell where its tokens stand, or answers cannot be found.
        """
        template = template or self._template()
        values = {**self.tokenizer.special_tokens_map, **(variables or {})}

        def render(messages: list[dict[str, Any]], asks: bool) -> str:
            asking = {**values, "add_generation_prompt": asks}
            return render_jinja_template([messages], chat_template=template, **asking)[0][0]

        marked = _MARKS.search(template) is not None
        texts, spans = render_jinja_template(
            [chat], chat_template=template, return_assistant_tokens_mask=marked, **values
        )
        text = texts[0]
        spans = spans[0] if marked else answers_by_prefix(render, chat, text, [*self.tokenizer.get_added_vocab()])
        # As transformers': a text that begins with the tokenizer's first token gets no second one.
        bos = self.tokenizer.bos_token
        try:
            encoded = self.tokenizer(
                text,
                add_special_tokens=not (bos is not None and text.startswith(bos)),
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        except NotImplementedError as error:
            raise ValueError(
                f"{type(self.tokenizer).__name__} cannot tell where its tokens stand in a text; use a fast tokenizer."
            ) from error
        ids = np.asarray(encoded["input_ids"], dtype=np.int64)
        return ids, marked_tokens(encoded["offset_mapping"], spans) & (ids != self.image_token_id)

    @property
    def stop_token_id(self) -> int | None:
        """The token that ends an answer in this prompt format; None where it is no special one."""
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        ids, learnt = self._text_tokens(chat)
        last = int(ids[learnt][-1]) if learnt.any() else None
        return last if last in self.tokenizer.get_added_vocab().values() else None

    def encode_conversation(
        self,
        messages: Sequence[dict[str, Any]],
        images: Sequence[Any] | None = None,
        *,
        max_image_tokens: int | None = None,
    ) -> dict[str, Any]:
        """Turn one chat into a training sample, without padding.

        Args:
            messages: The chat: messages with `role` and `content` (a string, or a list of parts of type `"text"`,
                `"image"` or `"video"`).
            images: The pictures of its image parts and of its videos' frames, in reading order; those inside the
                parts when not given.
            max_image_tokens: Most tokens that its pictures may have together; the processor's own when not given.

        Returns:
            `input_ids` and `labels`, int64 of shape `(L,)`; labels are -100 except on the assistant's answers and the
            stop tokens that end them. With pictures `pixel_values`, float32 of shape `(tiles, 3, H, W)` (a list of
            `(3, H, W)` when sizes differ), and `num_tiles`, int64 of shape `(pictures,)`.

        Raises:
            ImageBudgetError: if the pictures have more than `max_image_tokens` with one tile each.
            ValueError: if the pictures are not as many as their places, a text holds the placeholder, a part cannot
                be read, or answers cannot be found.
        """
        return self._encoded(messages, images, max_image_tokens, "The conversation")

    def _encoded(
        self, messages: Sequence[dict[str, Any]], images: Sequence[Any] | None, budget: int | None, name: str
    ) -> dict[str, Any]:
        chat, pictures = read_conversation(messages, images, self.image_token, self.max_frames, name)
        check_tools(self._template(), [chat])
        ids, learnt = self._placed(chat, len(pictures), name)
        sample: dict[str, Any] = {}
        if pictures:
            inputs = self._image_inputs([self.image_processor.fetch_images(pictures)], budget, {})
            repeats = np.ones_like(ids)
            repeats[ids == self.image_token_id] = self._tokens_of_images(inputs)
            ids, learnt = np.repeat(ids, repeats), np.repeat(learnt, repeats)
            sample["pixel_values"] = as_tensors(inputs["pixel_values"])
            counts = inputs.get("num_tiles")
            counts = [1] * len(pictures) if counts is None else [int(count) for count in counts]
            sample["num_tiles"] = torch.tensor(counts)
        input_ids = torch.from_numpy(ids)
        labels = input_ids.masked_fill(torch.from_numpy(~learnt), IGNORE_INDEX)
        return {"input_ids": input_ids, "labels": labels, **sample}

    def _placed(self, chat: list[dict[str, Any]], pictures: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        """As `_text_tokens`, for a chat that must have a placeholder for each picture."""
        ids, learnt = self._text_tokens(chat)
        found = int((ids == self.image_token_id).sum())
        if found != pictures:
            raise ValueError(
                f"{name} has {pictures} pictures, and its text {found} placeholders {self.image_token} for them; take "
                "these out of its texts, and use a chat template that writes every picture."
            )
        return ids, learnt

    def count_tokens(
        self,
        messages: Sequence[dict[str, Any]],
        image_sizes: Sequence[tuple[int, int]] = (),
        *,
        max_image_tokens: int | None = None,
    ) -> ConversationSize:
        """How many tokens `encode_conversation` gives, without any picture.

        Args:
            messages: The chat.
            image_sizes: Height and width of each picture, in reading order.
            max_image_tokens: As for `encode_conversation`.

        Raises:
            ValueError: as `encode_conversation`.
        """
        name = "The conversation"
        chat, sizes = read_conversation(messages, image_sizes, self.image_token, self.max_frames, name)
        ids, _ = self._placed(chat, len(sizes), name)
        counts = self._counted(sizes, max_image_tokens, {})
        image = sum(tokens for tokens, _ in counts)
        return ConversationSize(len(ids) - len(sizes), image, sum(tiles for _, tiles in counts))

    def pad_conversations(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join samples of `encode_conversation` into a batch.

        Returns:
            `input_ids`, `attention_mask` and `labels`, int64 of shape `(B, L)`, padded on the right.
            `pixel_values`, float32 of shape `(tiles, 3, H, W)` (a list of `(3, H, W)` when sizes differ), unless no
            sample has a picture.

        Raises:
            ValueError: if samples differ in length and the tokenizer has no padding token.
        """
        lengths = [len(sample["input_ids"]) for sample in samples]
        padding = self.tokenizer.pad_token_id
        if padding is None and len(set(lengths)) > 1:
            raise ValueError("The tokenizer has no padding token; set tokenizer.pad_token.")
        shape = (len(samples), max(lengths))
        input_ids = torch.full(shape, 0 if padding is None else padding, dtype=torch.int64)
        labels = torch.full(shape, IGNORE_INDEX, dtype=torch.int64)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            input_ids[row, :length] = sample["input_ids"]
            labels[row, :length] = sample["labels"]
            attention_mask[row, :length] = 1
        batch: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        if pixels:
            batch["pixel_values"] = joined(pixels)
        return batch

    def encode_conversations(
        self,
        conversations: list[list[dict[str, Any]]],
        images: list[list[Any]] | None = None,
        max_length: int | None = None,
    ) -> dict[str, Any]:
        """Turn conversations into a training batch.

        Args:
            conversations: Chats, each a list of messages as for `encode_conversation`.
            images: For each chat the pictures of its image parts, in reading order.
            max_length: Longest chat allowed, in tokens.

        Returns:
            As `pad_conversations`.

        Raises:
            ValueError: as `encode_conversation`, or if a chat is longer than `max_length` (chats are never cut: a cut
                could fall into a picture).
        """
        conversations = list(conversations)
        pictures: list[Any] = [None] * len(conversations) if images is None else list(images)
        samples = [
            self._encoded(chat, own, None, f"Conversation {index} of the batch")
            for index, (chat, own) in enumerate(zip(conversations, pictures, strict=True))
        ]
        longest = max(len(sample["input_ids"]) for sample in samples)
        if max_length is not None and longest > max_length:
            raise ValueError(
                f"A conversation of the batch has {longest} tokens, more than max_length={max_length}; "
                "leave it out of the data or raise max_length."
            )
        return self.pad_conversations(samples)

    # Files

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


# Arguments of `apply_chat_template` that no template reads.
_NOT_FOR_TEMPLATES = {
    "add_generation_prompt", "continue_final_message", "load_audio_from_video", "processor_kwargs", "return_dict",
    "return_assistant_tokens_mask", "return_tensors", "sanitize_control_tokens", "tokenize",
}  # fmt: skip


def _is_chat(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or hasattr(value, "messages")


SAILViTProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["ConversationSize", "ImageBudgetError", "SAILViTProcessor"]
