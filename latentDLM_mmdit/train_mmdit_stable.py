"""lgdlm train --config-name mmdit_stable."""

import sys

from lgdlm.doors.training import train_mmdit_stable

if __name__ == "__main__":
    sys.exit(train_mmdit_stable())
