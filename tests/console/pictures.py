"""The pictures of docs/console.md: `python -m tests.console.pictures`, with the extra `test`.

A gateway that an hour of made-up traffic has gone through, seen by Chromium.
"""

import io
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.console.conftest import FLAGS
from tests.harness import Running, ScriptedBackend

FOLDER = Path(__file__).parents[2] / "docs" / "console"
BOOK = """
categories:
  - name: code
    examples: ["How do I reverse a list in Python?", "Write a SQL query that joins two tables",
               "Why does my loop throw an IndexError?", "Fix this JavaScript function"]
    cache: {mode: semantic, threshold: 0.86, ttl: 7d, max_error: 0.02, quota: {share: 0.4}}
  - name: support
    examples: ["How do I reset my password?", "Where is my order?", "How can I get a refund?", "Cancel my subscription"]
    cache: {mode: semantic, threshold: 0.80, ttl: 1d, max_error: 0.03, quota: {share: 0.2}}
  - name: market-data
    examples: ["What is the price of Bitcoin?", "Tesla stock quote right now", "EUR to USD rate today"]
    cache: {mode: exact, threshold: 0.95, ttl: 5m}
  - name: default
    cache: {mode: semantic, threshold: 0.86, ttl: 1d, max_error: 0.05}
"""
ASKED = [  # what is asked often, in the words of several people
    ["How do I reverse a list in Python?", "How can I reverse a list in Python?", "how do i reverse a python list"],
    ["How do I sort a dictionary by value in Python?", "How can I sort a dictionary by its values in Python?"],
    ["How do I merge two branches in git?", "How can I merge two git branches?"],
    ["How do I reset my password?", "How can I reset my password?", "I want to reset my password, how?"],
    ["Where can I see my invoices?", "Where do I find my invoices?", "Where are my invoices?"],
    ["How do I cancel my subscription?", "How can I cancel my subscription?"],
    ["What is the price of Bitcoin?"],
    ["EUR to USD rate today"],
    ["What is the capital of France?", "What is France's capital?", "Which city is the capital of France?"],
    ["Why is the sky blue?", "Why does the sky look blue?"],
    ["How tall is Mount Everest?", "What is the height of Mount Everest?"],
]  # fmt: skip
ONCE = ["Write a haiku about {}", "What rhymes with {}?", "Translate {} into Finnish", "Who invented the {}?"]
THINGS = [
    "lanterns",
    "the sea",
    "bicycle",
    "winter",
    "telescope",
    "bread",
    "compass",
    "a slow river",
    "copper",
    "chess",
]
TREE: dict[str, Any] = {
    "trust": {"share": 1.0, "per_minute": 1000, "in_flight": 4},
    "tenants": [
        {"name": "acme", "keys": [{"key": "key-of-acme", "label": "web"}, {"key": "acme-ci", "label": "ci"}],
         "limits": {"requests_per_minute": 600, "tokens_per_minute": 200_000}, "budget": {"soft": 0.08, "hard": 0.1}},
        {"name": "globex", "keys": [{"key": "key-of-globex", "label": "assistant"}], "limits": {"in_flight": 50},
         "budget": {"hard": 0.4}},
        {"name": "initech", "keys": [{"key": "key-of-initech", "label": "batch", "expires": "2031-01-31"}],
         "priority": "batch"},
    ],
}  # fmt: skip


def reply(seen: Any) -> str:
    """The same to all who ask the same, but for one paraphrase that means something else to this engine."""
    question = seen.json["messages"][-1]["content"]
    if question == "Where are my invoices?":
        return "All invoices of last year were archived; ask the accountants for a copy of each of them."
    if "apital of France" in question or "France's capital" in question:
        return "Paris is the capital of France, and has been for most of its history."
    known = next((same[0] for same in ASKED if question in same), question)
    return f"In short: {known.rstrip('?').lower()}. Here is how, step by step, with an example to follow."


def lived(gateway: Running) -> None:
    """An hour of traffic, told in seconds."""
    chance, shift = random.Random(7), [0.0]
    gateway.app.traffic._clock = lambda: time.time() - shift[0]
    for minute in range(58, -1, -1):
        shift[0] = 60.0 * minute
        for _ in range(chance.randint(2, 5)):
            tenant = chance.choices(["acme", "globex", "initech"], [5, 3, 1])[0]
            question = (
                chance.choice(chance.choice(ASKED))
                if chance.random() < 0.85
                else chance.choice(ONCE).format(chance.choice(THINGS))
            )
            control = {"x_gateway_cache": "only"} if chance.random() < 0.01 else {}
            body = {"model": "gemma-27b", "messages": [{"role": "user", "content": question}]}
            gateway.post("/v1/chat/completions", body, Authorization=f"Bearer key-of-{tenant}", **control)
        gateway.settle()
    time.sleep(3)  # what is judged beside the traffic


def saved(page: Page, name: str, *, whole: bool = False) -> None:
    page.wait_for_timeout(1500)  # charts are drawn in
    picture = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    picture.quantize(192, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


def taken(browser: Browser, admin: str) -> None:
    def opened(panel: str, scheme: Any = "light", width: int = 1280, height: int = 860) -> Page:
        page = browser.new_page(
            color_scheme=scheme,
            viewport={"width": width, "height": height},
            device_scale_factor=1.5 if width > 500 else 2,
        )
        page.goto(f"{admin}/#{panel}")
        page.locator("main > div:not([aria-busy]) > h1").wait_for()
        return page

    saved(opened("overview"), "overview-light")
    saved(opened("overview", "dark"), "overview-dark")
    page = opened("policies")
    page.get_by_label("Category", exact=True).select_option("code")
    page.get_by_label("Threshold", exact=True).fill("0.985")
    page.get_by_label("Threshold", exact=True).blur()
    page.get_by_role("button", name="Validate and try").click()
    page.evaluate("scrollTo(0, 0)")
    saved(page, "policies")
    page = opened("entries")
    page.get_by_label("Question holds").fill("how")
    page.get_by_role("button", name="Search").click()
    page.locator("summary").first.click()
    saved(page, "entries")
    page = opened("playground", "dark")
    page.get_by_label("API key").fill("key-of-acme")
    page.get_by_label("Prompt", exact=True).fill("Which city is France's capital?")
    page.get_by_role("button", name="Ask").click()
    saved(page, "playground")
    saved(opened("overview", width=390, height=844), "phone")
    for name in sys.argv[2:]:  # others, to look at
        saved(opened(name), name, whole=True)
        saved(opened(name, width=390, height=844), f"{name}-phone", whole=True)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    models = Path(
        sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
    )  # where the exported model lies, if it does
    engines = [ScriptedBackend() for _ in range(2)]
    for engine in engines:
        engine.reply = reply
    served = {
        "name": "gemma-27b",
        "price": {"input": 30, "output": 120},
        "backends": [{"url": each.url} for each in engines],
    }
    gateway = Running({"models": [served], **TREE}, Path(tempfile.mkdtemp()), models, BOOK).ready()
    lived(gateway)
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        taken(browser, gateway.admin)
        browser.close()
    gateway.close()
    for engine in engines:
        engine.close()


if __name__ == "__main__":
    main()
