"""python -m ipadapter_demo"""

import sys

from ipadapter_demo.cli import main

if __name__ == "__main__":
    sys.exit(main())
