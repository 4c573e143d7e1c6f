"""Take the pictures of the README: the leaderboard of a store, photographed in headless Chromium.

    python bench/pictures.py [STORE] [OUT]     # default: runs/crosstok.db into docs/pictures

Pictures: the table, the plots of a task, an answer with its verdict, and the table on a phone in the dark. Needs the
Debian packages chromium and chromium-driver.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from process import run
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from crosstok.errors import UserError
from crosstok.folders import cache_folder
from crosstok.results.store.store import Store
from crosstok.results.web.leaderboard import write_leaderboard

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDE, PHONE = (1200, 760), (390, 760)


@contextmanager
def browser() -> "Iterator[webdriver.Chrome]":
    """Start Chromium and its driver; both end with the block."""
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(found):
        raise UserError("chromium or chromedriver is missing.", hint="apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        options = Options()
        options.binary_location = str(found[0])
        for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(str(found[1])))
        try:
            yield driver
        finally:
            driver.quit()


def view(driver: webdriver.Chrome, size: tuple[int, int], *, dark: bool = False) -> None:
    """Set the size of the page in CSS pixels, and whether it is dark."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1.5, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def table(driver: webdriver.Chrome, index: Path) -> None:
    """Show the table, as it opens."""
    view(driver, WIDE)
    driver.get(index.as_uri())


def plots(driver: webdriver.Chrome, index: Path) -> None:
    """Show the plots of the first page."""
    view(driver, WIDE)
    driver.get(index.as_uri())
    driver.execute_script("document.querySelector('.plots').scrollIntoView()")


def answer(driver: webdriver.Chrome, index: Path) -> None:
    """Show an answer that was judged, of the first model that has one."""
    view(driver, WIDE)
    driver.get(index.as_uri())
    links = [
        link.get_attribute("href") for link in driver.find_elements(By.CSS_SELECTOR, "#board tbody a[href*=models]")
    ]
    for link in links:
        driver.get(str(link))
        for button in driver.find_elements(By.CSS_SELECTOR, "section.answers button.open"):
            button.click()
            WebDriverWait(driver, 10).until(lambda _: driver.find_elements(By.CSS_SELECTOR, "details"))
            judged = driver.find_elements(By.CSS_SELECTOR, "details:has(.passed)")
            judged = judged or driver.find_elements(By.CSS_SELECTOR, "details:has(.bad)")
            if judged:
                driver.execute_script("arguments[0].open = true", judged[0])
                WebDriverWait(driver, 10).until(lambda _, one=judged[0]: one.find_elements(By.TAG_NAME, "pre"))
                driver.execute_script("arguments[0].closest('section').scrollIntoView()", judged[0])
                return
    raise UserError("No model of the store has an answer with a verdict.", hint="Run suites/quickstart.yaml.")


def phone(driver: webdriver.Chrome, index: Path) -> None:
    """Show the table on a phone in the dark."""
    view(driver, PHONE, dark=True)
    driver.get(index.as_uri())


PICTURES: dict[str, Callable[[webdriver.Chrome, Path], None]] = {
    "leaderboard": table,
    "plots": plots,
    "answer": answer,
    "phone": phone,
}


def main() -> None:
    """Write the leaderboard to a temporary folder and the pictures of it to OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", default="runs/crosstok.db")
    parser.add_argument("out", nargs="?", type=Path, default=Path(__file__).parent.parent / "docs" / "pictures")
    chosen = parser.parse_args()
    store, out = chosen.store, chosen.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Store(store, read_only=True) as opened, browser() as driver:
        index = write_leaderboard(opened, Path(folder) / "board", students=cache_folder() / "students")
        for name, show in PICTURES.items():
            show(driver, index)
            path = out / f"{name}.png"
            driver.save_screenshot(str(path))
            print(path)


if __name__ == "__main__":
    run(main)
