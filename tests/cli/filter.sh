# Filter pruning, the ledger and explanations on the bundled models.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/resnet20.onnx

expect_out "wrote" "$ESPALIER" prune "$MODEL" -o cut.onnx --method filter --criterion fpgm --ratio 0.5 --scope global --round-to 8
expect_out '"layers"' "$ESPALIER" inspect cut.onnx --json
json 'all(l["filters"] % 8 == 0 for l in d["layers"] if l["name"] != "fc")' | grep -q True || fail "multiples of 8"
json 'min(l["filters"] for l in d["layers"]) < max(l["filters"] for l in d["layers"])' | grep -q True || fail "layers"

for flags in "--method filter --ratio 0.5" "--method wsp --ratio 0.55 --scope global --floor 0.5" \
    "--method wsp --mode faithful --ratio 0.6" "--method sg --ratio 0.5 --no-cascade" \
    "--method filter --criterion bn-scale --ratio 0.3 --ignore layer2.* --layer layer3.0.conv2=0.7"; do
    expect_out '"ledger"' "$ESPALIER" prune "$MODEL" $flags --dry-run --json
    json 'all(abs(l["ledger"]["asked"] - l["ledger"]["got"] - sum(e["share"] for e in l["ledger"]["entries"])) < 1e-9 for l in d["layers"])' |
        grep -q True || fail "$flags: reasons do not add up"
done
json '[e["reason"] for l in d["layers"] if l["name"] == "layer2.0.conv1" for e in l["ledger"]["entries"]]' |
    grep -q ignored || fail "an ignored layer does not say so"
expect_out "network output 'logits'" "$ESPALIER" prune "$MODEL" --method wsp --ratio 0.5 --dry-run --ledger

# a plan saved from the flags does what the flags did
expect_out '"layers"' "$ESPALIER" prune "$MODEL" --method filter --criterion l2 --ratio 0.5 --floor 0.3 --round-to 4 --save-plan plan.json --dry-run --json
json '[l["mask"] for l in d["layers"]]' >first.txt
expect_out '"layers"' "$ESPALIER" prune "$MODEL" --plan plan.json --dry-run --json
json '[l["mask"] for l in d["layers"]]' >second.txt
cmp -s first.txt second.txt || fail "the plan file gives other masks than the flags"

# explanations say of every filter what its mask does
for channel in 0 5 15; do
    expect_out '"scores"' "$ESPALIER" explain "$MODEL" conv1 $channel --plan plan.json --json
    json "d[\"stays\"] == ($(json 'd["channel"]') == $channel and $(python3 -c "
import ast; print(any('1' in row for row in [ast.literal_eval(open('first.txt').read())[0][$channel]]))"))" |
        grep -q True || fail "explain: filter $channel of conv1"
done
json 'd["tied_by"] and len(d["writers"]) == 4' | grep -q True || fail "partners of conv1"
expect_out "threshold" "$ESPALIER" explain "$MODEL" layer2.0.conv1 3 --method wsp --ratio 0.4
expect_out "network output" "$ESPALIER" explain "$MODEL" fc 3 --method wsp --ratio 0.4
expect_out "centroid" "$ESPALIER" explain "$MODEL" layer2.0.conv1 3 --method sg --ratio 0.4

expect 2 "did you mean 'fpgm'" "$ESPALIER" prune "$MODEL" --method filter --criterion fpgn --ratio 0.5 --dry-run
expect 2 "--data SPEC is missing" "$ESPALIER" prune "$MODEL" --method filter --criterion taylor --ratio 0.5 --dry-run
expect 2 "did you mean 'global'" "$ESPALIER" prune "$MODEL" --method filter --scope globl --ratio 0.5 --dry-run
expect 2 "as published" "$ESPALIER" prune "$MODEL" --method wsp --mode faithful --round-to 8 --ratio 0.5 --dry-run
expect 2 "whole filters" "$ESPALIER" prune "$MODEL" --method sg --scope global --ratio 0.5 --dry-run
expect 2 "--mode" "$ESPALIER" prune "$MODEL" --method filter --mode sound --ratio 0.5 --dry-run
expect 2 "--criterion" "$ESPALIER" prune "$MODEL" --method wsp --criterion l1 --ratio 0.5 --dry-run
expect 2 "--floor" "$ESPALIER" prune "$MODEL" --method sg --floor 0.2 --ratio 0.5 --dry-run
expect 2 "expected 0 to 15" "$ESPALIER" explain "$MODEL" conv1 16 --method wsp --ratio 0.4
expect 2 "did you mean 'conv1'" "$ESPALIER" explain "$MODEL" convl 1 --method wsp --ratio 0.4
expect 2 "CHANNEL" "$ESPALIER" explain "$MODEL" conv1 x --method wsp --ratio 0.4

# --mean and --std are of the images that a criterion looks at, wherever it does
/usr/bin/python3 - <<'END'
import struct
for name, count in (("train", 40), ("t10k", 20)):
    with open(name + "-images-idx3-ubyte", "wb") as f:
        f.write(struct.pack(">4I", 0x803, count, 28, 28))
        f.write(bytes((n * 31 + y * (n % 10 + 3) + x * x * (n % 7 + 1)) % 256 for n in range(count) for y in range(28) for x in range(28)))
    with open(name + "-labels-idx1-ubyte", "wb") as f:
        f.write(struct.pack(">2I", 0x801, count) + bytes(n % 10 for n in range(count)))
END
images="--data idx:. --calibrate 40"
score='d["layers"][1]["saliency"][5]'
told='d["writers"][0]["score"]'
for given in "" "--mean 0.9 --std 0.1"; do
    expect_out '"layers"' "$ESPALIER" saliency "$MODEL" -c activation $images $given --json
    wanted=$(json "$score")
    layer=$(json 'd["layers"][1]["name"]')
    expect_out '"writers"' "$ESPALIER" explain "$MODEL" "$layer" 5 -m filter -c activation -r 0.5 $images $given --json
    [ "$(json "$told")" = "$wanted" ] || fail "explain $given: $(json "$told"), saliency says $wanted"
    expect_out '"sets"' "$ESPALIER" prune "$MODEL" -m filter -c activation -r 0.5 $images $given --dry-run --json
    json '[s["threshold"] for s in d["sets"]]' >"thresholds$given"
done
cmp -s thresholds "thresholds--mean 0.9 --std 0.1" && fail "prune passes over --mean and --std"
expect 2 "--std is for the images of --data, found no --data" "$ESPALIER" explain "$MODEL" conv1 1 -m wsp -r 0.4 --std 0.5
expect 2 "is not a number" "$ESPALIER" explain "$MODEL" conv1 1 -m filter -c activation -r 0.4 $images --mean x
