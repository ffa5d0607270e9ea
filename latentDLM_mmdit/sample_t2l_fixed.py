"""lgdlm sample mode=t2l."""

import sys

from lgdlm.doors.sample_commands import sample_t2l

if __name__ == "__main__":
    sys.exit(sample_t2l())
