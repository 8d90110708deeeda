# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Probes of a vision tower alone: do its features tell drawings apart, locally and globally?

Two feature kinds: *scene*, the mean of the patches of the cell that holds the drawing (what an MLLM reads), and
*pooled*, the mean of all patches of a picture with one large drawing (what contrastive pre-training shapes). Two
probes: the nearest neighbour by cosine, which trains nothing, and a linear classifier. Two groups: drawings seen in
training and unseen ones.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..modeling.vision_towers import patch_features
from .vlm import evaluation_mode

GROUPS = ("seen", "unseen")


def picture_features(
    vision_tower: torch.nn.Module, image_processor: Any, pictures: np.ndarray, batch_size: int = 128, layer: int = -1
) -> torch.Tensor:
    """Patch features (n, rows, columns, h), float32 on the CPU, of pictures (n, H, W, 3) uint8.

    Args:
        vision_tower: any vision transformer of transformers; class tokens and registers are left out.
        layer: which of its outputs; -1 is the final one, see `vision_feature_layer`.
    """
    device = next(vision_tower.parameters()).device
    features = []
    # One tile: the features are asked for by picture.
    whole = {"min_tiles": 1, "max_tiles": 1} if getattr(image_processor, "max_tiles", 1) > 1 else {}
    with evaluation_mode(vision_tower):
        for start in range(0, len(pictures), batch_size):
            batch = image_processor(images=list(pictures[start : start + batch_size]), return_tensors="pt", **whole)
            patches, grid = patch_features(vision_tower, batch["pixel_values"].to(device), layer)
            features.append(patches.unflatten(1, grid).float().cpu())
    return torch.cat(features)


def cell_features(features: torch.Tensor, cells: np.ndarray) -> torch.Tensor:
    """Mean patch feature (n, h) of one cell of a 2x2 layout; `cells` (n,) holds 0 to 3 in reading order."""
    rows, columns = features.shape[1] // 2, features.shape[2] // 2
    halves = features[:, : 2 * rows, : 2 * columns].unflatten(2, (2, columns)).unflatten(1, (2, rows))
    quarters = halves.mean(dim=(2, 4))
    return quarters.flatten(1, 2)[torch.arange(len(cells)), torch.as_tensor(cells, dtype=torch.long)]


def knn_accuracy(
    bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor, neighbours: int = 1
) -> float:
    """Accuracy of a cosine k-NN vote; a neighbour weighs exp(similarity / 0.07), the weighting of DINO's k-NN.

    Args:
        bank, queries: features (n, h) and (m, h); centred here on the bank's mean.
        bank_labels, labels: class ids (n,) and (m,).
    """
    mean = bank.mean(dim=0)
    similarity = F.normalize(queries - mean, dim=-1) @ F.normalize(bank - mean, dim=-1).T
    nearest, index = similarity.topk(min(neighbours, len(bank)), dim=-1)
    votes = torch.zeros(len(queries), int(bank_labels.max()) + 1)
    votes.scatter_add_(1, bank_labels[index], ((nearest - 1) / 0.07).exp())
    return (votes.argmax(-1) == labels).double().mean().item()


def linear_accuracy(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    labels: torch.Tensor,
    penalty: float = 3e-4,
    iterations: int = 100,
) -> float:
    """Accuracy of multinomial logistic regression on standardised features, fitted by L-BFGS with an L2 penalty.

    Zero start and full batches: deterministic, no seed. Arguments as in `knn_accuracy`; `penalty` multiplies the
    squared norm of the weights (ours: small, the same for every tower).
    """
    mean, scale = bank.mean(dim=0), bank.std(dim=0).clamp_min(1e-6)
    bank, queries = (bank - mean) / scale, (queries - mean) / scale
    classes = int(bank_labels.max()) + 1
    weight = torch.zeros(classes, bank.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(bank, weight, bias), bank_labels) + penalty * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return (F.linear(queries, weight, bias).argmax(-1) == labels).double().mean().item()


Labelled = tuple[torch.Tensor, list]  # features (n, h) and n labels


def _both_probes(kind: str, group: str, bank: Labelled, queries: Labelled, neighbours: int) -> dict[str, float]:
    """k-NN and linear accuracy, and chance, of labelled features; labels may be any sortable values."""
    names = sorted(set(bank[1]) | set(queries[1]))
    ids = {label: i for i, label in enumerate(names)}
    tensors = [torch.tensor([ids[label] for label in labels]) for labels in (bank[1], queries[1])]
    sets = (bank[0], tensors[0], queries[0], tensors[1])
    return {
        f"{kind}_knn_{group}": knn_accuracy(*sets, neighbours=neighbours),
        f"{kind}_linear_{group}": linear_accuracy(*sets),
        f"{kind}_chance_{group}": 1 / len(names),
    }


def probe_backbone(
    vision_tower: torch.nn.Module,
    image_processor: Any,
    world: Any,
    seed: int = 0,
    per_drawing: int = 16,
    queries_per_drawing: int = 6,
    neighbours: int = 1,
    layer: int = -1,
) -> dict[str, float]:
    """Probe a vision tower on the drawings of the demo world.

    Args:
        vision_tower, layer: as in `picture_features`.
        world: a `DemoWorld`; bank and query pictures never coincide.
        per_drawing, queries_per_drawing: pictures per drawing in the bank (on which the probe is fitted) and to
            judge it.

    Returns:
        Accuracies under `{scene|pooled}_{knn|linear|chance}_{seen|unseen}`.
    """
    results: dict[str, float] = {}
    for group in GROUPS:
        drawings = len(getattr(world, group))
        scene, pooled = [], []
        for part, count in enumerate((per_drawing, queries_per_drawing)):
            part_seed = 2 * seed + part
            # Scenes of two splits: no scene is in the bank and among the queries.
            split = ("validation", "test")[part]
            pictures, cells, labels = world.cell_pictures(group, count * drawings, part_seed, split=split)
            features = picture_features(vision_tower, image_processor, pictures, layer=layer)
            scene.append((cell_features(features, cells), list(labels)))
            pictures, labels = world.drawing_pictures(group, count, part_seed)
            features = picture_features(vision_tower, image_processor, pictures, layer=layer)
            pooled.append((features.mean(dim=(1, 2)), list(labels)))
        results |= _both_probes("scene", group, scene[0], scene[1], neighbours)
        results |= _both_probes("pooled", group, pooled[0], pooled[1], neighbours)
    return results
