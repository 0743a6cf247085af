"""Attention to another sequence held against torch's own."""

from __future__ import annotations

import torch
from torch import nn

from zoo.layers.cross_attention import CrossAttention, DecoderBlock


def test_it_is_torchs_multi_head_attention() -> None:
    torch.manual_seed(0)
    ours, reference = CrossAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        for bias in (ours.query.bias, ours.key_value.bias, ours.out.bias):
            bias.normal_()
        reference.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        reference.out_proj.load_state_dict(ours.out.state_dict())
    inputs, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    expected, weights = reference(inputs, memory, memory, average_attn_weights=False)
    torch.testing.assert_close(ours(inputs, ours.project(memory)), expected)
    torch.testing.assert_close(ours.weights(inputs, ours.project(memory)), weights)


def test_the_block_is_torchs_decoder_layer() -> None:
    torch.manual_seed(0)
    ours = DecoderBlock(12, 3, 20).eval()
    reference = nn.TransformerDecoderLayer(12, 3, 20, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True).eval()
    with torch.no_grad():
        reference.self_attn.in_proj_weight.copy_(ours.attention.qkv.weight)
        reference.self_attn.in_proj_bias.copy_(ours.attention.qkv.bias)
        reference.self_attn.out_proj.load_state_dict(ours.attention.out.state_dict())
        reference.multihead_attn.in_proj_weight.copy_(
            torch.cat([ours.cross_attention.query.weight, ours.cross_attention.key_value.weight])
        )
        reference.multihead_attn.in_proj_bias.copy_(
            torch.cat([ours.cross_attention.query.bias, ours.cross_attention.key_value.bias])
        )
        reference.multihead_attn.out_proj.load_state_dict(ours.cross_attention.out.state_dict())
        reference.linear1.load_state_dict(ours.mlp[0].state_dict())
        reference.linear2.load_state_dict(ours.mlp[2].state_dict())
    texts, memory = torch.randn(6, 5, 12), torch.randn(2, 7, 12)  # three texts for each memory
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad():
        found, _ = ours(texts, ours.cross_attention.project(memory))
        expected = reference(texts, memory.repeat_interleave(3, 0), tgt_mask=causal, tgt_is_causal=True)
    torch.testing.assert_close(found, expected)
