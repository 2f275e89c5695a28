"""Take the pictures of the READMEs: `python -m tests.dashboards.pictures [--out dashboards/pictures]`.

The story is told on a larger fleet, with readings that move. Needs chromium; takes some minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.dashboards.browser import picture
from tests.dashboards.scenes import films
from tests.dashboards.story import END, At, Film, Key, Node, blocks, playing, uuid

from gpuheal_dashboards.cli import main as dashboards
from gpuheal_lab.servers.find import Generation

FOLDER = Path(__file__).resolve().parents[2] / "dashboards" / "pictures"
SITE = "scrape_interval: 1m\ninterval: 1m\ncluster_label: cluster\n"
NODES, GPUS = 20, 8
MOVING = {"celsius": 2.5, "watts": 45.0, "GPU_UTIL": 6.0, "POWER_USAGE": 45.0, "_TEMP": 2.5}
"""How far readings move, by the end of their metric's name."""
HEIGHTS = {"fleet": 1560, "node": 1500, "gpu": 1560, "remediation": 1560, "pipeline": 1180}
SHOWN = {"gpu": ("a-3", 0)}
"""Node and GPU of a picture that does not show the worst."""
MOST_BYTES = 300_000


def moving(key: Key, at: At) -> At:
    """Return the series with some life in it."""
    ending = next((end for end in MOVING if key[0].endswith(end) and "limit" not in key[0]), None)
    if ending is None:
        return at
    phase = sum(ord(letter) for _name, value in key[1] for letter in value)

    def value(minute: int) -> float | None:
        now = at(minute)
        if now is None:
            return None
        wave = math.sin(minute / 7 + phase) + 0.5 * math.sin(minute / 2.3 + 2 * phase)
        return round(now + MOVING[ending] * 0.6 * wave, 1)

    return value


def larger() -> list[Film]:
    """Return the story on more nodes, with readings that move."""
    told = films(GPUS)
    for number in range(6, NODES + 1):
        Node(film=told[0], name=f"a-{number}", rack=f"r{1 + number % 4}", gpus=GPUS).healthy()
    for key, at in list(told[0].series.items()):
        told[0].series[key] = moving(key, at)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Write one picture for each board."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args(argv)
    args.out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpuheal-pictures-") as name:
        folder = Path(name)
        site = folder / "site.yaml"
        site.write_text(SITE)
        end = datetime.fromtimestamp(END, UTC).isoformat()
        with playing(blocks(larger(), folder / "story"), folder / "prometheus", Generation.DEBIAN) as running:
            for board, height in HEIGHTS.items():
                page, out = folder / f"{board}.html", args.out / f"{board}.png"
                asked = ["--prometheus", running.url, "--out", str(page), "--site", str(site), "--cluster", "a"]
                if board in SHOWN:
                    node, gpu = SHOWN[board]
                    asked += ["--node", node, "--gpu", uuid(node, gpu)]
                if dashboards(["preview", *asked, "--range", "2h", "--end", end]) != 0:
                    return 1
                picture(page, f"gpuheal-{board}", folder, out, height=height)
                size = out.stat().st_size
                print(f"{out}: {size} bytes")
                if size > MOST_BYTES:
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
