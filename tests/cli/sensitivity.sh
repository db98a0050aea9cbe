# The sensitivity scan on the bundled LeNet and a data set of its own making.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/lenet5.onnx

# 60 images of noise in the IDX form
/usr/bin/python3 - <<'PY'
import random, struct
random.seed(1)
for split, count in (("t10k", 60), ("train", 60)):
    with open(split + "-images-idx3-ubyte", "wb") as f:
        f.write(struct.pack(">IIII", 2051, count, 28, 28) + bytes(random.randrange(256) for _ in range(count * 784)))
    with open(split + "-labels-idx1-ubyte", "wb") as f:
        f.write(struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count)))
PY
scan="$ESPALIER sensitivity $MODEL --data idx:$SCRATCH --images 40 --ratios 0.2:0.8:0.3"

expect_out "most sensitive" $scan -o scan.jsonl --tolerance 0.1 --plot curves.svg
grep -q "conv1" out.txt && grep -q "network output" out.txt || fail "the table lacks a layer"
grep -q "<svg" curves.svg || fail "no figure"
[ "$(grep -c '"point"' scan.jsonl)" -eq 9 ] || fail "points in the file"

# what was cut off is measured again, to the same bits
expect_out '"curves"' $scan --json
json 'd["curves"]' >once.txt
head -c 2500 scan.jsonl >half.jsonl
expect_out '"curves"' $scan -o half.jsonl --resume --json
json 'd["curves"]' >resumed.txt
cmp -s once.txt resumed.txt || fail "a resumed scan differs"
json 'd["resumed"] > 0 and d["measured"] + d["reused"] + d["resumed"] == 9' | grep -q True || fail "nothing was resumed"
json 'd["complete"]' | grep -q True || fail "not complete"
cmp -s scan.jsonl half.jsonl && fail "a resumed file begins anew"

expect_out '"filter"' $scan --criterion l1 --layers 'conv*' --json
json '[c["name"] for c in d["curves"]]' | grep -q "\['conv1', 'conv2'\]" || fail "--layers"
expect_out '"sg"' $scan --method sg --groups 4 --json
json 'all(c["points"][0]["macs"] < d["baseline"]["macs"] for c in d["curves"] if c["points"])' | grep -q True || fail "sg"

expect 2 "exists already" $scan -o scan.jsonl
expect 1 "another seed" $scan -o scan.jsonl --resume --seed 4
expect 1 "another plan" $scan -o scan.jsonl --resume --method sg
expect 2 "--resume needs the file" $scan --resume
expect 2 "did you mean 'conv1'" $scan --layers conv11
expect 2 "--ratios: found '0.9:0.1:0.1'" $scan --ratios 0.9:0.1:0.1
expect 2 "espalier sensitivity: ratio 2 is 0.2, expected rising" $scan --ratios 0.5,0.2
expect 2 "--criterion is for method filter, found --method wsp" $scan --method wsp --criterion l1
expect 2 "--mode is for methods wsp and sg, found --method filter" $scan --method filter --mode faithful
expect 2 "--groups is for method sg, found --method filter" $scan --criterion l1 --groups 3
expect 2 "expected a name ending in .png" $scan -o unplotted.jsonl --plot curves.foo
[ ! -e unplotted.jsonl ] || fail "a scan began whose figure cannot be written"
expect 2 "did you mean 'top1'" $scan --measure top
expect 2 "--data SPEC is missing" "$ESPALIER" sensitivity "$MODEL"
