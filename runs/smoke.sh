#!/usr/bin/env bash
# The whole path on 4,000 definitions in about two minutes: data, training, evaluation, report.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/lgdlm demo --quick "$@"
