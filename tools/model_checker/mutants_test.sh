#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Each mutant that tools/model --mutate tries still fits its source, and what does not fit is seen.
set -euo pipefail
cd tools/model_checker
status=0
for file in mutants/*.txt; do
    part=$(basename "$file" .txt)
    count=$(./mutate.pl "$file" "../../boxes/${part%%-*}" | wc -l) || status=1
    echo "$part: $count mutants"
    ((count > 0)) || status=1
done
if ./mutate.pl mutants/run_cache.txt ../../boxes/shared_pool 2>/dev/null; then
    echo "mutants of another source seem to fit" >&2
    status=1
fi
exit "$status"
