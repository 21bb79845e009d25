"""The models that come with the package, trained on scikit-learn's digits."""

from pathlib import Path

from deepcache_trt.models.entries.entry import Entry

_MODELS = Path(__file__).parent.parent

DIGITS: dict[str, Entry] = {
    "digits": Entry(source=str(_MODELS / "digits"), parts={}),
    "digits-ddpm": Entry(source=str(_MODELS / "digits_ddpm"), parts={}),
    "digits-dit": Entry(source=str(_MODELS / "digits_dit"), parts={}),
}
