# espalier bench: what it prints in every form, that its figures hang together, and taking turns. No speeds.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/lenet5.onnx

expect_out "median" "$ESPALIER" bench "$MODEL" --repeats 3
grep -q '^memory ' out.txt || { cat out.txt; fail "no line about memory"; }
expect_out "forward" "$ESPALIER" bench "$MODEL" --train --batch 4 --repeats 2

expect_out '"median_ms"' "$ESPALIER" bench "$MODEL" --json --repeats 3 --batch 2 --threads 2
[ "$(json 'd["batch"], d["threads"], d["repeats"], d["is_training"]')" = "2 2 3 False" ] || fail "what was asked"
json 'd["min_ms"] <= d["median_ms"] <= d["p90_ms"]' | grep -qx True || fail "figures out of order"
json 'abs(d["images_per_s"] * d["median_ms"] / 2000 - 1) < 1e-9' | grep -qx True || fail "images per second"
# 431,080 parameters of LeNet-5
[ "$(json 'd["memory"]["weights"]')" = 1724320 ] || fail "bytes of weights"
json 'd["memory"]["peak"] >= d["memory"]["weights"] + d["memory"]["planned"]' | grep -qx True || fail "peak"
json '"layers" in d or "peak" in d' | grep -qx False || fail "layers that were not asked for"

# per layer: all nodes, shares that make one, MACs that are the model's, nodes run by others named
expect_out '"layers"' "$ESPALIER" bench "$MODEL" --layers --json --repeats 3
cp out.txt layers.json
expect_out '"layers"' "$ESPALIER" inspect "$MODEL" --json
cat >check.py <<'PY'
import json
bench, model = json.load(open("layers.json")), json.load(open("out.txt"))
layers = bench["layers"]
names = [layer["name"] for layer in layers]
assert len(set(names)) == len(names) and {"conv1", "conv2", "fc1", "fc2"} <= set(names), names
assert abs(sum(layer["share"] for layer in layers) - 1) < 1e-9
assert sum(layer["macs"] for layer in layers) == sum(layer["macs"] for layer in model["layers"])
for layer in layers:
    assert set(layer) >= {"name", "operator", "ms", "share", "macs", "gflops", "share_of_peak", "layout", "kernel"}, layer
    assert layer["layout"] in ("plain", "blocked")
    if layer["macs"] and layer["ms"]:
        assert abs(layer["gflops"] / (2e-6 * layer["macs"] / layer["ms"]) - 1) < 1e-6, layer
        assert abs(layer["share_of_peak"] / (layer["gflops"] / bench["peak"]["gflops"]) - 1) < 1e-6, layer
    if "fused_into" in layer:
        assert layer["fused_into"] in names and layer["ms"] == 0 and layer["macs"] == 0, layer
assert bench["peak"]["gflops"] > 0 and bench["peak"]["gb_per_s"] > 0
assert bench["peak"]["isa"] in ("plain", "avx2", "avx512")
assert bench["grouped"] is None
PY
/usr/bin/python3 check.py || fail "layers do not hang together"
expect_out "of peak" "$ESPALIER" bench "$MODEL" --layers --repeats 1

# a training step
expect_out '"backward_ms"' "$ESPALIER" bench "$MODEL" --train --json --batch 4 --repeats 3
json 'd["is_training"] and d["forward_ms"] > 0 and d["backward_ms"] > 0' | grep -qx True || fail "parts of a step"

# grouped layers: theory beside real, in figures and in words
"$ESPALIER" prune "$MODEL" -o grouped.onnx --method sg --mode faithful --ratio 0.5 --groups 4 >log.txt
expect_out "theory" "$ESPALIER" bench grouped.onnx --layers --repeats 1
grep -q 'dense form' out.txt || { cat out.txt; fail "no word on what grouping brought"; }
expect_out '"grouped"' "$ESPALIER" bench grouped.onnx --layers --json --repeats 1
json '[l["name"] for l in d["grouped"]["layers"]]' | grep -q conv2 || fail "conv2 is grouped"
json 'all(l["theory"] > 1 and l["real"] > 0 and l["groups"] <= 4 for l in d["grouped"]["layers"])' | grep -qx True || fail "theory"
json 'abs(sum(l["ms"] for l in d["grouped"]["layers"]) - d["grouped"]["ms"]) < 1e-9' | grep -qx True || fail "sum of grouped layers"

# turns: ready, one answer per order, the output of the input it was given
/usr/bin/python3 -c 'import array; array.array("f", [0.25] * 784).tofile(open("input.f32", "wb"))'
printf 'run 0\ninput input.f32\noutput a.f32\nrun 0\noutput b.f32\n' >orders.txt
"$ESPALIER" bench "$MODEL" --turns --threads 1 <orders.txt >answers.txt || fail "exit status $? of turns"
cat >check.py <<'PY'
import json
answers = [json.loads(line) for line in open("answers.txt")]
assert len(answers) == 6 and answers[0]["ready"] is True, answers
assert answers[1]["runs"] == 1 and answers[1]["ms"] > 0 and answers[1]["memory"]["rss_peak"] > 0, answers[1]
assert answers[2]["bytes"] == 4 * 784 and answers[3]["bytes"] == 4 * 10, answers
a, b = open("a.f32", "rb").read(), open("b.f32", "rb").read()
assert a == b and len(a) == 40
PY
/usr/bin/python3 check.py || { cat answers.txt; fail "answers"; }
echo 'run 0' | "$ESPALIER" bench "$MODEL" --turns --train --layers --batch 2 >answers.txt || fail "turns of training"
grep -q '"backward_ms"' answers.txt && grep -q '"conv1"' answers.txt || { cat answers.txt; fail "parts and nodes"; }
for order in 'walk 3' 'run' 'run fast' 'input nowhere.f32' 'output no/such/dir'; do
    status=0
    echo "$order" | "$ESPALIER" bench "$MODEL" --turns >out.txt 2>err.txt || status=$?
    [ $status -eq 1 ] || fail "exit status $status of the order '$order', expected 1"
    [ "$(wc -l <err.txt)" -eq 1 ] || { cat err.txt; fail "one line about '$order'"; }
done
echo 'input a.f32' | "$ESPALIER" bench "$MODEL" --turns >out.txt 2>err.txt && fail "an input of the wrong size"
grep -q 'expected 3136' err.txt || { cat err.txt; fail "the size that was expected"; }
