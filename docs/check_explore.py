"""Check the page Explore of a built site in a browser: ``python docs/check_explore.py docs/_build/html``.

Needs Chromium. The page is opened as a file, with a script behind its own that uses the controls as a reader does; what
then stands on the page is compared with the data.
"""

import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = "chromium", "chromium-browser", "google-chrome"
TRIAL = """<script>
addEventListener("load", () => setTimeout(async () => {
  const controls = document.querySelector("form.explore").elements, found = [];
  const wait = () => new Promise((done) => setTimeout(done, 20));
  for (const actions of TRIALS) {
    for (const [name, value] of Object.entries(actions)) {
      if (name === "hash") location.hash = value;
      else controls[name].value = value;
      if (name !== "hash") controls[name].dispatchEvent(new Event("input", { bubbles: true }));
    }
    await wait();
    const text = (id) => document.getElementById(id).textContent;
    const path = document.querySelector("#explore-path .path").getAttribute("d");
    found.push({
      said: text("explore-said"), call: text("explore-call"), hash: location.hash,
      points: path.split("L").length, disabled: controls.momentum.disabled,
      off: document.documentElement.scrollWidth > innerWidth,
      loss: document.querySelector("#explore-loss .path").getAttribute("d").split("L").length,
    });
  }
  const focusable = [...document.querySelectorAll("form.explore select, form.explore input")];
  const reached = focusable.filter((one) => (one.focus(), document.activeElement === one)).length;
  document.body.textContent = "RESULT" + btoa(unescape(encodeURIComponent(JSON.stringify({ found, reached })))) + "END";
}, 500));
</script>"""
TRIALS = [
    {},
    {"landscape": 0, "optimizer": 0, "momentum": 0, "rate": 24},
    {"optimizer": 2, "rate": 12, "step": 7},
    {"hash": "saddle/Adam/0.1/0.9/40"},
    {"hash": "nowhere/None/7/x/"},
]


def trial(site: Path, width: int) -> dict:
    """Return what stands on the page after each trial, in a window of this width."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("check_explore needs Chromium")
    script = TRIAL.replace("TRIALS", json.dumps(TRIALS))
    page = (site / "explore.html").read_text().replace("</body>", script + "</body>")
    copy = site / "explore_trial.html"
    copy.write_text(page)
    try:
        with tempfile.TemporaryDirectory() as profile:
            options = "--headless=new --no-sandbox --disable-gpu --virtual-time-budget=8000 --dump-dom"
            command = [
                browser,
                *options.split(),
                f"--user-data-dir={profile}",
                f"--window-size={width},900",
            ]
            shown = subprocess.run(
                [*command, copy.as_uri()], capture_output=True, text=True, check=True
            ).stdout
    finally:
        copy.unlink()
    result = re.search(r"RESULT(.*?)END", shown)
    if result is None:
        raise SystemExit("the page's script didn't run:\n" + shown[-2000:])
    return json.loads(base64.b64decode(result[1]))


def check(result: dict) -> None:
    first, far, plain, named, unknown = result["found"]
    assert first["call"] == "gc.sgd(0.1, momentum=0.9)", first
    assert first["points"] == first["loss"] == 101, first
    assert first["said"].startswith("Step 100: the loss is "), first
    assert far["call"] == "gc.sgd(10, momentum=0)", far
    assert "diverges" in far["said"], far
    assert far["points"] < 10, far
    assert plain["call"] == "gc.adagrad(0.1)", plain
    assert plain["disabled"], plain
    assert plain["said"].startswith("Step 7: "), plain
    assert plain["hash"] == "#bowl/AdaGrad/0.1/0/7", plain
    assert named["call"] == "gc.adam(0.1, b1=0.9)", named
    assert not named["disabled"], named
    assert named["said"].startswith("Step 40: the loss is 0.02"), named
    assert unknown["call"] == first["call"], unknown
    assert not any(one["off"] for one in result["found"]), "the page scrolls sideways"
    assert result["reached"] == 5, result["reached"]


if __name__ == "__main__":
    for width in (1440, 500):
        check(trial(Path(sys.argv[1]).resolve(), width))
        print(f"Explore works in a window of {width} pixels")
