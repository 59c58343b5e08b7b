"""What the documentation tells a newcomer to type does what it says."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.harness import Running

ROOT = Path(__file__).resolve().parent.parent
Start = Callable[..., Running]


def block(file: str, heading: str) -> list[str]:
    """The commands of the first shell block under a heading."""
    section = (ROOT / file).read_text().split(f"\n## {heading}\n")[1]
    found = re.search(r"```sh\n(.*?)```", section, re.S)
    assert found is not None
    return found[1].splitlines()


def test_a_first_policy_change(gateway: Running, tmp_path: Path) -> None:
    told = []
    for command in block("docs/policies.md", "A first change"):
        here = command.replace("localhost:8081", gateway.admin.removeprefix("http://"))
        done = subprocess.run(["bash", "-c", here], cwd=tmp_path, capture_output=True, text=True, check=True)
        told.append(done.stdout)
    read, edited, tried, put, versions, rolled_back = told
    assert read == edited == ""
    assert json.loads(tried)["cache"]["threshold"] == json.loads(put)["cache"]["threshold"] == 0.95
    newest, first = json.loads(versions)["versions"]
    assert (newest["number"], newest["current"], newest["what"]) == (2, True, "PUT /policies/code")
    assert (first["number"], first["current"]) == (1, False)
    assert {c["name"]: c["cache"]["threshold"] for c in json.loads(rolled_back)["categories"]}["code"] == 0.90
