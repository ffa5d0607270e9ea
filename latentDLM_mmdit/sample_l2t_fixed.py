"""lgdlm sample mode=l2t."""

import sys

from lgdlm.doors.sample_commands import sample_l2t

if __name__ == "__main__":
    sys.exit(sample_l2t())
