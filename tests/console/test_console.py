"""The console in Chromium: every panel, a policy edited, an entry purged, the playground; nothing that axe finds serious."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.console.conftest import TOKEN
from tests.harness import Running

PANELS = ["Overview", "Traffic", "Policies", "Entries", "Backends", "Playground"]


def open_panel(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")
    expect(page.locator("main h1")).to_be_visible()


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def test_every_panel_shows_what_the_gateway_did(page: Page) -> None:
    expect(page.locator("dl.tiles")).to_contain_text("5")
    expect(page.get_by_role("table", name="Requests of the last hour by decision")).to_contain_text(
        "semantic"
    )
    expect(page.locator(".chart .main-svg").first).to_be_visible()
    open_panel(page, "Traffic")
    rows = page.get_by_role("table").locator("tbody tr")
    expect(rows).to_have_count(5)
    page.get_by_label("Decision").select_option("semantic")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("What is France's capital?")
    open_panel(page, "Backends")
    expect(page.get_by_role("table", name="Backends")).to_contain_text("healthy")
    page.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("table", name="Backends")).to_contain_text("drained")
    page.get_by_role("button", name="Enable").click()
    expect(page.get_by_role("table", name="Backends")).to_contain_text("healthy")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, theme: str) -> None:
    while theme not in (page.locator("#theme").text_content() or ""):
        page.locator("#theme").click()
    for name in PANELS:
        open_panel(page, name)
        page.wait_for_load_state("networkidle")
        assert serious(page) == [], name


def test_a_policy_is_tried_on_recent_traffic_and_saved(page: Page, busy: Running) -> None:
    open_panel(page, "Policies")
    page.get_by_label("Category").select_option("default")
    page.get_by_label("threshold", exact=True).fill("0.99")
    page.get_by_label("threshold", exact=True).blur()
    page.get_by_role("button", name="Validate and try").click()
    expect(page.locator("main")).to_contain_text("1 fewer")
    expect(page.get_by_role("table", name="What would change")).to_contain_text("0.99")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("main")).to_contain_text("Saved, and in force.")
    assert busy.app.policy.book.category("default").cache.threshold == 0.99


def test_a_bad_policy_is_refused_with_its_reasons(page: Page, busy: Running) -> None:
    before = busy.app.policy.book.version
    open_panel(page, "Policies")
    text = page.get_by_label("The whole category as JSON")
    text.fill(re.sub(r'"mode": "\w+"', '"mode": "sometimes"', text.input_value(), count=1))
    complaints = page.complaints  # type: ignore[attr-defined]
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("table", name="Faults")).to_contain_text("mode")
    complaints[:] = [each for each in complaints if "422" not in each]  # Chromium notes each refusal
    assert busy.app.policy.book.version == before


def test_an_entry_is_found_and_purged(page: Page, busy: Running) -> None:
    open_panel(page, "Entries")
    page.get_by_label("Question holds").fill("REVERSE a list")
    page.get_by_role("button", name="Search").click()
    rows = page.get_by_role("table", name="Entries, newest first").locator("tbody tr")
    expect(rows).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name=re.compile("Purge entry")).click()
    expect(page.locator("#said")).to_contain_text("1 purged")
    assert len(busy.app.cache.catalog) == 1


def test_the_playground_shows_why_beside_what(page: Page) -> None:
    open_panel(page, "Playground")
    page.get_by_label("Model").fill("m")
    page.get_by_label("API key").fill("test")
    page.get_by_label("Prompt", exact=True).fill("What is France's capital?")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("table", name="Candidates, nearest first")).to_contain_text("ok")
    expect(page.locator(".answer")).to_have_text("Paris is the capital of France.")
    expect(page.get_by_role("table", name="Headers")).to_contain_text("semantic")
    page.get_by_label("Prompt", exact=True).fill("What is the capital of Peru?")
    page.get_by_role("button", name="Only explain").click()
    expect(page.locator("main")).to_contain_text("below-threshold")
    expect(page.locator("main")).to_contain_text("Not asked.")


def test_a_wrong_token_is_asked_for_again(browser: Browser, busy: Running) -> None:
    page = browser.new_page()
    page.goto(busy.admin)
    for token in ("wrong", TOKEN):
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
    expect(page.locator("dl.tiles")).to_be_visible()
    page.close()


def test_it_works_by_keyboard_and_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Traffic")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main h1")).to_have_text("Live traffic")
    for name in PANELS:
        open_panel(page, name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"
