"""Networks as engines run them: fewer operations and safer numbers, equal in fp32."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ros2_tracker.models.layers import FrozenBatchNorm2d, MultiheadAttention, fuse_repvgg
from ros2_tracker.models.stark import Stark


def prepared(network: nn.Module) -> nn.Module:
    """A copy with fewer operations and safer numbers, equal in fp32."""
    network = copy.deepcopy(network).eval()
    fuse_repvgg(network)
    fold_batch_norms(network)
    if isinstance(network, Stark):
        scale_similarity(network)
    return network


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch normalisation into the convolution that its module registers just before it, in place."""
    for parent in tuple(network.modules()):
        for (_, conv), (name, norm) in pairwise(tuple(parent.named_children())):
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(
                norm, nn.BatchNorm2d | FrozenBatchNorm2d
            ):
                fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
                conv.weight, conv.bias = fused.weight, fused.bias
                setattr(parent, name, nn.Identity())


@torch.no_grad()
def scale_similarity(network: Stark) -> None:
    """Divide the decoder's answer by sqrt(width), and multiply the weights that read it, in place.

    The corner head multiplies search tokens by their dot product with that answer. Both are normalised, so the
    product may reach width^1.5 times their gains: beyond fp16 for gains of 2.5 and more, without this. Powers of two
    (16 for a width of 256) change no digit.
    """
    factor = 2.0 ** round(math.log2(network.settings.width) / 2)
    norm = network.transformer.decoder.norm
    norm.weight.div_(factor)
    norm.bias.div_(factor)
    readers = [network.box_head.get_submodule(f"conv1_{tower}")[0] for tower in ("tl", "br")]
    if network.cls_head is not None:
        readers.append(network.cls_head.layers[0])
    for reader in readers:
        reader.weight.mul_(factor)


def halve_products(network: nn.Module) -> nn.Module:
    """Make the weights of matrix products and convolutions fp16, in place; for use under `torch.autocast` to fp16.

    Norms and the sums between the layers stay in fp32: all of it in fp16 costs a hundred times the accuracy.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.half()
        elif isinstance(module, MultiheadAttention):
            module.in_proj_weight.data = module.in_proj_weight.data.half()
            module.in_proj_bias.data = module.in_proj_bias.data.half()
    return network
