"""Writes openapi.json from the routes; with --check, says whether the committed one is current."""

import json
import sys
from pathlib import Path

from handinger.server import describe_app

PATH = Path(__file__).parent.parent / "openapi.json"


def main() -> int:
    """Exit status: 1 if the committed description is not that of the routes."""
    text = json.dumps(describe_app().openapi(), indent=2, ensure_ascii=False) + "\n"
    if "--check" in sys.argv[1:]:
        if PATH.read_text(encoding="utf-8") == text:
            return 0
        print("openapi.json is not what the routes say; run `make openapi`.", file=sys.stderr)
        return 1
    PATH.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
