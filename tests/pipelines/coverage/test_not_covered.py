"""Pipelines that cannot be cached are refused when they are given over, by what they have and what is covered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import UnsupportedError
from tests.pipelines.coverage.refused import REFUSED, gligen, t2i_adapter


@pytest.mark.parametrize(("new", "says", "covered"), REFUSED, ids=[new.__name__ for new, _, _ in REFUSED])
def test_a_pipeline_is_refused_when_it_is_given_over(new: Callable[[], Any], says: str, covered: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        DeepCachePipeline.from_pipe(new())
    assert str(refused.value).startswith(says)
    assert covered in str(refused.value)


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (t2i_adapter, r"down_intrablock_additional_residuals=.*; call pipe.disable_cache\(\) to run a T2I-adapter"),
        (gligen, r"cross_attention_kwargs={'gligen': .*; leave it out, or call pipe.disable_cache\(\) for this image"),
    ],
)
def test_a_call_is_refused_before_a_denoiser_is_built_for_it(
    new: Callable[[], tuple[Any, dict[str, Any]]], says: str, tmp_path: Path
) -> None:
    plain, call = new()
    call |= {"prompt": "a handwritten seven", "num_inference_steps": 1, "output_type": "latent"}
    pipe = DeepCachePipeline.from_pipe(plain, components=(), store=tmp_path / "store")
    with pytest.raises(UnsupportedError, match=rf"(?s){says}"):
        pipe(**call)
    assert not (tmp_path / "store").exists()
    pipe.disable_cache()
    assert pipe(**call).images.isfinite().all()
