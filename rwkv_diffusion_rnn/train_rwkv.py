"""lgdlm train --config-name rwkv_mmdit."""

import sys

from lgdlm.doors.training import train_rwkv

if __name__ == "__main__":
    sys.exit(train_rwkv())
