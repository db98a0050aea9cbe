# What looks at images: saliency by criteria with data, prune --reconstruct and --recalibrate, and their errors.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/resnet20.onnx

# a small set that every machine has: 40 training and 20 test images of ten classes, 28x28, as IDX files
/usr/bin/python3 - <<'EOF'
import struct
for name, count in (("train", 40), ("t10k", 20)):
    with open(name + "-images-idx3-ubyte", "wb") as f:
        f.write(struct.pack(">4I", 0x803, count, 28, 28))
        f.write(bytes((n * 31 + y * (n % 10 + 3) + x * x * (n % 7 + 1)) % 256 for n in range(count) for y in range(28) for x in range(28)))
    with open(name + "-labels-idx1-ubyte", "wb") as f:
        f.write(struct.pack(">2I", 0x801, count) + bytes(n % 10 for n in range(count)))
EOF

for criterion in activation apoz taylor taylor-weight; do
    expect 2 "looks at data" "$ESPALIER" saliency "$MODEL" --criterion $criterion
    expect_out '"layers"' "$ESPALIER" saliency "$MODEL" --criterion $criterion --data idx:. --calibrate 20 --seed 3 --json
    [ "$(json 'len(d["layers"])')" = 22 ] || fail "$criterion: not all layers"
    [ "$(json 'd["images"]')" = 20 ] || fail "$criterion: not the images that were asked for"
    json 'min(s for l in d["layers"] for s in l["saliency"] or [0]) >= 0' | grep -q True || fail "$criterion: below 0"
    cp out.txt two.txt
    expect_out '"layers"' "$ESPALIER" saliency "$MODEL" --criterion $criterion --data idx:. --calibrate 20 --seed 3 --json --threads 1
    cmp -s out.txt two.txt || fail "$criterion: one thread gives other scores"
done
expect_out "on 20 images of idx:." "$ESPALIER" saliency "$MODEL" --criterion taylor --data idx:. --calibrate 20 --layer layer1.0.conv1
expect 1 "says nothing of it" "$ESPALIER" saliency "$MODEL" --criterion apoz --data idx:. --layer fc
expect 2 "expected train or test" "$ESPALIER" saliency "$MODEL" --criterion taylor --data idx:. --split other
expect_out "lamp" "$ESPALIER" saliency --help

# the same channels are cut, other numbers are inside
expect_out "wrote" "$ESPALIER" prune "$MODEL" -o plain.onnx --method wsp --ratio 0.4
expect_out '"surgery"' "$ESPALIER" prune "$MODEL" -o better.onnx --method wsp --ratio 0.4 --data idx:. --reconstruct 40 --recalibrate 40 --json
[ "$(json 'd["reconstruct"]["images"]')" = 40 ] || fail "images of the reconstruction"
[ "$(json 'd["recalibrate"]["norms"] > 0')" = True ] || fail "no batch-norm was measured"
json 'all(l["left_for"] or l["error_after"] <= l["error_before"] for l in d["reconstruct"]["layers"])' | grep -q True ||
    fail "a layer is worse than before"
expect_out '"largest_absolute"' "$ESPALIER" compare plain.onnx better.onnx --json
json 'd["a"]["params"] == d["b"]["params"] and d["a"]["macs"] == d["b"]["macs"] and d["largest_absolute"] > 0' | grep -q True ||
    fail "reconstruction changes sizes, or nothing"
expect_out "batch-norms measured again" "$ESPALIER" prune "$MODEL" -o masked.onnx --masked --method wsp --ratio 0.4 --data idx:. --recalibrate 40
expect_out "solved" "$ESPALIER" prune "$MODEL" -o masked.onnx --masked --method wsp --ratio 0.4 --data idx:. --reconstruct 40
expect 2 "--data SPEC is missing" "$ESPALIER" prune "$MODEL" -o x.onnx --method wsp --ratio 0.4 --recalibrate 40
expect 2 "--data SPEC is missing" "$ESPALIER" prune "$MODEL" -o x.onnx --method wsp --ratio 0.4 --reconstruct 40
[ ! -e x.onnx ] || fail "a file was written after an error"

# LeNet has no batch-norm: said, and the model is what it would have been
expect_out "has no batch-norm" "$ESPALIER" prune "$SAMPLES/lenet5.onnx" -o lenet.onnx --method wsp --ratio 0.4 --data idx:. --recalibrate 40
expect_out "wrote" "$ESPALIER" prune "$SAMPLES/lenet5.onnx" -o same.onnx --method wsp --ratio 0.4
cmp -s lenet.onnx same.onnx || fail "a model without batch-norm was changed"
