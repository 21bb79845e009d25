"""Folders of models as they lie on a disk, where others may have written them."""
