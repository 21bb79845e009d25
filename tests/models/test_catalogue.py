"""The catalogue's architectures are those of the published checkpoints."""

from typing import Any

import pytest
from diffusers import AutoencoderKL

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.catalogue import CATALOGUE, resolve
from deepcache_trt.models.fresh import fake_model
from deepcache_trt.models.registry import COVERED, part_dtype

# As published; for text encoders without the position_ids that old ones hold.
PARAMETERS = {
    ("sd15", "unet"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sd15", "text_encoder"): 123_060_480,
    ("sd21", "unet"): 865_910_724,
    ("sd21", "vae"): 83_653_863,
    ("sd21", "text_encoder"): 340_387_840,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "vae"): 83_653_863,
    ("sdxl", "text_encoder"): 123_060_480,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("svd", "unet"): 1_524_623_082,
    ("svd", "vae"): 97_742_847,  # by its config; not compared with the checkpoint
    ("ddpm-cifar10", "unet"): 35_746_307,
    ("ddpm-bedroom", "unet"): 113_673_219,
    ("ddpm-church", "unet"): 113_673_219,
    ("ldm-4-g", "unet"): 400_920_579,
    ("ldm-4-g", "vqvae"): 55_322_782,  # what its code prints: 55.32 M
    # By their configs, whose operations are the published ones.
    ("bk-sdm-base", "unet"): 579_384_964,
    ("bk-sdm-small", "unet"): 482_346_884,
    ("bk-sdm-tiny", "unet"): 323_384_964,
}
# The paper's 675,129,632 have one embedding of timestep and label, and a table of positions; diffusers has one in each
# of 28 blocks, and no table.
PARAMETERS |= {(f"dit-xl-2-{side}", "transformer"): 675_129_632 - 256 * 1152 + 27 * 2_777_472 for side in (256, 512)}
PARAMETERS["dit-l-2-256", "transformer"] = 458_102_816 - 256 * 1024 + 23 * 2_337_792
PARAMETERS["uvit-h-2-256", "transformer"] = 500_832_164  # the paper says 501 M
PARAMETERS["uvit-h-4-512", "transformer"] = 500_832_164 + 12 * 4 * (2 * 1152 + 1)  # larger patches, to both sides
PARAMETERS |= {(name, "vae"): PARAMETERS["sd15", "vae"] for name in CATALOGUE if name.startswith(("dit-", "uvit-"))}
# What BK-SDM leaves as it is in SD1.5.
PARAMETERS |= {
    (f"bk-sdm-{size}", part): PARAMETERS["sd15", part]
    for size in ("base", "small", "tiny")
    for part in ("vae", "text_encoder")
}


def test_every_part_is_covered() -> None:
    parts = {(name, folder): part for name, entry in CATALOGUE.items() for folder, part in entry.parts.items()}
    assert set(parts) == set(PARAMETERS)
    assert {part.class_name for part in parts.values()} <= set(COVERED)


@pytest.mark.parametrize(("name", "folder"), PARAMETERS)
def test_a_part_has_as_many_parameters_as_its_checkpoint(name: str, folder: str) -> None:
    part = CATALOGUE[name].parts[folder]
    model = fake_model(part.model_class(), part.config, "float16")
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name, folder]


@pytest.mark.parametrize(
    ("name", "folder", "dtype", "built"),
    [
        ("sdxl", "vae", "float16", "float32"),
        ("sdxl", "vae", "bfloat16", "bfloat16"),
        ("sdxl", "vae", "float32", "float32"),
        ("sd15", "vae", "float16", "float16"),
        ("sdxl", "unet", "float16", "float16"),
        ("sdxl", "text_encoder_2", "float16", "float16"),
    ],
)
def test_only_a_vae_that_says_that_it_overflows_is_built_in_full_precision(
    name: str, folder: str, dtype: str, built: str
) -> None:
    assert part_dtype(CATALOGUE[name].parts[folder].config, dtype) == built


def test_a_video_vae_decodes_in_the_precision_of_the_pipeline_whatever_it_says() -> None:
    config = {"_class_name": "AutoencoderKLTemporalDecoder", "force_upcast": True}
    assert part_dtype(config, "float16") == "float16"
    assert part_dtype({**config, "_class_name": "AutoencoderKL"}, "float16") == "float32"


@pytest.mark.parametrize(
    ("stated", "built"), [({}, "float16"), ({"force_upcast": True}, "float32"), ({"force_upcast": False}, "float16")]
)
def test_a_live_vae_is_built_as_its_checkpoint_says(stated: dict[str, bool], built: str) -> None:
    """diffusers fills in `force_upcast=True` where a config says nothing, and reads it for SDXL only."""
    model: Any = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, **stated)
    assert part_dtype(model.config, "float16") == built


def test_a_model_without_a_checkpoint_says_what_can_be_done_without_one() -> None:
    with pytest.raises(UnsupportedError, match=r"ldm-4-g are not published .*; convert them and give the folder"):
        resolve("ldm-4-g")
