"""What is drawn for a calibration: the user's prompts, those that a model of the catalogue understands, or these."""

from collections.abc import Sequence
from pathlib import Path

from deepcache_trt.documents import read_lines
from deepcache_trt.errors import DeepCacheError, reason_of
from deepcache_trt.models.catalogue import CATALOGUE

# A person, a place, a thing and a style: few, since each of them is drawn in full.
DEFAULT = (
    "a portrait of an old fisherman, studio light",
    "a street in the rain at night, neon signs, people with umbrellas",
    "a bowl of ripe cherries on a wooden table",
    "a watercolour of mountains behind a lake, pale colours",
)


# In the place of a file: seeded noise instead of pictures, for what is only timed.
NOISE = "noise"


def calibration_prompts(model: str, given: Path | str | Sequence[str] | None) -> tuple[str, ...]:
    """The prompts to draw.

    Args:
        model: the name of the pipeline's model.
        given: a text file of one prompt a line, or the prompts; `NOISE`: none; None: those of the catalogue for this
            model, or else a small set of this package.

    Raises:
        DeepCacheError: no such file, or no prompt in it.
    """
    if given is None:
        entry = CATALOGUE.get(model)
        return (entry.prompts if entry is not None else ()) or DEFAULT
    if given in (NOISE, Path(NOISE)):
        return ()
    cure = "give a text file of one prompt a line (--calibration-prompts FILE), or leave it out"
    if isinstance(given, Path | str):
        try:
            prompts = tuple(read_lines(Path(given)))
        except (OSError, ValueError) as error:
            raise DeepCacheError(
                f"cannot read the calibration prompts in {given}: {reason_of(error)}; {cure}"
            ) from error
    else:
        prompts = tuple(prompt.strip() for prompt in given if prompt.strip())
    if not prompts:
        raise DeepCacheError(f"there are no calibration prompts in {given}; {cure}")
    return prompts
