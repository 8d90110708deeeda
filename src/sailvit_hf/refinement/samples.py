# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What the Trainer does with its data set: samples encoded and replaced, streams split and resumed, passes counted.

Relied on: for a data set with a length accelerate gives every process as many batches, by taking the sampler's by
turns (`BatchSamplerShard`). For an iterable one it would read everything in the first process and cut batches along
their first dimension (`dispatch_batches`), which is not that of the tiles; or encode every sample in every process
(`IterableDatasetShard`). So our streams are read by the numbers of their samples, and accelerate is told of one
process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import ConcatDataset, DataLoader, IterableDataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.encoding import EncodedSamples, EncodedStream, LaneSamples
from ..data.mixture import Mixture, Part, StreamMixture
from ..data.replacement import WithReplacements
from ..data.rows import load_conversations
from ..data.streams import ConversationStream, IndexedSource
from .processes import PassBatches, StreamTurns, one_process_s

if TYPE_CHECKING:
    from .arguments import RefinementArguments
    from .recipes.recipe import Source
    from .trainer import RefinementTrainer


def by_index(dataset: Any) -> bool:
    """Whether a data set has a length and indices."""
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def encoded_dataset(dataset: Any, processor: Any, args: RefinementArguments) -> Any:
    """A data set of rows as one of encoded samples, those that cannot be used replaced.

    One that is encoded already, and any if the processor encodes whole batches only, is left as it is, but for the
    replacement.
    """
    options: dict[str, Any] = {
        "max_length": args.max_length,
        "overlong": args.overlong_samples,
        "max_image_tokens": args.max_image_tokens,
        "match_extension": args.match_image_extension,
    }
    able = hasattr(processor, "encode_conversation") and hasattr(processor, "pad_conversations")
    if by_index(dataset):
        if able and not isinstance(dataset, EncodedSamples):
            dataset = EncodedSamples(dataset, processor, **options)
        return WithReplacements(dataset, args.bad_sample_limit)
    iterable = isinstance(dataset, (IterableDataset, StreamMixture)) or hasattr(dataset, "num_shards")
    if able and iterable and not isinstance(dataset, EncodedStream):
        return EncodedStream(dataset, processor, limit=args.bad_sample_limit, **options)
    return dataset


def raw_rows(dataset: Any) -> Any:
    """The data set that was given, without what encodes and replaces its samples."""
    while isinstance(dataset, (WithReplacements, EncodedSamples)):
        dataset = dataset.dataset
    return dataset


def stream_loader(samples: LaneSamples, trainer: RefinementTrainer) -> Any:
    """The data loader of a stream, whose processes and workers each read lanes of their own."""
    args = trainer.args
    workers = args.dataloader_num_workers
    first = trainer.data_state.samples
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=StreamTurns(first, args.train_batch_size, args.world_size, args.process_index),
        collate_fn=trainer.data_collator,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor if workers else None,
        multiprocessing_context=args.dataloader_multiprocessing_context if workers else None,
    )
    return one_process_s(loader, args.device)


def open_source(source: Source, seed: int = 0, match_extension: bool = True) -> Any:
    """The conversations of a recipe's source that is not the demo world: by index, or as a stream.

    Raises:
        SailvitError: it cannot be read; of local files without streaming every line was looked at.
    """
    if source.messages is not None:
        from ..data.conversations import load_messages

        return load_messages(source.messages, source.image_root, match_extension=match_extension)
    dataset = source.dataset
    assert dataset is not None
    options: dict[str, Any] = {
        name: getattr(dataset, name) for name in ("format", "image_root", "split", "name", "revision")
    }
    if not dataset.streaming:
        return load_conversations(dataset.path, **options)
    if dataset.shuffle_buffer is not None:
        options["shuffle_buffer"] = dataset.shuffle_buffer
    return ConversationStream(dataset.path, max_samples=source.max_samples, seed=seed, **options)


def join_sources(sources: Sequence[Source], parts: Sequence[Any], seed: int = 0, samples: int | None = None) -> Any:
    """The data sets of a recipe's sources as one: mixed if one of them is a stream or says how much of it to use, or
    if `samples` says how many there are in a pass."""
    if any(source.streaming for source in sources):
        streams = [
            part if source.streaming else IndexedSource(part, source.max_samples, seed)
            for source, part in zip(sources, parts, strict=True)
        ]
        given = zip(streams, sources, strict=True)
        return StreamMixture([Part(stream, source.weight, None, source.epochs) for stream, source in given], seed)
    if samples is not None or any(source.mixed for source in sources):
        amounts = [
            Part(part, source.weight, source.max_samples, source.epochs)
            for source, part in zip(sources, parts, strict=True)
        ]
        return Mixture(amounts, seed, samples)
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def source_name(source: Source) -> str:
    """What the lineage calls a source that is not the demo world."""
    if source.dataset is None:
        return str(source.messages)
    revision = f"@{source.dataset.revision}" if source.dataset.revision else ""
    return f"{source.dataset.path}{revision}"


class DataPlace(TrainerCallback):
    """Tells the data set which pass it is, and the data loader how many of its batches a resumed run has trained on.

    The Trainer counts and skips those; nothing of them is made.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        batches = getattr(kwargs["train_dataloader"], "batch_sampler", None)
        if not isinstance(batches, PassBatches | StreamTurns):
            return
        steps = state.max_steps
        if isinstance(batches, PassBatches):
            steps = max(1, -(-len(batches) // args.gradient_accumulation_steps))
        epoch, step = divmod(state.global_step, steps)
        batches.pass_over(epoch, 0 if args.ignore_data_skip else step * args.gradient_accumulation_steps)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if by_index(self.dataset) and hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int((state.epoch or 0) + 1e-6))
