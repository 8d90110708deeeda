# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""SAILViT outside PyTorch: an ONNX graph of any size of picture, and an int8 version of it for CPUs.

The exporter is torch's (`torch.onnx.export`, on `torch.export`), the graph is rewritten with onnxscript, and
onnxruntime computes it, int8 products included. They come with `pip install 'sailvit_hf[export]'`.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .errors import SailvitError
from .modeling.modeling_sailvit import SAILViTModel

if TYPE_CHECKING:
    import onnx_ir

INPUT = "pixel_values"
OUTPUTS = ("last_hidden_state", "pooler_output")
# The lowest opset of torch's exporter: what is not needed is not asked of a runtime.
OPSET = 18
# Beyond this an ONNX file, a protocol buffer, cannot hold the weights itself (its limit is 2 GiB).
_LARGEST_FILE = 1_900_000_000
# Sides, in patches, of what may come in; an upper bound is only there because torch.export wants one.
_MOST_PATCHES = 1024


def require_export_packages() -> None:
    """Raise a [`SailvitError`] that names the extra if a package that exporting needs is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SailvitError(
            f"Exporting needs the package {error.name}, which is not installed: pip install 'sailvit_hf[export]'."
        ) from error


def export_onnx(model: SAILViTModel, path: str | Path, opset: int = OPSET) -> Path:
    """
    Write `model` as an ONNX graph that takes pictures of any number and any size in whole patches.

    Its input is `pixel_values` `(B, C, H, W)`, fp32, as the image processor of the checkpoint makes them; its outputs
    are `last_hidden_state` `(B, N, h)` and `pooler_output` `(B, h)`, fp32. The position table is interpolated inside
    the graph, as [`SAILViTModel`] does it. Padded pictures (`patch_attention_mask`) are not part of it.

    Args:
        model: The encoder, in fp32.
        path: The file, which is replaced; weights of more than 1.9 GB go to a second file, `<path>.data`.
        opset: The version of ONNX's operators.

    Returns:
        `path`.

    Raises:
        SailvitError: if `model` is not a [`SAILViTModel`] in fp32, or a package is missing.
    """
    require_export_packages()
    if not isinstance(model, SAILViTModel):
        raise SailvitError(f"Only a SAILViTModel can be exported, this is a {type(model).__name__}; give its encoder.")
    if model.dtype != torch.float32:
        raise SailvitError(f"The model is in {model.dtype}; load it with dtype=torch.float32 to export it.")
    from torch.export import Dim

    patch, grid = model.config.patch_size, model.config.image_size // model.config.patch_size
    # A size that is not the native one, and no two of the three numbers equal: nothing is taken for a constant.
    example = torch.zeros(2, model.config.num_channels, (grid + 1) * patch, (grid + 2) * patch, device=model.device)
    rows, columns = (Dim(name, min=2, max=_MOST_PATCHES) for name in ("rows", "columns"))
    sizes = {0: Dim("batch", min=1, max=2**16), 2: patch * rows, 3: patch * columns}
    options = {"return_dict": False, "output_hidden_states": False, "output_attentions": False}
    training, attention = model.training, model.config._attn_implementation
    # The kernel that a graph can hold, whichever the model runs with.
    model.eval().set_attn_implementation("sdpa")
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                model,
                (example,),
                kwargs=options,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=opset,
                dynamo=True,
                dynamic_shapes={INPUT: sizes, **dict.fromkeys(options)},
                verbose=False,
            )
    finally:
        model.train(training).set_attn_implementation(attention)
    graph: onnx_ir.Model = program.model
    _name_products(graph)
    _name_sizes(graph, model.config)
    return _save(graph, Path(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch's exporter says of itself: deprecations inside it, and that torchvision is not there."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_sizes(graph: "onnx_ir.Model", config: Any) -> None:
    """Give the free sizes names that a person can read; torch loses ours where a call has options, too."""
    import onnx_ir

    patch, width = config.patch_size, config.hidden_size
    shapes = {
        INPUT: ("batch", config.num_channels, f"{patch}*rows", f"{patch}*columns"),
        OUTPUTS[0]: ("batch", "rows*columns", width),
        OUTPUTS[1]: ("batch", width),
    }
    for node in graph.graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        value.shape = onnx_ir.Shape(shapes[str(value.name)])


def _name_products(model: "onnx_ir.Model") -> None:
    """Call every product and its weight after the layer, and drop the exporter's notes, which quote local paths."""
    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if scopes and weight is not None and weight.const_value is not None:
            # A list of names from the outside in, ['', 'trunk', 'trunk.blocks.0', ..., 'linear'], as text.
            node.name = scopes.strip("[]").split(", ")[-2].strip("'")
            weight.name = f"{node.name}.weight"
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def _save(model: "onnx_ir.Model", path: Path) -> Path:
    """Write the graph, its weights beside it if they are too much for one file."""
    import onnx_ir

    weights = (value.const_value for value in model.graph.initializers.values())
    size = sum(weight.nbytes for weight in weights if weight is not None)
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(model, path, external_data=data.name if size > _LARGEST_FILE else None)
    return path


def quantize_int8(source: str | Path, dest: str | Path, keep: Sequence[str] = (), reduce_range: bool = False) -> Path:
    """
    Write the graph of [`export_onnx`] with the layers' products in int8, for inference on a CPU.

    Weights are quantised once, symmetrically, for each output channel; what comes into a layer is quantised when it
    runs, symmetrically, for each patch. So a picture's features do not depend on the others in its batch, a patch with
    large values does not take the precision of the rest, and no calibration is needed. onnxruntime computes the
    products in integers (AMX and VNNI instructions where the CPU has them); attention, norms and sums stay in fp32.
    (The scheme is the usual one, as in LLM.int8 without its outliers, arXiv 2208.07339; the rewriting is ours.)

    How near the features stay depends on the weights: measure it on your own pictures ([`feature_cosine`], `sailvit
    export --int8 --pictures`).

    Args:
        source: A file of [`export_onnx`].
        dest: The file to write.
        keep: Layers to leave in fp32, by parts of their names, such as `("mlp.fc2", "blocks.0.")`.
        reduce_range: Weights in 7 bits instead of 8, for x86 CPUs without VNNI, whose 8-bit product can overflow.

    Returns:
        `dest`.

    Raises:
        SailvitError: if nothing in the graph can be quantised, or a package is missing.
    """
    require_export_packages()
    import onnx_ir
    from onnxscript.rewriter import rewrite

    model = onnx_ir.load(source)
    if _in_integers(model):
        raise SailvitError(f"{source} is quantised already; give the fp32 file that it was made from.")
    model = rewrite(model, [_int8_rule(model, keep, 63 if reduce_range else 127)])
    if not _in_integers(model):
        raise SailvitError(f"{source} has no layer to quantise; give a file of export_onnx, and keep fewer layers.")
    return _save(model, Path(dest))


def _in_integers(model: "onnx_ir.Model") -> bool:
    return any(node.op_type == "MatMulInteger" for node in model.graph.all_nodes())


def _int8_rule(model: "onnx_ir.Model", keep: Sequence[str], largest: int) -> Any:
    """The rewriting rule of [`quantize_int8`], with the constants it needs put into `model`."""
    import onnx_ir
    from onnxscript.rewriter import RewriteRuleClassBase

    constants = {
        # Unsigned with 128 as zero: of all pairings with signed weights the one that every CPU has instructions for.
        "zero": np.uint8(128),
        "one": np.float32(1.0),
        "largest": np.float32(127.0),
        # The peak of a patch is never zero, or it would become NaN.
        "tiny": np.float32(1e-12),
        "last_axis": np.array([-1]),
    }
    shared = {name: _constant(model, f"int8.{name}", value) for name, value in constants.items()}

    class PerPatchInt8(RewriteRuleClassBase):
        """A layer's product with fp32 weights becomes the same in integers, between two scalings."""

        def pattern(self, op: Any, x: Any, weight: Any) -> Any:
            return op.MatMul(x, weight, _outputs=["product"])

        def check(self, op: Any, *args: Any, **kwargs: Any) -> Any:
            constant = kwargs["weight"].const_value
            name = kwargs["product"].producer().name or ""
            return constant is not None and len(constant.shape) == 2 and not any(part in name for part in keep)

        def rewrite(self, op: Any, x: Any, weight: Any, product: Any) -> Any:
            values = weight.const_value.numpy()
            scales = np.maximum(np.abs(values).max(axis=0), 1e-12) / largest
            integers = np.rint(values / scales).astype(np.int8)
            int8 = op.initializer(onnx_ir.tensor(integers), name=f"{weight.name}.int8")
            scale = op.initializer(onnx_ir.tensor((scales / 127).astype(np.float32)), name=f"{weight.name}.scale")
            peak = op.Max(op.ReduceMax(op.Abs(x), shared["last_axis"], keepdims=1), shared["tiny"])
            rounded = op.QuantizeLinear(op.Mul(x, op.Div(shared["largest"], peak)), shared["one"], shared["zero"])
            sums = op.Cast(op.MatMulInteger(rounded, int8, shared["zero"]), to=onnx_ir.DataType.FLOAT)
            added = [value for user, _ in product.uses() if user.op_type == "Add" for value in user.inputs]
            if any(value.const_value is not None for value in added):
                # A bias follows: onnxruntime would take it into the form below, and multiply it by the peaks, too.
                return op.Mul(op.Mul(sums, scale), peak)
            # This form becomes one operator in onnxruntime.
            return op.Mul(sums, op.Mul(peak, scale))

    return PerPatchInt8.rule()


def _constant(model: "onnx_ir.Model", name: str, value: Any) -> "onnx_ir.Value":
    """A new constant of the graph."""
    import onnx_ir

    tensor = onnx_ir.tensor(value)
    shape, dtype = onnx_ir.Shape(np.shape(value)), onnx_ir.TensorType(tensor.dtype)
    constant = onnx_ir.Value(name=name, shape=shape, type=dtype, const_value=tensor)
    model.graph.register_initializer(constant)
    return constant


def run_onnx(path: str | Path, pixel_values: np.ndarray, threads: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute an exported graph on the CPU with onnxruntime.

    Args:
        path: A file of [`export_onnx`] or [`quantize_int8`].
        pixel_values: Pictures `(B, C, H, W)`, fp32.
        threads: How many threads compute; 0 leaves it to onnxruntime (one for each core).

    Returns:
        `last_hidden_state` `(B, N, h)` and `pooler_output` `(B, h)`, fp32.

    Raises:
        SailvitError: if a package is missing.
    """
    require_export_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    features, pooled = session.run(list(OUTPUTS), {INPUT: pixel_values})
    return features, pooled


def feature_cosine(features: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Mean and least cosine between the patches of `features` and of `reference`, both `(B, N, h)`."""
    a, b = features.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosines = (a * b).sum(-1) / np.maximum(norms, 1e-300)
    return float(cosines.mean()), float(cosines.min())


__all__ = ["export_onnx", "feature_cosine", "quantize_int8", "require_export_packages", "run_onnx"]
