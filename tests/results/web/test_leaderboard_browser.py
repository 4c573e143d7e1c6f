"""The leaderboard in headless Chromium, from disk: sorting, filters, answers, and not one request to the network."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from crosstok.results.store.records import Sample, Verdict
from crosstok.results.store.store import Store
from crosstok.results.web.leaderboard import write_leaderboard

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.allow_hosts(["127.0.0.1", "::1", "localhost"]),  # the driver listens on loopback
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed"),
]
ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
TEXTS = {
    "h/attack": ATTACK,
    "h/escape": "\x1b[31mred\x1b[0m and \x00 and \x07",
    "h/long": "y" * 1_000_000,
    "h/bytes": b"\xff\xfe broken".decode("utf-8", "replace"),
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,900",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, fill_store_once: Path) -> str:
    with Store(fill_store_once) as store:
        cell = "quickstart-base-humaneval"
        store.add_samples(
            Sample(
                cell=cell, document=name, prompt=ATTACK, text=text, stop_reason="stop", bytes=9, tokens=3, seconds=0.1
            )
            for name, text in TEXTS.items()
        )
        store.add_verdicts(
            Verdict(cell=cell, document=name, status="failed", integrity="split", tier="t", error=ATTACK)
            for name in TEXTS
        )
        store.add_samples(
            Sample(cell=cell, document=f"more/{n:03}", text="t", bytes=1, tokens=1, seconds=0.1) for n in range(60)
        )
        return write_leaderboard(store, tmp_path_factory.mktemp("board") / "board").as_uri()


@pytest.fixture(autouse=True)
def _quiet(driver: webdriver.Chrome) -> Iterator[None]:
    """No test may leave a console message or have asked for anything but files."""
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    yield
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


def names(driver: webdriver.Chrome) -> list[str]:
    rows = driver.find_elements(By.CSS_SELECTOR, "#board tbody tr")
    return [row.find_element(By.TAG_NAME, "a").text for row in rows if row.is_displayed()]


def header(driver: webdriver.Chrome, text: str) -> WebElement:
    return driver.find_element(By.XPATH, f"//thead//th[button[text()='{text}']]")


def open_answers(driver: webdriver.Chrome, index: str) -> WebElement:
    driver.get(index)
    driver.find_element(By.LINK_TEXT, "base").click()
    section = driver.find_element(By.CSS_SELECTOR, "section.answers[data-cell='quickstart-base-humaneval']")
    section.find_element(By.CSS_SELECTOR, "button.open").click()
    WebDriverWait(driver, 10).until(lambda _: section.find_elements(By.TAG_NAME, "details"))
    return section


def test_a_column_sorts_both_ways_and_says_so(driver: webdriver.Chrome, index: str) -> None:
    driver.get(index)
    assert names(driver) == ["base", "fvt", "sft", "alm", "pair"]
    column = header(driver, "code_bpb")
    column.find_element(By.TAG_NAME, "button").click()
    assert names(driver)[0] == "base"
    assert names(driver)[-1] == "fvt"
    assert column.get_attribute("aria-sort") == "ascending"
    column.find_element(By.TAG_NAME, "button").click()
    assert names(driver)[0] == "fvt"
    assert column.get_attribute("aria-sort") == "descending"
    assert len(driver.find_elements(By.CSS_SELECTOR, "[aria-sort]")) == 1


def test_a_column_sorts_from_the_keyboard(driver: webdriver.Chrome, index: str) -> None:
    driver.get(index)
    button = header(driver, "vocabulary").find_element(By.TAG_NAME, "button")
    button.send_keys(Keys.ENTER)
    assert names(driver)[-1] == "base"
    button.send_keys(Keys.SPACE)
    assert names(driver)[0] == "base"


def test_filters_narrow_models_and_tasks_and_count(driver: webdriver.Chrome, index: str) -> None:
    driver.get(index)
    box = driver.find_element(By.ID, "filter-models")
    box.send_keys("train:bpe alm")
    assert names(driver) == ["alm"]
    assert driver.find_element(By.ID, "filter-count").text == "1 of 5 models"
    box.clear()
    box.send_keys("zzz")
    assert names(driver) == []
    box.clear()
    box.send_keys(Keys.SPACE)
    assert len(names(driver)) == 5
    driver.find_element(By.ID, "filter-tasks").send_keys("humaneval")
    assert header(driver, "humaneval").is_displayed()
    assert not driver.find_element(By.XPATH, "//th[@data-task='code_bpb']").is_displayed()


def test_hostile_answers_stay_text(driver: webdriver.Chrome, index: str) -> None:
    section = open_answers(driver, index)
    title = driver.title
    for name, text in TEXTS.items():
        details = section.find_element(By.XPATH, f".//details[summary/b[text()='{name}']]")
        details.find_element(By.TAG_NAME, "summary").click()
        WebDriverWait(driver, 10).until(lambda _, found=details: found.find_elements(By.TAG_NAME, "pre"))
        shown = details.find_elements(By.TAG_NAME, "pre")[-1].get_property("textContent")
        if name == "h/attack":
            assert shown == text
        elif name == "h/escape":
            assert shown == "\u241b[31mred\u241b[0m and \u2400 and \u2407"
        elif name == "h/long":
            assert shown.startswith("yyyy")
            assert "980000 more characters" in shown
        else:
            assert shown == "\ufffd\ufffd broken"
    assert driver.title == title != "owned"
    assert not driver.find_elements(By.TAG_NAME, "img")
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_answers_are_paged(driver: webdriver.Chrome, index: str) -> None:
    section = open_answers(driver, index)
    assert len(section.find_elements(By.TAG_NAME, "details")) == 50
    label = section.find_element(By.CSS_SELECTOR, "[role=status]")
    assert label.text == "1 to 50 of 105"
    back, forward = (section.find_element(By.XPATH, f".//button[text()='{text}']") for text in ("Previous", "Next"))
    assert not back.is_enabled()
    forward.click()
    WebDriverWait(driver, 10).until(lambda _: label.text == "51 to 100 of 105")
    forward.click()
    WebDriverWait(driver, 10).until(lambda _: label.text == "101 to 105 of 105")
    assert not forward.is_enabled()
    assert len(section.find_elements(By.TAG_NAME, "details")) == 5


def test_an_answer_says_verdict_stop_reason_bytes_and_tokens(driver: webdriver.Chrome, index: str) -> None:
    section = open_answers(driver, index)
    summary = section.find_element(By.XPATH, ".//summary[b[text()='h/attack']]").text
    assert summary == "h/attack failed, stop reason: stop, 9 bytes, 3 tokens"


def test_every_control_has_a_name_and_every_page_fits_a_phone(driver: webdriver.Chrome, index: str) -> None:
    driver.get(index)
    links = [link.get_attribute("href") for link in driver.find_elements(By.CSS_SELECTOR, "tbody a, ul a")]
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        for page in [index, *dict.fromkeys(link for link in links if link)]:
            driver.get(page)
            assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth"), page
            for control in driver.find_elements(By.CSS_SELECTOR, "button, input, a, summary, figure, [role=region]"):
                assert control.accessible_name.strip() or not control.is_displayed(), control.get_attribute("outerHTML")
            assert len(driver.find_elements(By.TAG_NAME, "h1")) == 1
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRAST = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => {
  const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = numbers(colour).map((x) => linear(x / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if ((numbers(colour)[3] ?? 1) > 0) return colour;
  }
  return "rgb(255, 255, 255)";
};
return [...document.querySelectorAll("h1, a, p, small, td, th, button, .badge, summary, pre, .passed, .bad, svg text")]
  .filter((one) => one.textContent.trim() && one.checkVisibility())
  .map((one) => {
    const style = getComputedStyle(one);
    const ink = one instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(behind(one))].sort((x, y) => y - x);
    return [one.outerHTML.slice(0, 120), (a + 0.05) / (b + 0.05)];
  })
  .filter(([, ratio]) => ratio < 4.5);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it_by_day_and_by_night(
    driver: webdriver.Chrome, index: str, scheme: str
) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        section = open_answers(driver, index)
        section.find_element(By.TAG_NAME, "summary").click()
        WebDriverWait(driver, 10).until(lambda _: section.find_elements(By.TAG_NAME, "pre"))
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
        assert driver.execute_script(CONTRAST) == []
        driver.get(index)
        assert driver.execute_script(CONTRAST) == []
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_an_answer_opens_from_the_keyboard(driver: webdriver.Chrome, index: str) -> None:
    driver.get(index)
    driver.find_element(By.LINK_TEXT, "base").send_keys(Keys.ENTER)
    section = driver.find_element(By.CSS_SELECTOR, "section.answers[data-cell='quickstart-base-humaneval']")
    section.find_element(By.CSS_SELECTOR, "button.open").send_keys(Keys.ENTER)
    WebDriverWait(driver, 10).until(lambda _: section.find_elements(By.TAG_NAME, "details"))
    assert driver.switch_to.active_element.tag_name == "summary"
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(driver, 10).until(lambda _: section.find_elements(By.TAG_NAME, "pre"))
