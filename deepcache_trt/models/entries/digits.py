"""The models that come with the package, trained on scikit-learn's digits."""

from pathlib import Path

from deepcache_trt.models.entries.entry import Entry

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_MODELS = Path(__file__).parent.parent

DIGITS: dict[str, Entry] = {
    "digits": Entry(
        source=str(_MODELS / "digits"), parts={}, prompts=tuple(f"a handwritten {word}" for word in _WORDS)
    ),
    "digits-ddpm": Entry(source=str(_MODELS / "digits_ddpm"), parts={}),
    "digits-dit": Entry(source=str(_MODELS / "digits_dit"), parts={}),
}
