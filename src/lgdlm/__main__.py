"""`python -m lgdlm COMMAND ...` is `lgdlm COMMAND ...`."""

import sys

from lgdlm.cli.__main__ import main

sys.exit(main())
