"""lgdlm train --config-name mmdit."""

import sys

from lgdlm.doors.training import train_mmdit

if __name__ == "__main__":
    sys.exit(train_mmdit())
