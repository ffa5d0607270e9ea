"""One forward and backward pass of cycle_vae on made-up data."""

import sys

from lgdlm.doors.cycle_commands import smoke_cycle_vae_forward

if __name__ == "__main__":
    sys.exit(smoke_cycle_vae_forward())
