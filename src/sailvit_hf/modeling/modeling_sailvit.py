# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""SAILViT: the vision transformer (SAIL-VL2 report, arXiv 2509.14033; architecture and tensor names are AIMv2's)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_sailvit import SAILViTConfig
from .loading_sailvit import StrictPreTrainedModel


class SAILViTRMSNorm(nn.Module):
    """RMS norm in fp32, cast back, then scaled: the published order of operations."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # torch's own computes in fp32 whatever the input, and in one kernel where it has one; the weight comes after.
        return self.weight * F.rms_norm(hidden_states, self.weight.shape, None, self.eps)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


class SAILViTPatchifier(nn.Module):
    """Pictures (B, C, H, W) to normed patch embeddings (B, N, h), in row-major order."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.norm = SAILViTRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(pixel_values).flatten(2).transpose(1, 2))


def interpolation_weights(sizes: torch.Tensor, length: int, grid_size: int) -> torch.Tensor:
    """Matrices that resample `grid_size` values to each of `sizes`, as `F.interpolate` does (bicubic, antialiased).

    As matrices, because then pictures of several sizes go through at once, and because every device, `torch.compile`
    and every exporter knows a product; the antialiased resize is missing in some and not deterministic in others.

    Args:
        sizes (`torch.Tensor` of shape `(B,)`): How many values each picture needs, at least one.
        length (`int`): Rows of the matrices; those beyond a picture's size are zero.

    Returns:
        `torch.Tensor` of shape `(B, length, grid_size)`, fp32.
    """
    scale = (grid_size / sizes.float())[:, None, None]
    centers = (torch.arange(length, device=sizes.device, dtype=torch.float32) + 0.5)[None, :, None] * scale
    places = (torch.arange(grid_size, device=sizes.device, dtype=torch.float32) + 0.5)[None, None, :]
    distance = ((places - centers) / scale.clamp(min=1.0)).abs()
    # The cubic convolution kernel with a = -0.5.
    near = (1.5 * distance - 2.5) * distance.square() + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    weights = torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, 0.0))
    inside = torch.arange(length, device=sizes.device)[None, :, None] < sizes[:, None, None]
    return torch.where(inside, weights / weights.sum(-1, keepdim=True), 0.0)


class SAILViTPreprocessor(nn.Module):
    """Patch embeddings plus the learned position table, interpolated when the grid is not the native one."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.grid_size = config.image_size // config.patch_size
        self.patchifier = SAILViTPatchifier(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid_size**2, config.hidden_size))

    def position_table(self, rows: int, columns: int, patch_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Positions for a grid of `rows` x `columns` patches, `(1, rows * columns, h)`.

        At the native grid it is the table itself. With `patch_mask` `(B, rows, columns)` each picture has its own,
        `(B, rows * columns, h)`: for the smallest rectangle from the top left that holds all its patches.
        """
        if patch_mask is not None:
            heights, widths = _extent(patch_mask.any(2)), _extent(patch_mask.any(1))
        # Exported with free sizes there is no one native size to compare with: there it is interpolated, unchanged.
        elif statically_known_true(rows == self.grid_size) and statically_known_true(columns == self.grid_size):
            return self.pos_embed
        else:
            heights = self.pos_embed.new_full((1,), rows, dtype=torch.long)
            widths = self.pos_embed.new_full((1,), columns, dtype=torch.long)
        # In fp32 whatever the surroundings: positions are small numbers, and a native grid must come out unchanged.
        with torch.autocast(self.pos_embed.device.type, enabled=False):
            table = self.pos_embed.float().view(self.grid_size, self.grid_size, -1)
            table = torch.einsum("brg,gch->brch", interpolation_weights(heights, rows, self.grid_size), table)
            table = torch.einsum("bcg,brgh->brch", interpolation_weights(widths, columns, self.grid_size), table)
        return table.flatten(1, 2).to(self.pos_embed.dtype)

    def grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """Rows and columns of patches in pictures `(B, C, H, W)`; `ValueError` if they are not whole."""
        height, width = pixel_values.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"The picture is {height}x{width} pixels, not a multiple of the patch size {self.patch_size}; "
                "resize it with the image processor of this checkpoint."
            )
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixel_values: torch.Tensor, patch_mask: torch.Tensor | None = None) -> torch.Tensor:
        rows, columns = self.grid(pixel_values)
        if patch_mask is not None and patch_mask.shape != (pixel_values.shape[0], rows, columns):
            raise ValueError(
                f"patch_attention_mask has the shape {tuple(patch_mask.shape)}, but the pictures have "
                f"{(pixel_values.shape[0], rows, columns)} patches; give (pictures, rows, columns)."
            )
        return self.patchifier(pixel_values) + self.position_table(rows, columns, patch_mask)


def _extent(used: torch.Tensor) -> torch.Tensor:
    """How far each row of a boolean `(B, n)` reaches, `(B,)`; at least one."""
    return (used * torch.arange(1, used.shape[1] + 1, device=used.device)).amax(1).clamp(min=1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention: the reference for the fused kernels, and the one that can return its weights."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class SAILViTAttention(nn.Module):
    """Bidirectional self-attention with one fused qkv projection."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)
        self.proj_drop = nn.Dropout(config.projection_dropout)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch, length, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, length, 3, -1, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            is_causal=False,
            **kwargs,
        )
        return self.proj_drop(self.proj(output.reshape(batch, length, -1))), weights


class SAILViTMLP(nn.Module):
    """SwiGLU: `fc2(silu(fc1(x)) * fc3(x))`."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.fc3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(hidden_states)) * self.fc3(hidden_states))


class SAILViTBlock(GradientCheckpointingLayer):
    """One pre-norm block."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__()
        self.norm_1 = SAILViTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attn = SAILViTAttention(config)
        self.norm_2 = SAILViTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SAILViTMLP(config)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, weights = self.attn(self.norm_1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.norm_2(hidden_states)), weights


class SAILViTTransformer(nn.Module):
    """The blocks and the final norm; the published checkpoints call it `trunk`."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([SAILViTBlock(config) for _ in range(config.num_hidden_layers)])
        self.post_trunk_norm = SAILViTRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        depth: int | None = None,
        keep: Sequence[int] = (),
        keep_weights: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor], tuple[torch.Tensor, ...] | None]:
        """Run the first `depth` blocks; their output before the final norm, the states and weights to keep.

        State 0 is the embeddings, state i the output of block i - 1. Nothing else is kept: without gradients a long
        list of states would be most of the memory.
        """
        states = {0: hidden_states} if 0 in keep else {}
        attentions: tuple[torch.Tensor, ...] = ()
        if keep_weights:
            # The fused kernels of transformers return none, and say so when they are told.
            kwargs["output_attentions"] = True
        for index, block in enumerate(self.blocks[:depth], start=1):
            hidden_states, weights = block(hidden_states, attention_mask, **kwargs)
            if index in keep:
                states[index] = hidden_states
            if keep_weights and weights is not None:
                attentions += (weights,)
        return hidden_states, states, attentions if keep_weights else None


class SAILViTPreTrainedModel(StrictPreTrainedModel):
    """What all SAILViT models share: configuration, supported attention kernels, initialisation."""

    config: SAILViTConfig
    config_class = SAILViTConfig
    base_model_prefix = "sailvit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SAILViTBlock", "SAILViTPreprocessor"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _auto_classes = {
        "AutoConfig": "configuration_sailvit.SAILViTConfig",
        "AutoModel": "modeling_sailvit.SAILViTModel",
        "AutoBackbone": "modeling_sailvit.SAILViTBackbone",
        "AutoModelForImageClassification": "modeling_sailvit.SAILViTForImageClassification",
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Only functions of transformers.initialization: they leave tensors alone that were read from a checkpoint.
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init.normal_(module.weight, mean=0.0, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, SAILViTRMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, SAILViTPreprocessor):
            init.normal_(module.pos_embed, mean=0.0, std=std)


class SAILViTEncoder(SAILViTPreTrainedModel):
    """The network itself: what [`SAILViTModel`] and [`SAILViTBackbone`] are two faces of."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__(config)
        self.preprocessor = SAILViTPreprocessor(config)
        self.trunk = SAILViTTransformer(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.preprocessor.patchifier.proj

    def _encode(
        self, pixel_values: torch.Tensor, patch_attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor], tuple[torch.Tensor, ...] | None]:
        """Embed and run the trunk; see [`SAILViTTransformer`] for `kwargs` and what comes back."""
        attention_mask = None
        if patch_attention_mask is not None:
            patch_attention_mask = patch_attention_mask.to(device=pixel_values.device, dtype=torch.bool)
        hidden_states = self.preprocessor(pixel_values.to(self.dtype), patch_attention_mask)
        if patch_attention_mask is not None:
            # A picture without a single patch fills up a batch; it looks at its padding, not at nothing (NaN).
            empty = ~patch_attention_mask.any(dim=(1, 2), keepdim=True)
            attention_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=hidden_states,
                attention_mask=(patch_attention_mask | empty).flatten(1),
            )
        return self.trunk(hidden_states, attention_mask, **kwargs)

    def _wanted(self, output_hidden_states: bool | int | Sequence[int] | None) -> Sequence[int]:
        """Indices of the states to return: all, none, or those asked for by index (negative ones from the end)."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = range(self.config.num_hidden_layers + 1)
        if isinstance(output_hidden_states, bool):
            return states if output_hidden_states else ()
        asked = [output_hidden_states] if isinstance(output_hidden_states, int) else output_hidden_states
        return [index % len(states) for index in asked if -len(states) <= index < len(states)]

    def _listed(self, states: dict[int, torch.Tensor], wanted: Sequence[int]) -> tuple | None:
        """The states as transformers returns them: a place for each, `None` where it was not asked for."""
        if not wanted:
            return None
        return tuple(states[i] if i in wanted else None for i in range(self.config.num_hidden_layers + 1))


class SAILViTModel(SAILViTEncoder):
    r"""
    The SAILViT encoder, without any head.

    Example:

    ```python
    >>> import torch
    >>> from sailvit_hf import SAILViTConfig, SAILViTModel

    >>> model = SAILViTModel(SAILViTConfig.preset("tiny"))
    >>> model(torch.zeros(1, 3, 64, 64)).last_hidden_state.shape
    torch.Size([1, 64, 96])
    ```
    """

    def forward(
        self,
        pixel_values: torch.Tensor,
        patch_attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling | tuple:
        r"""
        Encode pictures.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): Pictures, normalised by the image processor; H and W
                any multiples of the patch size. The position table is interpolated to their grid.
            patch_attention_mask (`torch.Tensor` of shape `(B, rows, columns)`, *optional*): Which patches are part of
                the picture (`True`) and which are padding at the right and the bottom (`False`). A padded picture then
                has the features it has alone; those of its padding mean nothing.
            output_hidden_states (`bool`, *optional*): Return the embeddings and each block's output, the last one
                before the final norm.
            output_attentions (`bool`, *optional*): Return each block's attention weights (eager attention only).

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: `last_hidden_state` `(B, N, h)` after the
            final norm, patches in row-major order; `pooler_output` `(B, h)`, the mean of the picture's patches.

        Raises:
            ValueError: if a side of the pictures is not a multiple of the patch size, or the mask has another shape.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        want_weights = self.config.output_attentions if output_attentions is None else output_attentions
        wanted = self._wanted(output_hidden_states)
        hidden_states, states, attentions = self._encode(
            pixel_values, patch_attention_mask, keep=wanted, keep_weights=want_weights, **kwargs
        )
        last_hidden_state = self.trunk.post_trunk_norm(hidden_states)
        outputs = BaseModelOutputWithPooling(
            last_hidden_state=last_hidden_state,
            pooler_output=_mean_of_patches(last_hidden_state, patch_attention_mask),
            hidden_states=self._listed(states, wanted),
            attentions=attentions,
        )
        return outputs if return_dict else outputs.to_tuple()

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Encode pictures, under the name that transformers' image-text models use; see `forward`.

        The features of a whole picture are `pooler_output` `(B, h)`, those of its patches `last_hidden_state`.
        """
        return self(pixel_values, **kwargs)

    def get_intermediate_layers(
        self,
        pixel_values: torch.Tensor,
        layers: int | Sequence[int] = 1,
        norm: bool = True,
        reshape: bool = False,
        patch_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        r"""
        Outputs of chosen blocks; the blocks after the last chosen one do not run (DINOv2's method of that name).

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): Pictures, as in `forward`.
            layers (`int` or sequence of `int`, *optional*, defaults to 1): The last so many blocks, or their indices:
                0 is the first block, -1 the last one.
            norm (`bool`, *optional*, defaults to `True`): Whether each goes through the final norm.
            reshape (`bool`, *optional*, defaults to `False`): Feature maps `(B, h, rows, columns)` instead of
                `(B, N, h)`.

        Raises:
            ValueError: if there is no such block.
        """
        count = self.config.num_hidden_layers
        asked = list(range(-layers, 0)) if isinstance(layers, int) else list(layers)
        if not asked or not all(-count <= index < count for index in asked):
            raise ValueError(f"There are {count} blocks, so layers={layers} asks for one that is not there.")
        indices = [index % count + 1 for index in asked]
        _, states, _ = self._encode(pixel_values, patch_attention_mask, depth=max(indices), keep=indices)
        features = [self.trunk.post_trunk_norm(states[index]) if norm else states[index] for index in indices]
        if reshape:
            features = [_as_maps(feature, *self.preprocessor.grid(pixel_values)) for feature in features]
        return tuple(features)


def _mean_of_patches(features: torch.Tensor, patch_mask: torch.Tensor | None) -> torch.Tensor:
    """Mean over a picture's patches, `(B, h)`; of a picture without any it is zero."""
    if patch_mask is None:
        return features.mean(dim=1)
    share = patch_mask.to(features).flatten(1)
    share = share / share.sum(1, keepdim=True).clamp(min=1.0)
    return torch.einsum("bn,bnh->bh", share, features)


def _as_maps(features: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Patch features `(B, N, h)` as feature maps `(B, h, rows, columns)`."""
    return features.transpose(1, 2).reshape(features.shape[0], -1, rows, columns)


class SAILViTBackbone(BackboneMixin, SAILViTEncoder):
    r"""
    SAILViT for detection, segmentation and depth heads: feature maps of chosen stages.

    `stage_names` are `stem` (the embeddings) and `stage1` ... `stageN` (the blocks); `out_features` or `out_indices`
    of the configuration choose among them, the last one by default. Blocks after the last chosen stage do not run.

    Example:

    ```python
    >>> import torch
    >>> from sailvit_hf import SAILViTBackbone, SAILViTConfig

    >>> backbone = SAILViTBackbone(SAILViTConfig.preset("tiny", out_features=["stage2", "stage4"]))
    >>> [tuple(map.shape) for map in backbone(torch.zeros(1, 3, 64, 32)).feature_maps]
    [(1, 96, 8, 4), (1, 96, 8, 4)]
    ```
    """

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)

    def forward(
        self,
        pixel_values: torch.Tensor,
        patch_attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput | tuple:
        r"""
        Compute feature maps.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): Pictures, as for [`SAILViTModel`]; so are the other
                arguments.

        Returns:
            [`~transformers.modeling_outputs.BackboneOutput`]: `feature_maps`, one `(B, h, rows, columns)` for each of
            `out_features`, after the final norm unless `config.apply_layernorm` is `False`.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        want_weights = self.config.output_attentions if output_attentions is None else output_attentions
        stages = [self.stage_names.index(name) for name in self.out_features]
        wanted = self._wanted(output_hidden_states)
        _, states, attentions = self._encode(
            pixel_values,
            patch_attention_mask,
            depth=None if wanted or want_weights else max(stages),
            keep=[*stages, *wanted],
            keep_weights=want_weights,
            **kwargs,
        )
        norm = self.trunk.post_trunk_norm if self.config.apply_layernorm else nn.Identity()
        outputs = BackboneOutput(
            feature_maps=tuple(_as_maps(norm(states[i]), *self.preprocessor.grid(pixel_values)) for i in stages),
            hidden_states=self._listed(states, wanted),
            attentions=attentions,
        )
        return outputs if return_dict else outputs.to_tuple()


class SAILViTForImageClassification(SAILViTPreTrainedModel):
    """SAILViT with a classifier on the mean of its final tokens.

    The classifier is linear, or, with `config.classifier_hidden_size`, the two-layer MLP of the report's probe (table
    6; its activation, GELU, is ours). To probe, `freeze_backbone()`: a wholly frozen backbone runs without a graph.
    """

    _heads = ("classifier",)

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__(config)
        self.sailvit = SAILViTModel(config)
        width = config.classifier_hidden_size
        self.classifier: nn.Module = nn.Linear(width or config.hidden_size, config.num_labels)
        if width is not None:
            self.classifier = nn.Sequential(nn.Linear(config.hidden_size, width), ACT2FN["gelu"], self.classifier)
        self.post_init()

    def freeze_backbone(self) -> None:
        """Leave only the classifier trainable."""
        self.sailvit.requires_grad_(False)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.LongTensor | None = None,
        patch_attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput | tuple:
        r"""
        Classify pictures.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): Pictures, normalised by the image processor.
            labels (`torch.LongTensor` of shape `(B,)`, *optional*): Classes; a loss is returned when given.
            patch_attention_mask (`torch.Tensor` of shape `(B, rows, columns)`, *optional*): See [`SAILViTModel`].

        Returns:
            [`~transformers.modeling_outputs.ImageClassifierOutput`] with `logits` of shape `(B, num_labels)`.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        learns = any(parameter.requires_grad for parameter in self.sailvit.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and (learns or pixel_values.requires_grad)):
            features = self.sailvit(
                pixel_values, patch_attention_mask=patch_attention_mask, return_dict=True, **kwargs
            )
        logits = self.classifier(features.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        outputs = ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=features.hidden_states, attentions=features.attentions
        )
        return outputs if return_dict else outputs.to_tuple()


SAILViTModel.register_for_auto_class("AutoModel")
SAILViTBackbone.register_for_auto_class("AutoBackbone")
SAILViTForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["SAILViTBackbone", "SAILViTForImageClassification", "SAILViTModel", "SAILViTPreTrainedModel"]
