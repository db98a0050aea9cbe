# labels: slow
# The files `espalier prune` writes load in another runtime (onnxruntime) and give the outputs our executor gives.
# Needs node and npm with its registry the first time; exit status 77 ("skipped") without them.
set -eu

program="$ESP_BUILD_DIR/onnx_test_onnxruntime"
if [ ! -x "$program" ]; then
    echo "skipped: $program is not built"
    exit 77
fi
directory=$(mktemp -d "${TMPDIR:-/tmp}/espalier-ort-XXXXXX")
trap 'rm -rf "$directory"' EXIT

shared="${ESPALIER_SHARED:-$ESP_SOURCE_DIR/../shared}"
pruned=""
for model in "$ESP_SOURCE_DIR"/sample_models/*.onnx "$shared"/models/resnet20_cifar10.onnx \
             "$shared"/models/resnet20_cifar10_folded.onnx; do
    [ -f "$model" ] || continue
    base="$directory/$(basename "$model" .onnx)"
    "$ESPALIER" prune "$model" -o "$base-wsp.onnx" --method wsp --mode faithful --ratio 0.4 > "$base.log"
    "$ESPALIER" prune "$model" -o "$base-sg.onnx" --method sg --mode faithful --ratio 0.5 --groups 16 > "$base.log"
    pruned="$pruned $base-wsp.onnx $base-sg.onnx"
done
if [ -z "$pruned" ]; then
    echo "skipped: there is no model to prune"
    exit 77
fi
ESPALIER_ORT_MODELS="$pruned" "$program"
