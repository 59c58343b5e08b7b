"""Where the policies that come with the gateway lie: in the source tree, or inside the installed package."""

from importlib.resources import files
from pathlib import Path


def shipped() -> Path:
    """The folder of the shipped policies. Raises FileNotFoundError if the installation lacks it."""
    package = Path(str(files("gateway")))
    for folder in (package / "_policies", package.parent / "policies"):
        if (folder / "default.yaml").is_file():
            return folder
    raise FileNotFoundError("the shipped policies are missing from this installation")
