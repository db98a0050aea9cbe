# espalier zoo: the list, sizes, files, weights by name.
. "$(dirname "$0")/lib.inc"
WEIGHTS=$ESP_SOURCE_DIR/tests/lua/data/torch_resnet8.safetensors

expect_out "resnet18" "$ESPALIER" zoo
expect_out "" "$ESPALIER" zoo --json
[ "$(json 'len([n for n in d["networks"] if n["name"] == "mobilenet_v2"])')" = 1 ] || fail "the list as JSON"

expect_out "25.56M params, 4.089G MACs" "$ESPALIER" zoo resnet50
expect_out "" "$ESPALIER" zoo lenet5 --json
[ "$(json 'd["params"], d["model"] if "model" in d else None')" = "431080 None" ] || fail "a size without a file"

expect_out "lenet.onnx" "$ESPALIER" zoo lenet5 -o lenet.onnx --classes 7 --input 1x20x20 --seed 4
expect_out "" "$ESPALIER" inspect lenet.onnx --json
[ "$(json 'd["layers"][-1]["filters"], d["inputs"][0]["shape"]')" = "7 Nx1x20x20" ] || fail "classes and input"
cp lenet.onnx again.onnx
expect_out "again.onnx" "$ESPALIER" zoo lenet5 -o again.onnx --classes 7 --input 1x20x20 --seed 4
cmp lenet.onnx again.onnx || fail "one seed, one file"

# what is written says all that ONNX asks for
if /usr/bin/python3 -c 'import onnx' 2>err.txt; then
    for name in lenet5 resnet20 mobilenet_v2 squeezenet1_1; do
        expect_out "" "$ESPALIER" zoo $name -o checked.onnx
        /usr/bin/python3 -c 'import onnx; onnx.checker.check_model(onnx.load("checked.onnx"), full_check=True)' ||
            fail "ONNX's checker refuses $name"
    done
else
    echo "python3-onnx is not installed: not checked by ONNX's checker"
fi

expect 1 "no weight of this network" "$ESPALIER" zoo lenet5 -o never.onnx --weights "$WEIGHTS" --partial
expect 1 "(--partial leaves" "$ESPALIER" zoo resnet20 -o never.onnx --weights "$WEIGHTS" --width 4
expect_out "" "$ESPALIER" zoo resnet20 -o partly.onnx --weights "$WEIGHTS" --width 4 --partial --json
[ "$(json 'd["weights"]["loaded"], len(d["weights"]["missing"]), d["weights"]["unexpected"]')" = "37 60 []" ] ||
    fail "what was loaded"

expect 2 "did you mean 'resnet50'" "$ESPALIER" zoo resnet51 -o never.onnx
expect 2 "at least 32 x 32" "$ESPALIER" zoo vgg16 --input 3x16x16 -o never.onnx
expect 2 "--input 3x: expected" "$ESPALIER" zoo vgg16 --input 3x -o never.onnx
expect 2 "unknown key 'width'" "$ESPALIER" zoo lenet5 --width 2 -o never.onnx
expect 1 "missing.safetensors" "$ESPALIER" zoo lenet5 --weights missing.safetensors -o never.onnx
expect 1 "no/where" "$ESPALIER" zoo lenet5 -o no/where/x.onnx
[ ! -e never.onnx ] || fail "a failed command left a file"
expect_out "Example" "$ESPALIER" zoo --help
