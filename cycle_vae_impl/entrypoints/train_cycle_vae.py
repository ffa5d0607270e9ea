"""lgdlm train of a YAML file."""

import sys

from lgdlm.doors.cycle_commands import train_cycle_vae

if __name__ == "__main__":
    sys.exit(train_cycle_vae())
