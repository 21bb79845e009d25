"""`deepcache-trt store ls`: what the store holds."""

import json
import time
from pathlib import Path

import typer

from deepcache_trt.commands.typed.options import AsJson, StoreFolder
from deepcache_trt.commands.typed.output import print_table


def ls(store: StoreFolder = None, as_json: AsJson = False) -> None:
    """List all that was built, with its size, age and last use.

    What is *outdated* is of no use to the versions that are installed here; `store gc` removes it.
    """
    from deepcache_trt.engines.backends import is_outdated
    from deepcache_trt.engines.store import default_root
    from deepcache_trt.engines.upkeep import bytes_of, held

    root = Path(store or default_root())
    found = held(root)
    users: dict[tuple[str, str], list[str]] = {(each.kind, each.key): [] for each in found}
    for each in found:
        for name in each.needs & users.keys():
            users[name].append(each.key)
    rows = [
        {
            "kind": each.kind,
            "key": each.key,
            "for": each.title,
            "backend": each.about.get("backend"),
            "backend_version": each.about.get("backend_version"),
            "device": each.about.get("device"),
            "bytes": sum(each.files.values()),
            "created": each.created,
            "used": each.used,
            "used_by": users[each.kind, each.key],
            "state": each.damage or ("outdated" if is_outdated(each.about) else ""),
        }
        for each in found
    ]
    if as_json:
        typer.echo(json.dumps({"store": str(root), "bytes": bytes_of(found), "artefacts": rows}, indent=2))
        return
    if not rows:
        typer.echo(f"The store {root} is empty; fill it with:\n    deepcache-trt build --model digits")
        return
    now = time.time()
    lines = [
        [
            str(row["kind"]),
            str(row["key"])[:8],
            str(row["for"]),
            " ".join(str(row[name]) for name in ("backend", "device") if row[name]),
            str(row["state"]),
            f"{sum(each.files.values()) / 1e6:.1f}",
            _days(now - each.created),
            _days(now - each.used),
            str(len(users[each.kind, each.key]) or ""),
        ]
        for row, each in zip(rows, found, strict=True)
    ]
    header = ["kind", "key", "for", "on", "state", "MB", "age", "used", "engines of it"]
    print_table(header, lines, title=f"Store {root}, {bytes_of(found) / 1e9:.2f} GB of the disk", words=5)


def _days(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"
