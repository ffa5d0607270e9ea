"""lgdlm prepare prepare.layout=samples."""

import sys

from lgdlm.doors.corpus_command import prepare_data_multi_gpu

if __name__ == "__main__":
    sys.exit(prepare_data_multi_gpu())
