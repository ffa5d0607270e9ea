"""lgdlm sample mode=joint."""

import sys

from lgdlm.doors.sample_commands import sample_unconditional

if __name__ == "__main__":
    sys.exit(sample_unconditional())
