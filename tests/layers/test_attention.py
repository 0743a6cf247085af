"""Attention and its block held against torch's own layers, the formula, and themselves read in parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from zoo.core.errors import UserError
from zoo.layers.attention import SelfAttention, TransformerBlock, sinusoidal_positions

WIDTH, HEADS, HIDDEN = 24, 3, 40


def sequence(places: int = 7, n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, places, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


def make(kind: type[nn.Module], *arguments, **options) -> nn.Module:
    """In evaluation, with no weight at a neutral value."""
    torch.manual_seed(0)
    module = kind(*arguments, **options).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def copy_attention(ours: SelfAttention, theirs: nn.MultiheadAttention) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Give torch's layer our weights; the pairs of parameters."""
    pairs = {
        "qkv.weight": (ours.qkv.weight, theirs.in_proj_weight), "qkv.bias": (ours.qkv.bias, theirs.in_proj_bias),
        "out.weight": (ours.out.weight, theirs.out_proj.weight), "out.bias": (ours.out.bias, theirs.out_proj.bias),
    }  # fmt: skip
    with torch.no_grad():
        for mine, other in pairs.values():
            other.copy_(mine)
    return pairs


def assert_same(ours: Tensor, theirs: Tensor, given: Tensor, pairs: dict[str, tuple[nn.Parameter, nn.Parameter]]) -> None:
    """Equal outputs, and equal gradients of a quantity that uses every entry, for the inputs and all parameters."""
    torch.testing.assert_close(ours, theirs)
    toward = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).view_as(ours)
    mine = torch.autograd.grad((ours * toward).sum(), [given, *(pair[0] for pair in pairs.values())])
    others = torch.autograd.grad((theirs * toward).sum(), [given, *(pair[1] for pair in pairs.values())])
    for name, a, b in zip(["inputs", *pairs], mine, others, strict=True):
        torch.testing.assert_close(a, b, msg=f"gradient of {name}")
        assert a.abs().max() > 0, name


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_torchs_own_with_its_gradients(causal):
    ours, given = make(SelfAttention, WIDTH, HEADS, causal), sequence()
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    pairs = copy_attention(ours, theirs)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if causal else None
    expected, weights = theirs(given, given, given, attn_mask=mask, average_attn_weights=False)
    torch.testing.assert_close(ours.weights(given), weights)
    assert_same(ours(given), expected, given, pairs)


@pytest.mark.parametrize("causal", [False, True])
def test_the_weights_are_those_with_which_the_values_are_summed(causal):
    attention, given = make(SelfAttention, WIDTH, HEADS, causal), sequence()
    weights = attention.weights(given)
    assert weights.shape == (2, HEADS, 7, 7)
    torch.testing.assert_close(weights.sum(3), torch.ones_like(weights[..., 0]))
    values = (given @ attention.qkv.weight[2 * WIDTH :].T + attention.qkv.bias[2 * WIDTH :]).view(2, 7, HEADS, -1)
    gathered = torch.einsum("nhts,nshd->nthd", weights, values).flatten(2)
    torch.testing.assert_close(attention(given), gathered @ attention.out.weight.T + attention.out.bias)


@pytest.mark.parametrize("causal", [False, True])
def test_the_block_equals_torchs_own_with_its_gradients(causal):
    ours, given = make(TransformerBlock, WIDTH, HEADS, HIDDEN, causal), sequence()
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True, dtype=torch.float64
    )
    pairs = copy_attention(ours.attention, theirs.self_attn)
    for name, mine, other in [
        ("norm1", ours.norm1, theirs.norm1), ("norm2", ours.norm2, theirs.norm2),
        ("mlp.0", ours.mlp[0], theirs.linear1), ("mlp.3", ours.mlp[3], theirs.linear2),
    ]:  # fmt: skip
        other.load_state_dict(mine.state_dict())
        pairs |= {f"{name}.{key}": (getattr(mine, key), getattr(other, key)) for key in ("weight", "bias")}
    assert {id(pair[0]) for pair in pairs.values()} == {id(parameter) for parameter in ours.parameters()}
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if causal else None
    assert_same(ours(given), theirs(given, src_mask=mask), given, pairs)


def test_a_causal_block_does_not_see_what_follows():
    block, given = make(TransformerBlock, WIDTH, HEADS, HIDDEN, causal=True), sequence().detach()
    changed = given.clone()
    changed[:, 4:] += 1
    before, after = block(given), block(changed)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("kind", [SelfAttention, TransformerBlock])
@pytest.mark.parametrize("parts", [[1] * 7, [7], [3, 4], [2, 1, 3, 1], [1, 6]])
def test_read_in_parts_a_sequence_gives_what_it_gives_as_a_whole(kind, parts):
    module = make(kind, WIDTH, HEADS, *([HIDDEN] if kind is TransformerBlock else []), causal=True)
    given, past, outputs = sequence().detach(), None, []
    for part in given.split(parts, 1):
        output, past = module.step(part, past)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), module(given), rtol=0, atol=1e-6)
    assert past.keys.shape == past.values.shape == (2, HEADS, 7, WIDTH // HEADS)


def test_two_continuations_share_a_past_and_leave_it_as_it_is():
    attention, given = make(SelfAttention, WIDTH, HEADS, causal=True), sequence().detach()
    _, past = attention.step(given[:, :4])
    kept = past.keys.clone(), past.values.clone()
    for continuation in (given[:, 4:], -given[:, 4:]):
        output, _ = attention.step(continuation, past)
        whole = attention(torch.cat([given[:, :4], continuation], 1))
        torch.testing.assert_close(output, whole[:, 4:])
    assert torch.equal(past.keys, kept[0]) and torch.equal(past.values, kept[1])


def test_dropout_is_for_training_alone_and_keeps_the_mean():
    torch.manual_seed(0)
    attention, given = SelfAttention(WIDTH, HEADS, dropout=0.4), torch.randn(1, 5, WIDTH)
    expected = attention.eval()(given)
    assert torch.equal(attention(given), expected)
    attention.train()
    drawn = attention(given.expand(4000, -1, -1))
    assert not torch.allclose(drawn[0], drawn[1])
    standard_error = drawn.std(0) / math.sqrt(4000)
    assert ((drawn.mean(0) - expected[0]).abs() < 6 * standard_error + 1e-6).all()


def test_the_block_drops_what_leaves_its_layers_in_training():
    block, given = make(TransformerBlock, WIDTH, HEADS, HIDDEN, dropout=0.5), sequence().detach()
    expected = block(given)
    attended = given + block.attention(block.norm1(given))
    torch.testing.assert_close(expected, attended + block.mlp(block.norm2(attended)))
    torch.manual_seed(3)
    first = block.train()(given)
    assert not torch.allclose(first, expected)
    torch.manual_seed(3)
    assert torch.equal(block(given), first)


@pytest.mark.parametrize("width", [2, 8, 10])
def test_positions_follow_the_papers_formula(width):
    positions = sinusoidal_positions(11, width)
    for place in range(11):
        for i in range(width // 2):
            angle = place / 10_000 ** (2 * i / width)
            assert positions[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert positions[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    assert positions.shape == (11, width)


@pytest.mark.parametrize(
    ("make_it", "words"),
    [(lambda: SelfAttention(128, 5), ["num_heads=5", "embed_dim=128", "is 4", "or set model.embed_dim=130"]),
     (lambda: SelfAttention(128, 0), ["num_heads=0", "is 1"]),
     (lambda: SelfAttention(0, 1), ["embed_dim=0"]),
     (lambda: SelfAttention(8, 2, dropout=1.5), ["dropout=1.5"]),
     (lambda: TransformerBlock(6, 7, 12), ["num_heads=7", "is 6"]),
     (lambda: sinusoidal_positions(4, 3), ["embed_dim=3", "even", "as 4"])],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_the_nearest_that_does(make_it, words):
    with pytest.raises(UserError) as error:
        make_it()
    assert all(word in str(error.value) for word in words)
