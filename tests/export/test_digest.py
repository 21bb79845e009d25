"""Whatever is written to a tensor, by whatever way, changes its digest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcache_trt.export.digest import _column_sums, _words, digests
from tests.runtime.gpu.pretend_cuda import pretended_gpu

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)


def digest(tensor: torch.Tensor) -> int:
    return digests([tensor])[0]


def summed(tensor: torch.Tensor) -> tuple[int, ...]:
    """What other devices than the CPU make of large tensors."""
    return tuple(_column_sums(_words(tensor)).tolist())


def numbers(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (100 * drawn).to(dtype) if dtype == torch.int64 else (drawn > 0 if dtype == torch.bool else drawn.to(dtype))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), max_size=4),
    st.sampled_from(DTYPES),
    st.integers(min_value=0),
    st.sampled_from([digest, summed]),
)
def test_one_element_is_enough(shape: list[int], dtype: torch.dtype, place: int, of: object) -> None:
    assert callable(of)
    tensor = numbers(shape, dtype)
    before = of(tensor)
    assert of(tensor.clone()) == before
    flat = tensor.data.view(-1)
    flat[place % len(flat)] = ~flat[place % len(flat)] if dtype == torch.bool else flat[place % len(flat)] + 1
    assert of(tensor) != before


@pytest.mark.parametrize("of", [digest, summed])
def test_rows_and_columns_that_change_places_count(of: object) -> None:
    assert callable(of)
    weight = numbers([640, 320], torch.float16)
    seen = {of(weight)}
    for axis in (0, 1):
        for places in ([0, 1], [3, 200], [0, 319]):
            order = torch.arange(weight.shape[axis])
            order[places] = order[places[::-1]]
            seen.add(of(weight.index_select(axis, order)))
    assert len(seen) == 7
    assert of(-weight) not in seen


def test_the_layout_does_not_hide_anything() -> None:
    kernel = numbers([4, 3, 3, 3], torch.float32).to(memory_format=torch.channels_last)
    strided = numbers([6, 6], torch.float32)[:, ::2]
    for tensor in (kernel, strided):
        before = digest(tensor)
        tensor.data[1, 2] += 1
        assert digest(tensor) != before


def test_a_tensor_made_under_inference_mode_has_one_and_an_empty_one_too() -> None:
    with torch.inference_mode():
        tensor = torch.ones(3)
    assert digest(tensor) == digest(torch.ones(3))
    assert digest(torch.empty(0)) == digest(torch.empty(0))


def test_of_a_gpu_all_tensors_come_in_two_copies() -> None:
    large, small = [300, 129], [7]
    with pretended_gpu() as counts:
        tensors = [numbers(shape, dtype).cuda() for dtype in DTYPES for shape in (large, small)]
        counts.clear()
        before = digests(tensors)
        assert counts == {"to the host": 2}
        assert digests([*tensors, torch.ones(3)])[:-1] == before, "the CPU's own beside them"
        for place, tensor in enumerate(tensors):
            with_another = list(tensors)
            with_another[place] = ~tensor if tensor.dtype == torch.bool else tensor + 1
            found = digests(with_another)
            assert [each for each in range(len(tensors)) if found[each] != before[each]] == [place]
