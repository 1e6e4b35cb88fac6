"""If these break, a public SegFormer or Mix Transformer gives another network's output, or half of it.

Hugging Face's files are written by transformers itself.  NVlabs' repository is on no index: its files are
made by the names in its code from the network of segmentation_models_pytorch, which is the same graph.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from tests.test_weights import assert_close, bare, hollow, save
from zoo import download, encoders, state, weights
from zoo.encoders import layouts as encoder_layouts
from zoo.encoders.pretrained import IMAGENET
from zoo.errors import InputError
from zoo.weights import layouts

DEPTHS = {
    "b0": (2, 2, 2, 2),
    "b1": (2, 2, 2, 2),
    "b2": (3, 4, 6, 3),
    "b3": (3, 4, 18, 3),
    "b4": (3, 8, 27, 3),
    "b5": (3, 6, 40, 3),
}
# How many tensors a file has: in NVlabs' with the classifier that is never used, in Hugging Face's with
# key and value apart.
TENSORS = {"b0": 194, "b1": 194, "b2": 350, "b3": 590, "b4": 850, "b5": 1070}
TENSORS_AT_HUGGING_FACE = {"b0": 208, "b1": 208, "b2": 380, "b3": 644, "b4": 930, "b5": 1172}


@pytest.fixture
def said() -> list[str]:
    return []


def shaken(model: nn.Module) -> nn.Module:
    """Every tensor other than a fresh network has it, so that no two may be exchanged; in eval mode."""
    for p in model.parameters():
        nn.init.normal_(p, p.mean().item(), 0.05)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def quiet(_: str) -> None:
    pass


# ------------------------------------------------------------------ Hugging Face


@pytest.fixture(scope="module")
def transformers() -> object:
    found = pytest.importorskip("transformers")
    found.logging.disable_progress_bar()
    return found


def with_the_authors_eps(model: nn.Module) -> nn.Module:
    """Hugging Face computes with 1e-5 everywhere; the authors with 1e-6 but behind strided convolutions."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            strided = name.endswith(("patch_embeddings.layer_norm", "sequence_reduction.layer_norm"))
            module.eps = 1e-5 if strided else 1e-6
    return model


def at_hugging_face(transformers: object, classes: int = 5, kind: str = "SemanticSegmentation") -> nn.Module:
    """Its B0, random."""
    config = transformers.SegformerConfig(num_labels=classes)
    return with_the_authors_eps(shaken(getattr(transformers, f"SegformerFor{kind}")(config)))


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a network of transformers as the hub has it, in either of its two formats."""

    def write(model: nn.Module, name: str = "model.safetensors") -> Path:
        model.save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
        if name.endswith(".bin"):
            return save(tmp_path / name, state.read(path))
        return path

    return write


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_segformer_of_hugging_face(transformers: object, written: Callable, name: str, said: list) -> None:
    reference = at_hugging_face(transformers)
    model = zoo.build("segformer_b0", 5).eval()
    loaded = weights.load(model, written(reference, name), say=said.append)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        theirs = F.interpolate(reference(x).logits, size=(64, 96), mode="bilinear")
        assert_close(model(x), theirs)
    source = f"{name}: Hugging Face's SegFormer (mit_b0)"
    assert said == [f"{source}: 192 tensors -> segformer; normalisation: ImageNet's"]
    assert loaded.normalisation == IMAGENET == zoo.registry.normalisation(model)
    assert (loaded.fresh, loaded.options) == ((), {})


def test_mix_transformer_of_hugging_face(transformers: object, written: Callable, said: list) -> None:
    """The encoder alone, and as a part of what has it."""
    reference = at_hugging_face(transformers, 1000, "ImageClassification")
    path = written(reference)
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        theirs = reference(x, output_hidden_states=True).hidden_states

    encoder = encoders.build("mit_b0").eval()
    loaded = weights.load(encoder, path, say=said.append)
    for ours, their in zip(encoder(x), theirs, strict=True):
        assert_close(ours, their)
    source = "model.safetensors: Hugging Face's Mix Transformer (mit_b0): 176 tensors"
    assert said == [f"{source} -> mit; normalisation: ImageNet's; dropped: classifier"]
    assert encoder.normalisation == IMAGENET == loaded.normalisation

    model = zoo.build("segformer_b0", 5).eval()
    before = {key: t.clone() for key, t in model.head.state_dict().items()}
    loaded = weights.load(model, path, say=said.append)
    assert_close(model.encoder(x)[-1], theirs[-1])
    assert all(torch.equal(t, before[key]) for key, t in model.head.state_dict().items())
    assert loaded.fresh == ("head",)
    assert said[1] == f"{source} -> segformer; normalisation: ImageNet's; dropped: classifier; fresh: head"

    shallow = encoders.build("mit_b0", depth=2).eval()
    weights.load(shallow, path, say=quiet)
    assert [torch.equal(a, b) for a, b in zip(shallow(x), encoder(x)[:2], strict=True)] == [True, True]


def test_under_another_decoder(transformers: object, written: Callable) -> None:
    path = written(at_hugging_face(transformers, 1000, "ImageClassification"))
    model = zoo.build("unet_halved", 2, encoder="mit_b0")
    loaded = weights.load(model, path, say=quiet)
    assert loaded.fresh == ("decoder", "head")
    alone = encoders.build("mit_b0")
    weights.load(alone, path, say=quiet)
    there = alone.state_dict()
    assert all(torch.equal(t, there[key]) for key, t in model.encoder.state_dict().items())


def test_grey_images(transformers: object, written: Callable, said: list) -> None:
    reference = at_hugging_face(transformers)
    model = zoo.build("segformer_b0", 5, 1).eval()
    weights.load(model, written(reference), say=said.append)
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        theirs = F.interpolate(reference(x.expand(-1, 3, -1, -1)).logits, size=(64, 64), mode="bilinear")
        assert_close(model(x), theirs)
    assert said[0].endswith("; input channels 3 -> 1")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_of_half_the_size(tmp_path: Path, transformers: object, written: Callable, dtype) -> None:
    from safetensors.torch import save_file

    whole = state.read(written(at_hugging_face(transformers)))
    path = tmp_path / "half.safetensors"
    save_file({key: t.to(dtype) if t.is_floating_point() else t for key, t in whole.items()}, path)
    model = zoo.build("segformer_b0", 5)
    weights.load(model, path, say=quiet)
    key = "segformer.encoder.patch_embeddings.0.proj.weight"
    first = model.encoder.patch_embed1.proj.weight
    assert first.dtype == torch.float32
    assert torch.equal(first, whole[key].to(dtype).float())


@pytest.mark.parametrize("size", list(DEPTHS))
def test_each_key_of_each_size_has_its_place(size: str) -> None:
    """Both tables, on names that are made from the depths alone."""

    def both(*stems: str) -> list[str]:
        return [f"{stem}.{word}" for stem in stems for word in ("weight", "bias")]

    nvlabs, hugging_face = [], []
    for s, depth in enumerate(DEPTHS[size]):
        patches = f"segformer.encoder.patch_embeddings.{s}"
        nvlabs += both(*(f"patch_embed{s + 1}.{part}" for part in ("proj", "norm")), f"norm{s + 1}")
        hugging_face += both(f"{patches}.proj", f"{patches}.layer_norm", f"segformer.encoder.layer_norm.{s}")
        for b in range(depth):
            parts = ["norm1", "norm2", "attn.q", "attn.kv", "attn.proj", "mlp.fc1", "mlp.fc2"]
            theirs = ["layer_norm_1", "layer_norm_2", "attention.output.dense", "mlp.dense1", "mlp.dense2"]
            theirs += ["attention.self.query", "attention.self.key", "attention.self.value"]
            for names in (parts, theirs):
                names.append("mlp.dwconv.dwconv")
            if s < 3:
                parts += ["attn.sr", "attn.norm"]
                theirs += ["attention.self.sr", "attention.self.layer_norm"]
            nvlabs += both(*(f"block{s + 1}.{b}.{part}" for part in parts))
            hugging_face += both(*(f"segformer.encoder.block.{s}.{b}.{part}" for part in theirs))
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    head = ["decode_head.linear_fuse.conv.weight", *(f"decode_head.linear_fuse.bn.{word}" for word in norm)]
    head += both(*(f"decode_head.linear_c{s}.proj" for s in (1, 2, 3, 4)))
    head += both("decode_head.linear_pred", "decode_head.conv_seg")
    head_there = ["decode_head.linear_fuse.weight", *(f"decode_head.batch_norm.{word}" for word in norm)]
    head_there += both(*(f"decode_head.linear_c.{i}.proj" for i in range(4)), "decode_head.classifier")
    full = [f"backbone.{key}" for key in nvlabs] + head
    assert (len(full), len(hugging_face + head_there)) == (TENSORS[size], TENSORS_AT_HUGGING_FACE[size])

    own = bare(f"segformer_{size}").state_dict().keys()
    mit = bare(f"segformer_{size}").encoder.state_dict().keys()
    classifier = both("classifier")
    for keys, rows, expected, dropped in (
        (full, layouts.SEGFORMER_OF_NVLABS, own, ["decode_head.conv_seg"]),
        (hugging_face + head_there, layouts.SEGFORMER_OF_HUGGING_FACE, own, []),
        (nvlabs + both("head"), encoder_layouts.MIT_OF_NVLABS, mit, ["head"]),
        (hugging_face + classifier, encoder_layouts.MIT_OF_HUGGING_FACE, mit, ["classifier"]),
    ):
        mapped = encoder_layouts.mapped({key: torch.zeros(1) for key in keys}, rows)
        assert mapped.weights.keys() == expected
        assert (mapped.dropped, mapped.unknown) == (dropped, [])


# ------------------------------------------------------------------ NVlabs


@pytest.fixture(scope="module")
def smp() -> object:
    return pytest.importorskip("segmentation_models_pytorch")


def as_nvlabs(reference: nn.Module) -> dict[str, Tensor]:
    """A SegFormer of segmentation_models_pytorch under the names of NVlabs' code."""
    names = {
        r"encoder\.(.*)": r"backbone.\1",
        r"decoder\.mlp_stage\.0\.linear\.(.*)": r"decode_head.linear_c4.proj.\1",
        r"decoder\.mlp_stage\.1\.linear\.(.*)": r"decode_head.linear_c3.proj.\1",
        r"decoder\.mlp_stage\.2\.linear\.(.*)": r"decode_head.linear_c2.proj.\1",
        r"decoder\.mlp_stage\.3\.linear\.(.*)": r"decode_head.linear_c1.proj.\1",
        r"decoder\.fuse_stage\.0\.(.*)": r"decode_head.linear_fuse.conv.\1",
        r"decoder\.fuse_stage\.1\.(.*)": r"decode_head.linear_fuse.bn.\1",
        r"segmentation_head\.0\.(.*)": r"decode_head.linear_pred.\1",
    }
    file = {}
    for key, tensor in reference.state_dict().items():
        (new,) = (re.sub(old, new, key) for old, new in names.items() if re.fullmatch(old, key))
        file[new] = tensor
    classes = reference.segmentation_head[0].out_channels
    file["decode_head.conv_seg.weight"] = torch.full((classes, 128, 1, 1), 9.0)  # left over, never used
    file["decode_head.conv_seg.bias"] = torch.full((classes,), 9.0)
    return file


@pytest.mark.parametrize("prefix", ["", "module."])
def test_segformer_of_nvlabs(smp: object, tmp_path: Path, prefix: str, said: list[str]) -> None:
    reference = shaken(smp.Segformer("mit_b0", encoder_weights=None, classes=5))
    file = {f"{prefix}{key}": tensor for key, tensor in as_nvlabs(reference).items()}
    meta = {"meta": {"CLASSES": ("a", "b"), "PALETTE": [[1, 2, 3]], "epoch": 1}, "optimizer": {"state": {}}}
    path = save(tmp_path / "segformer.b0.pth", {**meta, "state_dict": file})
    model = zoo.build("segformer_b0", 5).eval()
    weights.load(model, path, say=said.append)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = reference.encoder(x)
        for ours, theirs in zip(model.encoder(x), maps[2:], strict=True):
            assert_close(ours, theirs)
        assert_close(model.head(model.encoder(x)), reference.segmentation_head[0](reference.decoder(maps)))
    source = "segformer.b0.pth: NVlabs' SegFormer (mit_b0)"
    what = "192 tensors -> segformer; normalisation: ImageNet's; dropped: decode_head.conv_seg"
    assert said == [f"{source}: {what}"]


def test_mix_transformer_of_nvlabs(smp: object, tmp_path: Path, said: list[str]) -> None:
    reference = shaken(smp.Segformer("mit_b1", encoder_weights=None))
    file = {**reference.encoder.state_dict(), "head.weight": torch.zeros(1000, 512)}
    path = save(tmp_path / "mit_b1.pth", {**file, "head.bias": torch.zeros(1000)})
    model = zoo.build("segformer_b1", 5).eval()
    loaded = weights.load(model, path, say=said.append)
    x = torch.randn(1, 3, 64, 64)
    assert_close(model.encoder(x)[-1], reference.encoder(x)[-1])
    assert loaded.fresh == ("head",)
    source = "mit_b1.pth: NVlabs' Mix Transformer (mit_b1)"
    what = "176 tensors -> segformer; normalisation: ImageNet's; dropped: head; fresh: head"
    assert said == [f"{source}: {what}"]
    with pytest.raises(InputError, match=r"has encoder mit_b1, the model mit_b0: build segformer_b1$"):
        weights.load(bare("segformer_b0", 5), path)
    with pytest.raises(InputError, match=r"mit_b1\.pth: is of mit_b1, the model is mit_b0$"):
        weights.load(encoders.build("mit_b0"), path)
    with pytest.raises(InputError, match=r"Mix Transformer, which is for mit, not for pspnet"):
        weights.load(bare("pspnet", encoder="resnet18"), path)


# ------------------------------------------------------------------ files that do not fit


def nvlabs_of(model: nn.Module) -> dict[str, Tensor]:
    """A hollow file of NVlabs of the size of our `model`."""
    names = {"encoder.": "backbone.", "head.classify.": "decode_head.linear_pred."}
    names |= {"head.fuse.": "decode_head.linear_fuse.conv.", "head.bn.": "decode_head.linear_fuse.bn."}
    names |= {f"head.linear.{i}.": f"decode_head.linear_c{i + 1}.proj." for i in range(4)}
    file = {}
    for key, tensor in hollow(model).items():
        old = next(old for old in names if key.startswith(old))
        file[names[old] + key.removeprefix(old)] = tensor
    return file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "segformer.pth"


@pytest.mark.parametrize(("there", "here"), [("b0", "b2"), ("b5", "b4"), ("b1", "b0")])
def test_another_size_says_which(path: Path, there: str, here: str) -> None:
    save(path, {"state_dict": nvlabs_of(bare(f"segformer_{there}"))})
    says = rf"has encoder mit_{there}, the model mit_{here}: build segformer_{there}$"
    with pytest.raises(InputError, match=says):
        weights.load(bare(f"segformer_{here}"), path)


def test_another_width_of_the_head_says_which(path: Path) -> None:
    save(path, {"state_dict": nvlabs_of(bare("segformer_b2", width=256))})
    with pytest.raises(InputError, match=r"its head is 256 wide, the model's 768: build it with width=256$"):
        weights.load(bare("segformer_b2"), path)


def test_another_number_of_classes(transformers: object, written: Callable) -> None:
    reference = at_hugging_face(transformers, 19)
    path = written(reference)
    model = zoo.build("segformer_b0", 4).eval()
    with pytest.raises(InputError, match=r"is for 19 classes, the model for 4; --reset-head"):
        weights.load(model, path)
    before = model.head.classify.weight.clone()
    assert weights.load(model, path, reset_head=True, say=quiet).fresh == ("head.classify",)
    assert torch.equal(model.head.classify.weight, before)
    assert torch.equal(model.head.fuse.weight, reference.decode_head.linear_fuse.weight)


def test_half_of_a_joined_tensor_is_refused(transformers: object, written: Callable, path: Path) -> None:
    whole = state.read(written(at_hugging_face(transformers)))
    key = "segformer.encoder.block.2.1.attention.self.{}.bias"
    for missing in ("key", "value"):
        save(path, {k: t for k, t in whole.items() if k != key.format(missing)})
        says = r"1 keys missing \['encoder\.block3\.1\.attn\.kv\.bias'\], 1 too many \['encoder\.block3\.1\."
        with pytest.raises(InputError, match=says):
            weights.load(zoo.build("segformer_b0", 5), path)


def test_a_key_that_the_table_lacks_is_refused(path: Path) -> None:
    file = nvlabs_of(bare("segformer_b0"))
    save(path, {**file, "backbone.pos_embed1": torch.zeros(1)})
    says = r"keys without a place here: 1, first \['backbone\.pos_embed1'\].* SegFormer as published"
    with pytest.raises(InputError, match=says):
        weights.load(bare("segformer_b0"), path)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("backbone.layers.0.0.projection.weight", r"mmsegmentation's SegFormer cannot be loaded: its head"),
        ("segformer.stages.0.patch_embeddings.proj.weight", r"in memory cannot .*: write it with save_pretr"),
    ],
)
def test_what_looks_like_it_is_refused_with_the_reason(path: Path, key: str, says: str) -> None:
    save(path, {key: torch.zeros(1), "decode_head.conv_seg.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=says):
        weights.load(bare("segformer_b0"), path)


def test_transformers_itself_shows_the_names_that_are_refused(transformers: object) -> None:
    keys = at_hugging_face(transformers).state_dict().keys()
    signs = next(row.signs for row in layouts.REFUSED if row.title.startswith("transformers"))
    assert keys >= set(signs)


# ------------------------------------------------------------------ safetensors


def test_a_truncated_file(transformers: object, written: Callable) -> None:
    path = written(at_hugging_face(transformers))
    data = path.read_bytes()
    for size in (len(data) - 1, len(data) // 2, 100, 7, 0):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"model\.safetensors: cannot be read as weights \(.+\); is it"):
            weights.load(bare("segformer_b0", 5), path)


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"model\.safetensors: .* takes a package: pip install safetensors$"):
        state.read(path)


# ------------------------------------------------------------------ published


def test_build_by_a_published_name(
    transformers: object, written: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    reference = at_hugging_face(transformers, 19)
    path = written(reference, "pytorch_model.bin")
    asked = []

    def fetch(url: str, **words: object) -> Path:
        asked.append((url, words))
        return path

    monkeypatch.setattr(download, "fetch", fetch)
    model = zoo.build("segformer_b0", pretrained="segformer_b0_cityscapes_768x768").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = F.interpolate(reference(x).logits, size=(64, 64), mode="bilinear")
        assert_close(model(x), theirs)
    name = "segformer-b0-finetuned-cityscapes-768-768"
    url = f"https://huggingface.co/nvidia/{name}/resolve/main/pytorch_model.bin"
    assert asked == [(url, {"name": f"{name}.bin", "sha256": ""})]
    assert "Hugging Face's SegFormer (mit_b0)" in capsys.readouterr().out
    says = r"segformer_b0_cityscapes are weights of segformer_b0, not of segformer_b2"
    with pytest.raises(InputError, match=says):
        zoo.build("segformer_b2", pretrained="segformer_b0_cityscapes")
