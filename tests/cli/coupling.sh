# inspect --coupling: what goes together, in text and in JSON, for every way channels are tied that the zoo has.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/resnet20.onnx

expect_out "channel slots that layers write can be cut" "$ESPALIER" inspect "$MODEL" --coupling
expect_out "stay: network output" "$ESPALIER" inspect "$MODEL" --coupling
expect_out "(Add)" "$ESPALIER" inspect "$MODEL" --coupling

expect_out '"sets"' "$ESPALIER" inspect "$MODEL" --coupling --json
[ "$(json 'd["slots"] - d["cuttable"] == sum(p["slots"] for p in d["pinned"]) == 10')" = True ] ||
    fail "only the ten classes stay"
[ "$(json 'd["slots"] == sum(s["channels"] for s in d["sets"] if s["written_by"])')" = True ] ||
    fail "sets add up to all slots"
[ "$(json 'all(sum(b - a + 1 for a, b in t["runs"]) == t["channels"] for s in d["sets"] for t in s["tensors"])')" = True ] ||
    fail "runs add up to the channels of a tensor"

expect_out "written" "$ESPALIER" zoo mobilenet_v2 -o m.onnx
expect_out '"followed_by"' "$ESPALIER" inspect m.onnx --coupling --json
[ "$(json 'sum(len(s["followed_by"]) for s in d["sets"])')" = 17 ] || fail "17 depthwise layers follow"
[ "$(json 'd["slots"] - d["cuttable"]')" = 1000 ] || fail "only the 1000 classes stay"
