# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""SAILViT: the vision transformer (SAIL-VL2 report, arXiv 2509.14033; architecture and tensor names are AIMv2's)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_sailvit import SAILViTConfig

AUTO_MAP = {
    "AutoConfig": "configuration_sailvit.SAILViTConfig",
    "AutoModel": "modeling_sailvit.SAILViTModel",
    "AutoModelForImageClassification": "modeling_sailvit.SAILViTForImageClassification",
}


class SAILViTRMSNorm(nn.Module):
    """RMS norm in fp32, cast back, then scaled: the published order of operations."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(hidden_states.dtype)

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


class SAILViTPreprocessor(nn.Module):
    """Patch embeddings plus the learned position table, interpolated when the grid is not the native one."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.grid_size = config.image_size // config.patch_size
        self.patchifier = SAILViTPatchifier(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid_size**2, config.hidden_size))

    def position_table(self, rows: int, columns: int) -> torch.Tensor:
        """Positions for a grid of `rows` x `columns` patches, (1, rows * columns, h); the table itself if native."""
        if rows == self.grid_size and columns == self.grid_size:
            return self.pos_embed
        table = self.pos_embed.reshape(1, self.grid_size, self.grid_size, -1).permute(0, 3, 1, 2)
        table = F.interpolate(
            table.float(), size=(rows, columns), mode="bicubic", align_corners=False, antialias=True
        )
        return table.permute(0, 2, 3, 1).flatten(1, 2).to(self.pos_embed.dtype)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        height, width = pixel_values.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"The picture is {height}x{width} pixels, not a multiple of the patch size {self.patch_size}; "
                "resize it with the image processor of this checkpoint."
            )
        rows, columns = height // self.patch_size, width // self.patch_size
        return self.patchifier(pixel_values) + self.position_table(rows, columns)


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


class SAILViTPreTrainedModel(PreTrainedModel):
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

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save the model; whatever class it is, `config.json` names all Auto classes that can read it."""
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)


class SAILViTModel(SAILViTPreTrainedModel):
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

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__(config)
        self.preprocessor = SAILViTPreprocessor(config)
        self.trunk = SAILViTTransformer(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.preprocessor.patchifier.proj

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling | tuple:
        r"""
        Encode pictures.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): Pictures, normalised by the image processor; H and W
                multiples of the patch size.
            output_hidden_states (`bool`, *optional*): Return the embeddings and each block's output, the last one
                before the final norm.
            output_attentions (`bool`, *optional*): Return each block's attention weights (eager attention only).

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: `last_hidden_state` `(B, N, h)` after the
            final norm, patches in row-major order; `pooler_output` `(B, h)`, their mean.

        Raises:
            ValueError: if a side of the pictures is not a multiple of the patch size.
        """
        want_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        want_weights = self.config.output_attentions if output_attentions is None else output_attentions
        return_dict = self.config.return_dict if return_dict is None else return_dict

        hidden_states = self.preprocessor(pixel_values.to(self.dtype))
        states: tuple[torch.Tensor, ...] = (hidden_states,)
        attentions: tuple[torch.Tensor | None, ...] = ()
        for block in self.trunk.blocks:
            hidden_states, weights = block(hidden_states, **kwargs)
            states += (hidden_states,)
            attentions += (weights,)
        last_hidden_state = self.trunk.post_trunk_norm(hidden_states)

        outputs = BaseModelOutputWithPooling(
            last_hidden_state=last_hidden_state,
            pooler_output=last_hidden_state.mean(dim=1),
            hidden_states=states if want_states else None,
            attentions=attentions if want_weights else None,
        )
        return outputs if return_dict else outputs.to_tuple()


class SAILViTForImageClassification(SAILViTPreTrainedModel):
    """SAILViT with a linear classifier on the mean of its final tokens (as in the report's probe, table 6)."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__(config)
        self.sailvit = SAILViTModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.LongTensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput | tuple:
        r"""
        Classify pictures.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)`): Pictures, normalised by the image processor.
            labels (`torch.LongTensor` of shape `(B,)`, *optional*): Classes; a loss is returned when given.

        Returns:
            [`~transformers.modeling_outputs.ImageClassifierOutput`] with `logits` of shape `(B, num_labels)`.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        features = self.sailvit(pixel_values, return_dict=True, **kwargs)
        logits = self.classifier(features.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        outputs = ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=features.hidden_states, attentions=features.attentions
        )
        return outputs if return_dict else outputs.to_tuple()


SAILViTModel.register_for_auto_class("AutoModel")
SAILViTForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["SAILViTForImageClassification", "SAILViTModel", "SAILViTPreTrainedModel"]
