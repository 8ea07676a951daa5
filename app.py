"""The page in a browser, as a Space starts it: what `ipadapter-demo serve` does.

python app.py --help
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ipadapter_demo.cli.serve import serve
from ipadapter_demo.errors import DemoError
from ipadapter_demo.settings import settings_from_args


def main(argv: Sequence[str] | None = None) -> None:
    settings = settings_from_args(argv)
    try:
        serve(settings)
    except (DemoError, OSError) as error:
        sys.exit(f"app.py: {error}")


if __name__ == "__main__":
    main()
