"""What pipelines of classes say of a call that is going on, as diffusers' pipelines of text do."""


class GuidedCall:
    """The guidance of a call, and whether the rest of it is left out."""

    _guidance_scale: float = 1.0
    _interrupt: bool = False

    @property
    def guidance_scale(self) -> float:
        """That of the call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether each image is predicted without its class too."""
        return self._guidance_scale > 1

    @property
    def interrupt(self) -> bool:
        """Whether the call's remaining steps are left out; `_interrupt = True` asks for it."""
        return self._interrupt
