"""Figures of pictures beside another public implementation, on the same arrays.

Where real weights cannot be had, both have the same drawn ones.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepcache_trt.benchmarks.fidelity.distances import comparisons
from deepcache_trt.benchmarks.fidelity.scores import ClipScore, as_image, folder_scores

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
PROMPTS = ["a handwritten seven", "a photograph of an astronaut riding a horse", "sand"]


def pictures(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth ones [N, 3, size, size] float32 in 0…1, 8 bits deep, as figures are taken of."""
    coarse = np.random.default_rng(seed).random((count, 3, 8, 8))
    large = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(size, size), mode="bicubic")
    return ((255 * large.clamp(0, 1)).round() / 255).float().numpy()


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4])
def test_ssim_is_that_of_scikit_image(noise: float) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    one = pictures(1, 48)
    other = (one + noise * np.random.default_rng(1).standard_normal(one.shape)).clip(0, 1).astype(np.float32)
    expected = metrics.structural_similarity(
        *(each[0] for each in (one, other)),
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert comparisons().functions["ssim"](one, other) == pytest.approx(expected, rel=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_lpips_is_that_of_its_authors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their weights above AlexNet's layers come with both packages; AlexNet's own are drawn."""
    torchvision, theirs = pytest.importorskip("torchvision"), pytest.importorskip("lpips")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet(weights=None).state_dict()
    torch.save(alexnet, folder / "alexnet-owt-7be5be79.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = theirs.LPIPS(net="alex", verbose=False)
    for seed in range(3):
        one, other = pictures(1, 96, seed), pictures(1, 96, seed + 10)
        with torch.no_grad():
            expected = network(torch.from_numpy(one), torch.from_numpy(other), normalize=True).item()
        assert expected > 0
        assert comparisons().functions["lpips"](one, other) == pytest.approx(expected, rel=1e-3)


def test_a_clip_score_is_that_of_transformers(tmp_path: Path) -> None:
    """The same drawn weights in open_clip and in transformers, and the preparation of pictures that each has."""
    open_clip, transformers = pytest.importorskip("open_clip"), pytest.importorskip("transformers")
    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY), encoding="utf-8")
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip", pretrained=None)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    score = ClipScore("tiny-clip", str(tmp_path / "weights.pt"))

    clip = transformers.CLIPModel(config_of(transformers)).eval()
    missing, unexpected = clip.load_state_dict(renamed(model.state_dict()), strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing)
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    tokens = open_clip.get_tokenizer("tiny-clip")(PROMPTS)
    for index, picture in enumerate(pictures(3, 64)):
        pixels = torch.from_numpy(np.asarray(as_image(picture)).transpose(2, 0, 1).copy()).float() / 255
        pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
        with torch.no_grad():
            out = clip(input_ids=tokens[index : index + 1], pixel_values=pixels[None])
        expected = max(100 * torch.cosine_similarity(out.image_embeds, out.text_embeds).item(), 0)
        assert score(picture[None], [PROMPTS[index]]) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def config_of(transformers: Any) -> Any:
    common = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
    return transformers.CLIPConfig(
        projection_dim=32,
        text_config={**common, "hidden_act": "gelu", "eos_token_id": 49407, "vocab_size": 49408},
        vision_config={**common, "hidden_act": "gelu", "image_size": 64, "patch_size": 16},
    )


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's names of weights as transformers has them."""
    fixed = {
        "text_projection": "text_projection.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
        "logit_scale": "logit_scale",
        "visual.proj": "visual_projection.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        **{
            f"visual.ln_{side}.{kind}": f"vision_model.{layer}.{kind}"
            for side, layer in (("pre", "pre_layrnorm"), ("post", "post_layernorm"))
            for kind in ("weight", "bias")
        },
    }
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name in fixed:
            found[fixed[name]] = value.T if name in ("text_projection", "visual.proj") else value
        elif "resblocks" in name:
            tower = "vision_model" if name.startswith("visual") else "text_model"
            number, rest = name.partition("resblocks.")[2].split(".", 1)
            layer = f"{tower}.encoder.layers.{number}"
            rest = rest.replace("ln_", "layer_norm").replace("attn.out_proj", "self_attn.out_proj")
            rest = rest.replace("mlp.c_fc", "mlp.fc1").replace("mlp.c_proj", "mlp.fc2")
            if "in_proj" in rest:
                kind = rest.rpartition("_")[2]
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    found[f"{layer}.self_attn.{letter}_proj.{kind}"] = part
            else:
                found[f"{layer}.{rest}"] = value
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kid_is_that_of_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The polynomial kernel of the same drawn features: all images are in each subset, so that nothing is random."""
    fidelity = pytest.importorskip("torch_fidelity")
    from torchmetrics.image.kid import KernelInceptionDistance

    inception = fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    monkeypatch.setattr(inception, "load_state_dict", lambda self, state: None)
    torch.save({}, hub / "weights-inception-2015-12-05-6726825d.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    sets = {"own": pictures(8, 64, 0), "other": pictures(8, 64, 1) ** 2}
    for name, own in sets.items():
        (tmp_path / name).mkdir()
        for index, picture in enumerate(own):
            as_image(picture).save(tmp_path / name / f"{index}.png")
    torch.manual_seed(0)
    found = folder_scores(tmp_path / "own", tmp_path / "other")

    torch.manual_seed(0)
    network = fidelity.utils.create_feature_extractor("inception-v3-compat", ["2048"], cuda=False, verbose=False)

    class Features(torch.nn.Module):
        num_features = 2048

        def forward(self, images: torch.Tensor) -> Any:
            return network(images)[0]

    kid = KernelInceptionDistance(feature=Features(), subsets=4, subset_size=8)
    for name, is_real in (("other", True), ("own", False)):
        kid.update(torch.from_numpy((255 * sets[name]).round()).to(torch.uint8), real=is_real)
    assert found["kid"] == pytest.approx(kid.compute()[0].item(), rel=1e-3)
