"""Modified copies of the folder ``sql/``."""

import shutil
from pathlib import Path

from service.settings import resource

# The name of a file, a text that occurs in it once, and what replaces the text.
Edit = tuple[str, str, str]


def copy_sql(folder: Path, *edits: Edit) -> Path:
    """Copy ``sql/`` into a folder, edit the copy, and return the folder."""
    shutil.copytree(resource("sql"), folder, dirs_exist_ok=True)
    for file, old, new in edits:
        text = (folder / file).read_text()
        assert text.count(old) == 1, f"{file} must contain this text once: {old}"
        (folder / file).write_text(text.replace(old, new))
    return folder
