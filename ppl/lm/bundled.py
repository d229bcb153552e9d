"""Where the models that ship with the project lie: inside the wheel, or in `models/` of a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE / "_models", _PACKAGE.parent / "models")


def bundled_models() -> dict[str, Path]:
    """Name and folder of each bundled model that is present."""
    found: dict[str, Path] = {}
    for place in _PLACES:
        for config in sorted(place.glob("*/config.json")):
            found.setdefault(config.parent.name, config.parent)
    return found


def model_folder(path_or_name: str | Path) -> Path:
    """The folder that a path or a bundled name stands for; a path wins over a name.

    **Raises:** `ValueError` listing the bundled names when it is neither.
    """
    folder = Path(path_or_name)
    if folder.is_dir():
        return folder
    known = bundled_models()
    if str(path_or_name) not in known:
        raise ValueError(
            f"{str(path_or_name)!r} is neither a folder nor a bundled model; known: {', '.join(known) or 'none'}"
        )
    return known[str(path_or_name)]
