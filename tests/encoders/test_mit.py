"""If these break, the authors' MiT weights give other maps here, or SegFormer stands on another encoder.

Counts are those of the authors' code, counted with it; segmentation_models_pytorch keeps its keys and its two
eps, and is the reference; every equation is computed once more from the weights alone.
"""

from math import erf, sqrt

import pytest
import torch
from torch import Tensor, nn

from zoo import encoders
from zoo.encoders.encoder import Encoder
from zoo.encoders.mit import VARIANTS, MixTransformer
from zoo.errors import InputError
from zoo.profile import profile

# name: parameters, those of each stage, tensors in the state dict
SIZES = {
    "mit_b0": (3_319_392, (164_096, 255_296, 930_080, 1_969_920), 176),
    "mit_b1": (13_151_424, (639_488, 1_006_208, 3_682_880, 7_822_848), 176),
    "mit_b2": (24_196_288, (954_368, 1_938_048, 10_308_160, 10_995_712), 332),
    "mit_b3": (44_072_128, (954_368, 1_938_048, 30_184_000, 10_995_712), 572),
    "mit_b4": (60_842_688, (954_368, 3_801_728, 45_090_880, 10_995_712), 832),
    "mit_b5": (81_443_008, (954_368, 2_869_888, 66_623_040, 10_995_712), 1_052),
}
# of a patch embedding and of a block, stage by stage; MiT-B1 to B5 have the same
PARTS = {
    "mit_b0": ((4_800, 18_624, 92_640, 369_408), (79_616, 118_272, 418_560, 800_000)),
    "mit_b1": ((9_600, 74_112, 369_600, 1_476_096), (314_880, 465_920, 1_656_320, 3_172_864)),
    "mit_b5": ((9_600, 74_112, 369_600, 1_476_096), (314_880, 465_920, 1_656_320, 3_172_864)),
}
# GMACs at 512×512, stage by stage: of convolutions and linear layers; and of attention's two products
COSTS = {
    "mit_b0": ((0.4850, 0.4677, 0.7091, 0.5017), 1.040),
    "mit_b1": ((1.7102, 1.8329, 2.8128, 1.9975), 2.080),
    "mit_b2": ((2.4883, 3.3638, 7.6834, 2.8076), 3.892),
    "mit_b3": ((2.4883, 3.3638, 22.2953, 2.8076), 5.906),
    "mit_b4": ((2.4883, 6.4257, 33.2543, 2.8076), 8.489),
    "mit_b5": ((2.4883, 4.8948, 49.0838, 2.8076), 10.133),
}
NARROW: dict = {"widths": (4, 6, 10, 16), "depths": (1, 2, 1, 1)}
every_variant = pytest.mark.parametrize("name", VARIANTS)


def meta(name: str, in_channels: int = 3, **options: int) -> Encoder:
    with torch.device("meta"):
        return encoders.build(name, in_channels, **options)


def narrow(in_channels: int = 2, **options: object) -> MixTransformer:
    """A few channels wide, in eval mode, with weights on which attention and norms have an effect."""
    return stirred(MixTransformer(in_channels, **{**NARROW, **options}).eval())


def stirred(model: nn.Module) -> nn.Module:
    """`model` with every tensor drawn anew: fresh ones give nearly uniform attention, and norms do little."""
    for key, p in model.named_parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=1.5 / sqrt(p[0].numel()))
        else:
            nn.init.normal_(p, mean=1.0 if "norm" in key and key.endswith("weight") else 0.0, std=0.3)
    return model


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ---------------------------------------------------------------------- sizes


@every_variant
def test_sizes(name: str) -> None:
    parameters, stages, tensors = SIZES[name]
    encoder = meta(name)
    words = ("patch_embed", "block", "norm")
    parts = [[encoder.get_submodule(f"{word}{s}") for word in words] for s in (1, 2, 3, 4)]
    assert count(encoder) == parameters == sum(stages)
    assert tuple(sum(map(count, part)) for part in parts) == stages
    assert len(encoder.state_dict()) == tensors
    if name in PARTS:
        embeddings, blocks = PARTS[name]
        assert tuple(count(part[0]) for part in parts) == embeddings
        assert [[count(block) for block in part[1]] for part in parts] == [
            [n] * depth for n, depth in zip(blocks, VARIANTS[name]["depths"], strict=True)
        ]


@every_variant
def test_costs(name: str) -> None:
    """A block's two products are 2·L·M·C; the paper's R is 64, 16, 4, 1."""
    dense, attention = COSTS[name]
    stages = profile(meta(name), 512)
    found = []
    for s, (side, r) in enumerate(zip((128, 64, 32, 16), (64, 16, 4, 1), strict=True)):
        products = VARIANTS[name]["depths"][s] * 2 * side**2 * (side**2 // r) * VARIANTS[name]["widths"][s]
        found.append((stages[f"patch_embed{s + 1}"].macs + stages[f"block{s + 1}"].macs - products, products))
    assert [round(macs / 1e9, 4) for macs, _ in found] == list(dense)
    assert round(sum(products for _, products in found) / 1e9, 3) == attention
    assert stages[""].macs == sum(map(sum, found))


@pytest.mark.parametrize(
    ("name", "widths"), [("mit_b0", (32, 64, 160, 256)), ("mit_b1", (64, 128, 320, 512))]
)
def test_maps(name: str, widths: tuple[int, ...]) -> None:
    encoder = meta(name, 1)
    assert (encoder.channels, encoder.strides) == (widths, (4, 8, 16, 32))
    for size, sides in (
        ((512, 512), [(128, 128), (64, 64), (32, 32), (16, 16)]),
        ((97, 130), [(25, 33), (13, 17), (7, 9), (4, 5)]),
        ((29, 33), [(8, 9), (4, 5), (2, 3), (1, 2)]),
    ):
        maps = encoder(torch.empty(2, 1, *size, device="meta"))
        assert [m.shape for m in maps] == [(2, c, h, w) for c, (h, w) in zip(widths, sides, strict=True)]


# ---------------------------------------------------------------------- equations


def linear(w: dict[str, Tensor], key: str, x: Tensor) -> Tensor:
    return torch.einsum("nlc,dc->nld", x, w[f"{key}.weight"]) + w[f"{key}.bias"]


def norm(w: dict[str, Tensor], key: str, x: Tensor, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * w[f"{key}.weight"] + w[f"{key}.bias"]


def conv(
    w: dict[str, Tensor], key: str, x: Tensor, size: tuple, stride: int, pad: int
) -> tuple[Tensor, tuple]:
    """Tokens of a map of `size` -> those behind the convolution and their map's size, window by window."""
    kernel, (h, width), n = w[f"{key}.weight"], size, len(x)
    k = kernel.shape[-1]
    padded = x.new_zeros(n, h + 2 * pad, width + 2 * pad, x.shape[2])
    padded[:, pad : pad + h, pad : pad + width] = x.reshape(n, h, width, -1)
    rows, columns = (h + 2 * pad - k) // stride + 1, (width + 2 * pad - k) // stride + 1
    tokens = []
    for i in range(rows):
        for j in range(columns):
            window = padded[:, i * stride : i * stride + k, j * stride : j * stride + k]  # (N, k, k, C)
            if kernel.shape[1] == 1 and kernel.shape[0] > 1:  # a channel each
                tokens.append(torch.einsum("nabc,cab->nc", window, kernel[:, 0]))
            else:
                tokens.append(torch.einsum("nabc,dcab->nd", window, kernel))
    return torch.stack(tokens, 1) + w[f"{key}.bias"], (rows, columns)


def attention(w: dict[str, Tensor], key: str, x: Tensor, size: tuple, heads: int, r: int) -> Tensor:
    """Eq. 1 and 2, head by head; keys are the first half of `kv`, values the second."""
    reduced = x
    if r > 1:
        reduced, _ = conv(w, f"{key}.sr", x, size, r, 0)
        reduced = norm(w, f"{key}.norm", reduced, 1e-5)
    q, kv, channels = linear(w, f"{key}.q", x), linear(w, f"{key}.kv", reduced), x.shape[2]
    d, out = channels // heads, []
    for head in range(heads):
        part = slice(head * d, head * d + d)
        scores = torch.einsum("nld,nmd->nlm", q[..., part], kv[..., :channels][..., part]) / sqrt(d)
        weights = scores.exp() / scores.exp().sum(2, keepdim=True)
        out.append(torch.einsum("nlm,nmd->nld", weights, kv[..., channels:][..., part]))
    return linear(w, f"{key}.proj", torch.cat(out, 2))


def mix_ffn(w: dict[str, Tensor], key: str, x: Tensor, size: tuple) -> Tensor:
    """Eq. 3 without its residual, with the exact GELU."""
    y, _ = conv(w, f"{key}.dwconv.dwconv", linear(w, f"{key}.fc1", x), size, 1, 1)
    gelu = y.clone().apply_(lambda v: v * (1 + erf(v / sqrt(2))) / 2)
    return linear(w, f"{key}.fc2", gelu)


def by_hand(w: dict[str, Tensor], image: Tensor, depths: tuple[int, ...]) -> list[Tensor]:
    """The whole encoder as Sec. 3.1 has it, on tokens (N, L, C): its maps (N, C, h, w)."""
    x, size, maps = image.flatten(2).transpose(1, 2), tuple(image.shape[2:]), []
    for s, depth in enumerate(depths, 1):
        heads, r = ((1, 8), (2, 4), (5, 2), (8, 1))[s - 1]
        kernel, stride, pad = (7, 4, 3) if s == 1 else (3, 2, 1)
        assert w[f"patch_embed{s}.proj.weight"].shape[-1] == kernel
        x, size = conv(w, f"patch_embed{s}.proj", x, size, stride, pad)
        x = norm(w, f"patch_embed{s}.norm", x, 1e-5)
        for b in range(depth):
            key = f"block{s}.{b}"
            x = x + attention(w, f"{key}.attn", norm(w, f"{key}.norm1", x, 1e-6), size, heads, r)
            x = x + mix_ffn(w, f"{key}.mlp", norm(w, f"{key}.norm2", x, 1e-6), size)
        x = norm(w, f"norm{s}", x, 1e-6)
        maps.append(x.transpose(1, 2).reshape(len(x), -1, *size))
    return maps


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (37, 70)])
def test_forward_is_eq_1_to_3(size: tuple[int, int]) -> None:
    """To 1e-11, so that each of the two eps has to be the authors'; at 37×70 the reductions leave rests."""
    encoder = narrow(widths=(4, 6, 10, 16)).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    wanted = by_hand(encoder.state_dict(), x, NARROW["depths"])
    for m, e in zip(encoder(x), wanted, strict=True):
        assert m.shape == e.shape
        torch.testing.assert_close(m, e, rtol=1e-11, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mit_b0", "mit_b1"])
def test_segmentation_models_pytorch_computes_the_same_maps(name: str) -> None:
    """With the authors' keys and both eps as they are, in another way of computing attention."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason="pip install it to compare with it")
    theirs = stirred(smp.encoders.get_encoder(name, weights=None)).double().eval()
    with torch.device("meta"):
        ours = encoders.build(name).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for m, e in zip(ours(x), theirs(x)[-4:], strict=True):
        torch.testing.assert_close(m, e, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_there_is_no_positional_code_but_zero_padding_tells_the_border() -> None:
    """On a picture of one colour all tokens are alike, except where a 3×3 or 7×7 kernel meets the padding."""
    encoder = narrow(depth=1).double()
    (m,) = encoder(torch.full((1, 2, 96, 128), 0.7, dtype=torch.float64))       # (1, 4, 24, 32)
    inside = m[..., 2:-2, 2:-2]  # the embedding's border is one token, the block's convolution adds one
    torch.testing.assert_close(inside, inside[..., :1, :1].expand_as(inside), rtol=1e-12, atol=1e-12)
    for side in (m[..., 0, :], m[..., 1, :], m[..., :, 0], m[..., :, 1]):
        assert (side - inside[..., 0, :1]).abs().amin(-1).max() > 1e-3


@torch.no_grad()
def test_every_token_sees_the_whole_picture() -> None:
    encoder = narrow()
    x = torch.randn(1, 2, 64, 96)
    y = x.clone()
    y[..., 50:, 80:] += 1  # more than 32 pixels off any convolution of the first token in stage 1
    for m, changed in zip(encoder(x), encoder(y), strict=True):
        assert (m - changed)[..., 0, 0].abs().max() > 1e-4


@torch.no_grad()
def test_keys_and_values_leave_a_rest_out_that_fills_no_kernel() -> None:
    """96 pixels are 24 tokens, 3 kernels of 8; with 4 pixels more there is a token more, which only asks."""
    encoder = narrow(depth=1).double()
    attend = encoder.get_submodule("block1.0.attn")
    x = torch.randn(1, 4, 24, 25, dtype=torch.float64)
    torch.testing.assert_close(attend(x)[..., :24], attend(x[..., :24]))


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("mit_b0", [0, 1 / 70, 2 / 70, 3 / 70, 4 / 70, 5 / 70, 6 / 70, 0.1]),
        ("mit_b2", [i / 150 for i in range(16)]),
        ("mit_b5", [i / 510 for i in range(52)]),
    ],
)
def test_drop_path_rises_over_all_blocks_alike(name: str, rates: list[float]) -> None:
    """From none at the first block of the whole encoder to 0.1 at its last, however many stages are built."""
    for depth in (4, 2):
        encoder = meta(name, depth=depth)
        stages = [encoder.get_submodule(f"block{s + 1}") for s in range(depth)]
        found = [block.drop_path.p for stage in stages for block in stage]
        assert found == pytest.approx(rates[: len(found)])
        assert len(found) == sum(VARIANTS[name]["depths"][:depth])


def test_drop_path_drops_attention_and_mix_ffn_each_for_itself() -> None:
    block = narrow().get_submodule("block4.0")
    x = torch.randn(3, 16, 2, 3)
    block.drop_path.p = 0.5
    ways = {tuple((block.train()(x) - x)[0].flatten()[:1].tolist()) for _ in range(60)}
    assert len(ways) == 4  # neither, attention, Mix-FFN, both
    assert (0.0,) in ways
    assert not torch.equal(block.eval()(x), x)


def test_first_weights_are_the_authors() -> None:
    """Linear 0.02; convolutions by outgoing nodes, 9 in a depthwise 3×3; biases 0; norms 1 and 0."""
    encoder = encoders.build("mit_b1", depth=2)
    for key, std in (
        ("block2.0.attn.q", 0.02),
        ("block2.0.mlp.fc1", 0.02),
        ("patch_embed1.proj", sqrt(2 / (7 * 7 * 64))),
        ("patch_embed2.proj", sqrt(2 / (3 * 3 * 128))),
        ("block1.0.attn.sr", sqrt(2 / (8 * 8 * 64))),
        ("block2.0.mlp.dwconv.dwconv", sqrt(2 / 9)),
    ):
        weight = encoder.get_submodule(key).weight
        assert weight.std().item() == pytest.approx(std, rel=0.05), key
        assert abs(weight.mean().item()) < 0.1 * std, key
    for key, p in encoder.named_parameters():
        if p.ndim == 1:
            assert (p == float("norm" in key and key.endswith("weight"))).all(), key


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_depth_builds_no_more_than_its_maps_need(depth: int) -> None:
    whole, part = narrow(), narrow(depth=depth)
    weights = whole.state_dict()
    assert set(part.state_dict()) <= set(weights)
    part.load_state_dict({key: weights[key] for key in part.state_dict()})
    x = torch.randn(2, 2, 65, 72)  # with one key alone nothing depends on the queries
    maps = part(x)
    assert all(torch.equal(m, w) for m, w in zip(maps, whole(x), strict=False))
    assert (len(maps), part.channels) == (depth, whole.channels[:depth])
    maps[-1].square().sum().backward()
    assert [key for key, p in part.named_parameters() if p.grad is None or not p.grad.any()] == []


# ---------------------------------------------------------------------- use


@torch.no_grad()
@pytest.mark.parametrize("channels_last", [False, True])
def test_maps_lie_channels_last_for_a_batch_of_one_too(channels_last: bool) -> None:
    """Convolutions then read them without a copy; torch takes a batch of one for it only by its strides."""
    x = torch.randn(1, 2, 64, 80)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    seen: list[Tensor] = []
    encoder = narrow()
    for key, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d) and key != "patch_embed1.proj":
            module.register_forward_hook(lambda _, inputs, y: seen.extend((inputs[0], y)))
    for m in [*encoder(x), *seen]:
        _, c, h, w = m.shape
        assert m.stride() == (c * h * w, 1, w * c, c)


@torch.no_grad()
def test_bfloat16() -> None:
    encoder, x = narrow(), torch.randn(2, 2, 50, 61)
    reference = encoder(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = encoder(x)
    for maps in (autocast, encoder.bfloat16()(x.bfloat16())):
        for m, r in zip(maps, reference, strict=True):
            assert (m - r).abs().max() < 0.1 * r.abs().max()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_trace_serves_every_size_and_batch() -> None:
    encoder = narrow()
    traced = torch.jit.trace(encoder, torch.rand(1, 2, 40, 56))
    for batch, size in ((1, (29, 29)), (2, (63, 49)), (3, (96, 31))):
        x = torch.rand(batch, 2, *size)
        for m, t in zip(encoder(x), traced(x), strict=True):
            torch.testing.assert_close(t, m, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output_stride": 16}, "output stride 16 is not possible with MiT, .*; choose 32"),
        ({"depth": 5}, "depth 5 is not possible; the encoder has 4 maps"),
        ({"depth": 0}, "depth 0 is not possible"),
        ({"reductions": (8, 4, 2)}, r"reductions \(8, 4, 2\) must be four numbers >= 1, such as \(8"),
        ({"reductions": (0, 4, 2, 1)}, "must be four numbers >= 1"),
    ],
)
def test_what_cannot_be_built(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        meta("mit_b0", **options)


def test_reductions_change_the_keys_and_nothing_else() -> None:
    """Attention costs 2·L·M·C, M = L / r²: with r = 1 each token meets every other, and no map is shrunk."""
    plain, full = (profile(narrow(reductions=r), 64) for r in ((8, 4, 2, 1), (1, 1, 1, 1)))
    for s, (c, r, length) in enumerate(zip(NARROW["widths"], (8, 4, 2, 1), (256, 64, 16, 4), strict=True), 1):
        path = f"block{s}.0.attn"
        shrinking = plain[f"{path}.sr"].macs if r > 1 else 0
        keys = plain[f"{path}.kv"].macs
        assert keys * r * r == full[f"{path}.kv"].macs == 2 * length * c * c
        products = 2 * length * length * c
        more = full[path].macs - plain[path].macs
        assert more == products - products // r**2 + keys * (r * r - 1) - shrinking
        assert full[path].shape == plain[path].shape
    assert not any("sr" in path for path in full)


@torch.no_grad()
def test_other_reductions_attend_to_a_map_of_their_size() -> None:
    """Stage 1 with kernels of 2 has 16 times the keys, and the paper's formula still holds."""
    encoder = narrow(widths=(4, 6, 10, 16), reductions=(2, 4, 2, 1)).double()
    attention_1 = encoder.get_submodule("block1.0.attn")
    x = torch.randn(2, 4, 8, 12, dtype=torch.float64)
    tokens = x.flatten(2).transpose(1, 2)
    wanted = attention(attention_1.state_dict(prefix="a."), "a", tokens, (8, 12), heads=1, r=2)
    found = attention_1(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_the_papers_reductions_are_the_default() -> None:
    keys = [list(meta("mit_b0", **options).state_dict()) for options in ({}, {"reductions": (8, 4, 2, 1)})]
    assert keys[0] == keys[1]
    assert meta("mit_b0").get_parameter("block1.0.attn.sr.weight").shape == (32, 32, 8, 8)
