# labels: slow
# Accuracy on files of images is what torchvision's transforms give: 2,000 photographs of all sizes, read by us and by it.
# Needs Debian's python3-torchvision and the CIFAR-10 images; exit status 77 ("skipped") without them.
. "$(dirname "$0")/lib.inc"
SHARED=${ESPALIER_SHARED:-$ESP_SOURCE_DIR/../shared}
CIFAR=$SHARED/data/cifar10
MODEL=$SHARED/models/resnet20_cifar10.onnx
[ -f "$MODEL" ] && [ -f "$CIFAR/test_batch.bin" ] || { echo "skipped: no CIFAR-10 and no model of it"; exit 77; }
/usr/bin/python3 -c "import torchvision" 2>/dev/null || { echo "skipped: no python3-torchvision"; exit 77; }

for sizes in "36 32" "32 32" "48 32"; do
    set -- $sizes
    /usr/bin/python3 "$ESP_SOURCE_DIR/tests/oracle/torchvision_images.py" "$CIFAR" set$1 2000 "$1" "$2" 2>/dev/null
    "$ESPALIER" eval "$MODEL" --data "folder:set$1/folder?resize=$1,crop=$2" --json >out.txt
    ours=$(json '[d["top1"], d["top5"], round(d["loss"], 5)]')
    "$ESPALIER" eval "$MODEL" --data "npy:set$1/npy" --json >out.txt
    theirs=$(json '[d["top1"], d["top5"], round(d["loss"], 5)]')
    echo "resize $1, centre $2: ours $ours, torchvision's $theirs"
    [ "$ours" = "$theirs" ] || fail "other figures than on torchvision's images"
done
