#!/bin/sh
# Installs what is missing, builds everything and runs every test. The last line is CTest's summary.
#
# Four builds: release (gcc, warnings are errors), clang (the same, compiled only), and two with sanitizers: address
# and undefined behaviour for all tests, thread for those that start threads. One CTest run covers them all.
set -eu

cd "$(dirname "$0")/.."
. scripts/packages.sh

usage() {
    cat <<'END'
Usage: scripts/test.sh [--slow] [-h | --help]

Installs what is missing from Debian, builds, and runs every test.

  --slow    also the slow tier: long tests, and the check against onnxruntime, which its test fetches from npm

Example: scripts/test.sh
END
}

with_slow=no
for argument in "$@"; do
    case $argument in
    --slow) with_slow=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        echo "scripts/test.sh: unknown argument '$argument', expected --slow or --help" >&2
        exit 2
        ;;
    esac
done

if [ $with_slow = yes ]; then
    install_missing_packages build run test slow
    set --
else
    install_missing_packages build run test
    set -- --label-exclude slow
fi
use_ccache_if_there

build_preset release all -DESP_WERROR=ON
build_preset clang all -DESP_WERROR=ON
build_preset asan all
build_preset tsan all

# A test directory that holds nothing but the three others.
mkdir -p build/tests
echo 'subdirs("../release" "../asan" "../tsan")' >build/tests/CTestTestfile.cmake

status=0
ctest --test-dir build/tests --parallel "$(nproc)" --output-on-failure --no-tests=error \
    --output-log build/tests/ctest.log "$@" || status=$?

# CTest ends with times and the names of skipped tests: the summary once more, so that it is the last line.
grep -E '^[0-9]+% tests passed' build/tests/ctest.log || echo 'CTest gave no summary: see build/tests/ctest.log'
exit $status
