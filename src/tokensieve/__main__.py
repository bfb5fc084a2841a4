"""`python -m tokensieve` is `tokensieve`."""

import sys

from tokensieve.cli import main

sys.exit(main())
