#!/bin/sh
# Installs what is missing, builds Espalier and opens the workbench on a bundled model with Fashion-MNIST. Without a
# terminal it runs a short tour instead and prints the table of results.
set -eu

invocation_dir=$PWD
cd "$(dirname "$0")/.."
. scripts/packages.sh

case ${1:-} in
-h | --help)
    cat <<'END'
Usage: scripts/quickstart.sh [ARGUMENT...]

Installs what is missing from Debian, builds a release and runs it: the workbench in a terminal, a short tour
without one. Arguments go to the program; without any it opens a bundled model with Fashion-MNIST.

Example: scripts/quickstart.sh
         scripts/quickstart.sh my_model.onnx --data cifar10:my_data
END
    exit 0
    ;;
esac

install_missing_packages build run
use_ccache_if_there
build_preset release espalier
program=$PWD/build/release/espalier

if [ $# -gt 0 ]; then
    cd "$invocation_dir" # the user's paths are relative to where the user is
    exec "$program" "$@"
elif [ -t 0 ] && [ -t 1 ]; then
    exec "$program" --data fashion-mnist
fi

# A tour of some minutes: each of the six cut networks is tuned on a tenth of the images.
tour=scripts/experiments/first_prune.lua
echo "No terminal here: running $tour on a tenth of the images"
exec "$program" run "$tour" sample_models/resnet20.onnx fashion-mnist 1 build/first_prune.png 6000
