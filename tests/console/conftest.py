"""A gateway that has seen some traffic, and Chromium in front of its console.

Playwright keeps an event loop running in its thread for as long as it is open, and nothing there may call `asyncio.run`
meanwhile: so it is open for this folder's one module, and no longer.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from tests.harness import Running, ScriptedBackend

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TOKEN = "console-token"
ROLES = {"read": "a-token-to-read", "policy": "a-token-for-policies"}
KEY = "a-key-of-acme"
TREE: dict[str, Any] = {
    "admin": {
        "port": 0,
        "token": TOKEN,
        "tokens": [{"name": f"{role}er", "token": token, "role": role} for role, token in ROLES.items()],
    },
    "tenants": [
        {
            "name": "acme",
            "keys": [{"key": KEY, "label": "web"}, {"key": "test", "label": "ci"}],
            "limits": {"requests_per_minute": 600},
            "budget": {"soft": 40, "hard": 50},
        }
    ],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """One for all, so that the chart library is read once."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "the console is tested in Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        browser.close()


def visited(gateway: Running, backend: ScriptedBackend) -> Running:
    """One of each: a miss, an exact hit, a paraphrase, a refusal; and a hit that somebody calls wrong."""
    backend.reply = lambda seen: "Paris is the capital of France."
    for question in (
        "What is the capital of France?",
        "What is the capital of France?",
        "What is France's capital?",
    ):
        last = gateway.ask(question)
        assert last.status_code == 200
        gateway.settle()
    gateway.ask("How do I reverse a list in Python?")
    gateway.ask("no such thing", x_gateway_cache="only")
    gateway.settle()
    told = {"request_id": last.headers["x-request-id"], "verdict": "good"}
    assert gateway.post("/v1/feedback", told).status_code == 200
    return gateway


@pytest.fixture
def busy(start: Callable[..., Running], backend: ScriptedBackend) -> Running:
    """For tests that change something."""
    return visited(start(TREE), backend)


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Iterator[Running]:
    """For those that only look."""
    backend = ScriptedBackend()
    models = {"models": [{"name": "*", "backends": [{"url": backend.url}]}]}
    gateway = Running({**models, **TREE}, tmp_path_factory.mktemp("looked-at"), model_cache).ready()
    yield visited(gateway, backend)
    gateway.close()
    backend.close()


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: BrowserContext) -> Iterator[Open]:
    """Opens a console, signed in. Whatever a page says on its console, and whatever it throws, fails the test."""
    complaints: list[str] = []

    def opened(gateway: Running, token: str = TOKEN, panel: str = "overview") -> Page:
        page = browser.new_page()
        page.set_default_timeout(10_000)
        page.on(
            "console",
            # Chromium notes each answer that is a refusal; those are looked for on the page itself
            lambda message: (
                complaints.append(message.text)
                if message.type in ("error", "warning") and "Failed to load resource" not in message.text
                else None
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if token:
            page.add_init_script(f"sessionStorage.setItem('gateway-admin-token', '{token}')")
        page.goto(f"{gateway.admin}/#{panel}")
        return page

    yield opened
    for page in browser.pages:
        page.evaluate("localStorage.clear()")
        page.close()
    assert complaints == []
