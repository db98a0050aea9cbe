# plan: shown, compared, merged, fitted to a model that has changed.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/resnet20.onnx

expect_out "conv1" "$ESPALIER" prune "$MODEL" --method sg --ratio 0.5 --layer 'layer1.*=0.25' --ignore fc --dry-run --save-plan a.json
expect_out "conv1" "$ESPALIER" prune "$MODEL" --method sg --ratio 0.5 --groups 8 --layer layer1.0.conv1=0.75 --dry-run --save-plan b.json

expect_out "layer1.*" "$ESPALIER" plan show a.json
expect_out "ignored by the plan" "$ESPALIER" plan show a.json "$MODEL"
expect_out '"method"' "$ESPALIER" plan show a.json --json
json 'd["method"]' | grep -qx sg || fail "show --json is the plan"

expect_out "the plans are the same" "$ESPALIER" plan diff a.json a.json
expect_out "groups" "$ESPALIER" plan diff a.json b.json
expect_out '"same"' "$ESPALIER" plan diff a.json b.json "$MODEL" --json
json '(d["same"], [c for c in d["changes"] if c["where"] == "groups"][0]["b"])' | grep -qF "(False, '8')" || fail "diff"
json 'any(l["layer"] == "layer1.0.conv1" and l["asked"] == [0.25, 0.75] for l in d["layers"])' | grep -q True ||
    fail "effects by layer"
json 'd["after"][0]["params"] != d["after"][1]["params"]' | grep -q True || fail "counts of both"

expect_out "wrote" "$ESPALIER" plan merge a.json b.json -o merged.json
expect_out '"plan"' "$ESPALIER" plan merge a.json b.json "$MODEL" --json
json '(d["plan"]["groups"], [c["took"] for c in d["conflicts"] if c["where"] == "groups"])' | grep -qF "(16, ['a'])" ||
    fail "general fields are a's"
json '[(c["where"], c["took"]) for c in d["conflicts"] if "ratio" in c["where"]]' |
    grep -qF "layer 'layer1.0.conv1': ratio" || fail "the conflict by layer"
expect_out '"layers"' "$ESPALIER" prune "$MODEL" --plan merged.json --dry-run --json
json '[l["asked"] for l in d["layers"] if l["name"] == "layer1.0.conv1"][0]' | grep -qx 0.75 || fail "b's rule goes over a's"
expect_out '"plan"' "$ESPALIER" plan merge a.json b.json --theirs --json
json 'd["plan"]["groups"]' | grep -qx 8 || fail "--theirs"

# a model that was cut: grouped layers are in parts now, and the plan's rules of them fit nothing
expect_out "wrote" "$ESPALIER" prune "$MODEL" -o cut.onnx --plan b.json
expect 2 "layer1.0.conv1" "$ESPALIER" prune cut.onnx --plan b.json --dry-run
expect_out "gone" "$ESPALIER" plan fit cut.onnx b.json -o fitted.json
expect_out '"layers"' "$ESPALIER" prune cut.onnx --plan fitted.json --dry-run --json
expect_out '"misfits"' "$ESPALIER" plan fit cut.onnx b.json --rename --from "$MODEL" --json
json '(d["fits"], [m["nearest"] for m in d["misfits"] if m["kind"] == "gone"][0])' |
    grep -qF "(False, 'layer1.0.conv1/*')" || fail "the parts of a split layer are the nearest"
expect_out "the plan fits" "$ESPALIER" plan fit "$MODEL" b.json

expect 2 "did you mean 'merge'" "$ESPALIER" plan marge a.json b.json
expect 2 "expected A.json B.json" "$ESPALIER" plan diff a.json
expect 2 "-o OUT.json is missing" "$ESPALIER" plan merge a.json b.json
expect 2 "exclude each other" "$ESPALIER" plan merge a.json b.json --ours --theirs -o x.json
expect 1 "missing.json" "$ESPALIER" plan show missing.json
expect 1 "no/such" "$ESPALIER" plan merge a.json b.json -o no/such/x.json
[ ! -e x.json ] || fail "a failed command left a file"
expect_out "Example" "$ESPALIER" plan --help

# a plan whose criterion looks at images can be shown, compared and fitted on them
/usr/bin/python3 - <<'END'
import struct
for name, count in (("train", 20), ("t10k", 10)):
    with open(name + "-images-idx3-ubyte", "wb") as f:
        f.write(struct.pack(">4I", 0x803, count, 28, 28))
        f.write(bytes((n * 31 + y * (n % 10 + 3) + x * x * (n % 7 + 1)) % 256 for n in range(count) for y in range(28) for x in range(28)))
    with open(name + "-labels-idx1-ubyte", "wb") as f:
        f.write(struct.pack(">2I", 0x801, count) + bytes(n % 10 for n in range(count)))
END
NET=$SAMPLES/lenet5.onnx
cat >seen.json <<'END'
{"version": 1, "method": "filter", "criterion": "activation", "ratio": 0.5}
END
cat >unseen.json <<'END'
{"version": 1, "method": "filter", "criterion": "l1", "ratio": 0.5}
END
expect 2 "criterion 'activation' looks at images: --data SPEC is missing" "$ESPALIER" plan show seen.json "$NET"
expect 2 "criterion 'activation' looks at images: --data SPEC is missing" "$ESPALIER" plan fit "$NET" seen.json
expect_out "params" "$ESPALIER" plan show seen.json "$NET" --data idx:. --calibrate 20
expect_out "the plan fits" "$ESPALIER" plan fit "$NET" seen.json --data idx:. --calibrate 20 --mean 0.5 --std 0.5
expect_out "layers come out differently" "$ESPALIER" plan diff unseen.json seen.json "$NET" --data idx:.
cat >wrong.json <<'END'
{"version": 1, "method": "wsp", "ratio": 0.3, "rules": [{"layer": "a", "ratio": 0.1}, {"layer": "b", "ratio": "x"}]}
END
expect 2 "rules[1]: plan: 'ratio' is not a number: found a string" "$ESPALIER" plan show wrong.json
