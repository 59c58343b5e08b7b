"""A gateway that has seen some traffic, and Chromium in front of its console."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.harness import Running, ScriptedBackend

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TOKEN = "console-token"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "the console is tested in Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def busy(start: Callable[..., Running], backend: ScriptedBackend) -> Running:
    """One of each: a miss, an exact hit, a paraphrase, a refusal."""
    backend.reply = lambda seen: "Paris is the capital of France."
    gateway = start({"admin": {"port": 0, "token": TOKEN}})
    for question in (
        "What is the capital of France?",
        "What is the capital of France?",
        "What is France's capital?",
    ):
        assert gateway.ask(question).status_code == 200
        gateway.settle()
    gateway.ask("How do I reverse a list in Python?")
    gateway.ask("no such thing", x_gateway_cache="only")
    gateway.settle()
    return gateway


@pytest.fixture
def page(browser: Browser, busy: Running) -> Iterator[Page]:
    """Signed in. Whatever the page says on its console, and whatever it throws, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.add_init_script(f"sessionStorage.setItem('gateway-admin-token', '{TOKEN}')")
    page.goto(busy.admin)
    page.complaints = complaints  # type: ignore[attr-defined]
    yield page
    context.close()
    assert complaints == []
