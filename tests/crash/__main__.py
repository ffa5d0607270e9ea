"""`python -m crash`, with `tests` on the path: see `survey.main`."""

import sys

from crash.survey import main

sys.exit(main(sys.argv[1:]))
