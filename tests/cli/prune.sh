# inspect, prune, compare and their JSON on the bundled models.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/resnet20.onnx

expect_out '"layers"' "$ESPALIER" inspect "$MODEL" --json
[ "$(json 'len(d["layers"])')" = 22 ] || fail "ResNet-20 has 19 convolutions, 2 shortcuts and one fc"
[ "$(json 'd["inputs"][0]["shape"]')" = Nx1x28x28 ] || fail "input shape"
expect_out "network output" "$ESPALIER" inspect "$MODEL" --coupling

for method in wsp sg; do
    for mode in faithful sound; do
        expect_out '"layers"' "$ESPALIER" prune "$MODEL" --method $method --mode $mode --ratio 0.4 --dry-run --json
        json 'all(set("01") >= set("".join(l["mask"])) and len(l["mask"]) > 0 for l in d["layers"])' | grep -q True ||
            fail "masks are strings of 0 and 1"
        json 'all({"name","weight","asked","got","params_before","params_after"} <= set(l) for l in d["layers"])' |
            grep -q True || fail "keys of a layer"
        expect_out "check" "$ESPALIER" prune "$MODEL" -o $method-$mode.onnx --method $method --mode $mode --ratio 0.4
        expect_out "smaller" sh -c "\"$ESPALIER\" compare \"$MODEL\" $method-$mode.onnx --json > c.json &&
            /usr/bin/python3 -c 'import json; d=json.load(open(\"c.json\")); print(\"smaller\" if d[\"b\"][\"params\"] < d[\"a\"][\"params\"] and d[\"b\"][\"macs\"] < d[\"a\"][\"macs\"] else d)'"
    done
done

# a plan saved from flags does what the flags did
expect_out '"layers"' "$ESPALIER" prune "$MODEL" --method sg --ratio 0.5 --groups 8 --layer 'layer1.*=0.2' --ignore fc \
    --save-plan plan.json --dry-run --json
json '[l["mask"] for l in d["layers"]]' >first.txt
expect_out '"layers"' "$ESPALIER" prune "$MODEL" --plan plan.json --dry-run --json
json '[l["mask"] for l in d["layers"]]' >second.txt
cmp -s first.txt second.txt || fail "the plan file gives other masks than the flags"
json '[l["asked"] for l in d["layers"] if l["name"]=="layer1.0.conv1"][0]' | grep -q '^0.2' || fail "ratio by layer"

# the masks of a masked model are in the file, and cutting later gives the same network
expect_out "masked" "$ESPALIER" prune "$MODEL" -o masked.onnx --masked --method sg --ratio 0.5 --seed 3
expect_out "wrote" "$ESPALIER" prune "$MODEL" -o cut.onnx --method sg --ratio 0.5 --seed 3
expect_out '"largest_relative"' "$ESPALIER" compare masked.onnx cut.onnx --json
json 'd["largest_relative"] < 1e-4' | grep -q True || fail "masked and cut differ"

# same seed, same bytes
expect_out "wrote" "$ESPALIER" prune "$MODEL" -o again.onnx --method sg --ratio 0.5 --seed 3 --threads 1
cmp -s cut.onnx again.onnx || fail "one seed gave two files"

expect_out '"median_ms"' "$ESPALIER" bench cut.onnx --repeats 3 --layers --json
json '{"median_ms","batch","threads","layers"} <= set(d)' | grep -q True || fail "keys of bench"
expect_out "GFLOP/s" "$ESPALIER" bench "$MODEL" --repeats 3 --layers
expect_out "median" "$ESPALIER" saliency "$MODEL" --criterion fpgm
expect_out "#" "$ESPALIER" saliency "$MODEL" --layer conv1

# flags that would do nothing are refused, and what they belong to is named
p="$ESPALIER prune $MODEL -n -r 0.4"
expect_out "conv1" $p -m wsp --save-plan wsp.json
while read -r flags; do
    expect 2 "-${flags%% *} is for method sg, found --method wsp (sound)" $p -m wsp -${flags}
    expect 2 "-${flags%% *} is for method sg, found --method filter" $p -m filter -${flags}
done <<END
-groups 4
-layer-groups conv1=2
-init random
-restarts 3
-no-cascade
-form dense
END
expect 2 "--border-ratio is for methods wsp and filter, found --method sg" $p -m sg --border-ratio 0.2
expect 2 "--form is for a model that is cut, found --masked" $p -m sg --masked --form dense
expect 2 "--ridge is for --reconstruct N, found none" $p -m wsp --ridge 0.1
expect 2 "--mean is for the images of --data, found no --data" $p -m wsp --mean 0.5
expect 2 "--recalibrate looks at images: --data SPEC is missing" $p -m wsp --recalibrate 20
expect 2 "--groups is for method sg, found --plan of method wsp" "$ESPALIER" explain "$MODEL" conv1 1 --plan wsp.json --groups 3

# zeros that stay in the model that was written are said to be computed all the same
expect_out "MACs with the zeros that stay" "$ESPALIER" prune "$SAMPLES/lenet5.onnx" -o dense.onnx -m sg -r 0.5 --form dense
expect_out '"stored_macs"' "$ESPALIER" prune "$SAMPLES/lenet5.onnx" -o dense.onnx -m sg -r 0.5 --form dense --json

# one threshold over equal weights takes all of them: as published, but said
DENSE=${ESPALIER_SHARED:-$ESP_SOURCE_DIR/../shared}/models/light/light_densenet121.onnx
if [ -r "$DENSE" ]; then
    expect_out "no connection is left in 120 layers" "$ESPALIER" prune "$DENSE" --method sg --mode faithful --ratio 0.5 --dry-run
else
    echo "skipped: no $DENSE"
fi
