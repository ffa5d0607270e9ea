"""Tokens of a list of texts, one file a text."""

import sys

from lgdlm.doors.token_files import preprocess_tokenize_text

if __name__ == "__main__":
    sys.exit(preprocess_tokenize_text())
