# groups and tune: the quality of groups, pruning schedules, interruption and resumption.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/resnet20.onnx

expect_out "silhouette" "$ESPALIER" groups "$MODEL" --ratio 0.5
expect_out '"layers"' "$ESPALIER" groups "$MODEL" --ratio 0.5 --groups 4 --suggest --save-plan plan.json --json
json 'all(l["groups"] == 4 and 1 <= l["suggested"] <= 32 and len(l["curve"]) <= 32 for l in d["layers"])' | grep -q True ||
    fail "groups and suggestions"
json 'sorted({l["suggested"] for l in d["layers"]})' >suggested.txt
expect_out '"layers"' "$ESPALIER" groups "$MODEL" --plan plan.json --json
json 'sorted({l["groups"] for l in d["layers"]})' | cmp -s - suggested.txt || fail "the plan saved has the suggested groups"
expect_out "<- suggested" "$ESPALIER" groups "$MODEL" --layer layer3.0.conv1 --suggest
expect_out "48" "$ESPALIER" groups "$MODEL" --preset sg-cnn --ratio 0.8 --layer fc --json
json 'd["plan"]["ratio"]["fc"] == 0.6 and d["plan"]["ratio"]["conv"] == 0.8' | grep -q True || fail "the published ratios"
expect_out '"layers"' "$ESPALIER" prune "$MODEL" --preset sg-cnn --ratio 0.8 --dry-run --json
json 'sorted({l["takes_part"] and l["asked"] for l in d["layers"]}), d["plan"]["mode"]' | grep -q '\[False, 0.6, 0.8\] faithful' ||
    fail "the published plan: stem and shortcuts whole, convolutions at 0.8, fc at 0.6"
expect 2 "unknown layer 'layer3.0.conv'" "$ESPALIER" groups "$MODEL" --layer layer3.0.conv
expect 2 "found both" "$ESPALIER" groups "$MODEL" --plan plan.json --preset wsp
expect 2 "--preset sg-cnn is of method sg, found --method filter" "$ESPALIER" prune "$MODEL" --preset sg-cnn -m filter -r 0.4 -n
expect 2 "--ratio is missing" "$ESPALIER" prune "$MODEL" --preset sg-cnn -n
expect 2 "unknown preset 'sgcnn'" "$ESPALIER" groups "$MODEL" --preset sgcnn

# a small labelled set: two classes of grey images
/usr/bin/python3 - <<'END'
import random, struct
random.seed(1)
for name, count in (("train", 96), ("t10k", 40)):
    labels = [i % 2 for i in range(count)]
    pixels = bytes((200 if (x < 14) == (label == 0) else 20) + random.randrange(40)
                   for label in labels for y in range(28) for x in range(28))
    open(name + "-images-idx3-ubyte", "wb").write(struct.pack(">4I", 0x803, count, 28, 28) + pixels)
    open(name + "-labels-idx1-ubyte", "wb").write(struct.pack(">2I", 0x801, count) + bytes(labels))
END
FAST="--data idx:. --batch 16 --local-epochs 1 --epochs 1 --lr 0.001"
expect_out "test     top-1" "$ESPALIER" tune "$MODEL" -o out.onnx $FAST -m sg -r 0.4 -g 4 -p lg --step 0.2 --save-schedule lg.json
grep -q 'step 2/2  ratio 0.400' out.txt || fail "the second step"
[ ! -e out.onnx.state.json ] || fail "the state is removed at the end"
expect_out '"schedule": "lg"' cat lg.json
expect_out '"records"' "$ESPALIER" tune "$MODEL" -o again.onnx $FAST -m sg -r 0.4 -g 4 -p ./lg.json --json --threads 1
json '[r["step"] for r in d["records"]] == [1, 2, 0] and d["test"]["images"] == 40' | grep -q True || fail "records"
cmp -s out.onnx again.onnx || fail "one seed gave two models"
# --limit is for the test images, too; what diverged says where it is
expect_out '"records"' "$ESPALIER" tune "$MODEL" -o few.onnx --data idx:. --batch 16 --epochs 0.2 -m wsp -r 0.4 -p one-shot --limit 7 --json
json 'd["test"]["images"]' | grep -qx 7 || { cat out.txt; fail "--limit and the test images"; }
expect 1 "the best version so far is in few.onnx" "$ESPALIER" tune "$MODEL" -o few.onnx --data idx:. --batch 16 --epochs 1 -m wsp -r 0.4 -p one-shot --lr 900 --max-loss 3
expect_out "removed" "$ESPALIER" tune "$MODEL" -o cut.onnx $FAST -m filter -c l2 -r 0.4 -p agp --steps 2 --cut
expect_out '"params"' "$ESPALIER" compare "$MODEL" cut.onnx --json
json 'd["b"]["params"] < 0.8 * d["a"]["params"]' | grep -q True || fail "the cut model is smaller"

# killed again and again, in the middle of phases: goes on to the same model
RUN="$ESPALIER tune $MODEL -o resumed.onnx $FAST --checkpoint-every 1steps -m sg -r 0.4 -g 4 -p lg --step 0.2"
STATE=resumed.onnx.state.json
# kill_after N: begins or goes on, and kills the program once it has written N checkpoints more
kill_after() {
    resume=
    [ ! -e $STATE.training ] && [ ! -e $STATE ] || resume=--resume
    $RUN $resume --threads $2 >/dev/null 2>err.txt &
    pid=$!
    seen=0 tries=0 last=$(stat -c %i-%Y $STATE.training 2>/dev/null || echo none)
    while [ $seen -lt $1 ] && kill -0 $pid 2>/dev/null; do
        now=$(stat -c %i-%Y $STATE.training 2>/dev/null || echo none)
        [ "$now" = "$last" ] || seen=$((seen + 1))
        last=$now tries=$((tries + 1))
        [ $tries -lt 20000 ] || fail "no checkpoint"
    done
    kill -KILL $pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
}
kill_after 2 1
[ -e $STATE.training ] && [ ! -e $STATE ] || fail "a run killed in its first step keeps its training"
expect 1 "its schedule is" $RUN --resume --lr 0.002
expect 1 "its seed is" $RUN --resume --seed 1
kill_after 3 2
kill_after 4 1
kill_after 3 2
expect 1 "another plan" $RUN -r 0.6 --resume
expect_out '"records"' $RUN --resume --json
json 'd["resumed_steps"] + d["resumed_training_step"] > 0 and d["checkpoint_failures"] == 0 and len(d["records"]) == 3' | grep -q True ||
    { cat out.txt; fail "what is said of a resumed run"; }
cmp -s out.onnx resumed.onnx || fail "a resumed run gave another model"
ls $STATE* >/dev/null 2>&1 && fail "the state is removed at the end" || true

# a disk that is full for checkpoints: the run goes on, the user is told once
(
    trap '' XFSZ
    ulimit -f 3000
    $RUN --json >out.txt 2>err.txt || { cat err.txt; fail "a run with a full disk"; }
)
[ "$(wc -l <err.txt)" -eq 1 ] && grep -q "warning: .*the run goes on" err.txt || { cat err.txt; fail "a full disk is told once"; }
json 'd["checkpoint_failures"] > 3 and ".training" in d["checkpoint_error"]' | grep -q True || { cat out.txt; fail "failures are counted"; }
cmp -s out.onnx resumed.onnx || fail "a full disk changed the result"
expect 1 "/nowhere/state" $RUN --state /nowhere/state

expect 2 "unknown pruning schedule 'lgg'" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.4 -p lgg
expect 2 "--prune-schedule is missing" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.4
expect 2 "--method is missing" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -r 0.4 -p lg
expect 2 "-o OUT.onnx is missing" "$ESPALIER" tune "$MODEL" $FAST -m sg -r 0.4 -p lg
expect 2 "expected a share" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.4 -p lg --validation 2
expect 2 "initial is 0.5, expected at most the plan's largest ratio, 0.3" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.3 -p agp --initial 0.5
expect 2 "--step is for schedules lg, g and l, found agp" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.3 -p agp --step 0.1
expect 2 "--ratio is missing" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST --preset sg-cnn
expect 2 "--form is for a model that is cut, found no --cut" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.3 -p agp --form dense
expect 2 "--local-epochs is for schedules lg, l, linear and agp, found one-shot" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.3 -p one-shot
expect 2 "--local-lr is for schedules lg and l, found agp" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.3 -p agp --local-lr 0.1
expect 2 "--epochs is for schedules that train at the end, found l" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.3 -p l
# there is nothing to go on from: also after the end of a run, whose model stays as it is
cp out.onnx kept.onnx
for out in out x; do
    expect 1 "no state to resume in $out.onnx.state.json" "$ESPALIER" tune "$MODEL" -o $out.onnx $FAST -m sg -r 0.4 -g 4 -p lg --step 0.2 --resume
done
cmp -s out.onnx kept.onnx || fail "a refused run overwrote a model"
expect 1 "none.json" "$ESPALIER" tune "$MODEL" -o x.onnx $FAST -m sg -r 0.4 -p none.json
[ ! -e x.onnx ] || fail "a refused run wrote a model"

# a model that leaves its input size open takes that of the data, and errors say so
/usr/bin/python3 - "$SAMPLES" <<'END'
import onnx, struct, sys, os
for name in ("resnet20", "lenet5"):
    model = onnx.load(sys.argv[1] + "/" + name + ".onnx")
    for d in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        d.Clear()
        d.dim_param = "side"
    onnx.save(model, "open-" + name + ".onnx")
os.mkdir("tiny")
for name in ("train", "t10k"):
    open("tiny/" + name + "-images-idx3-ubyte", "wb").write(struct.pack(">4I", 0x803, 20, 6, 6) + bytes(720))
    open("tiny/" + name + "-labels-idx1-ubyte", "wb").write(struct.pack(">2I", 0x801, 20) + bytes(20))
END
SHORT="--data idx:. --batch 16 --epochs 0.2 -m wsp -r 0.4 -p one-shot --cut"
expect_out "removed" "$ESPALIER" tune open-resnet20.onnx -o open-cut.onnx $SHORT
expect_out "removed" "$ESPALIER" tune "$MODEL" -o fixed-cut.onnx $SHORT
for model in open fixed; do
    expect_out '"layers"' "$ESPALIER" inspect $model-cut.onnx --json
    json '[(l["name"], l["filters"], l["channels"]) for l in d["layers"]]' >$model.txt
done
cmp -s open.txt fixed.txt || fail "an open input size gave another cut"
expect 1 "input sizes are open: 1x6x6 is from the data" "$ESPALIER" sensitivity open-lenet5.onnx --data idx:tiny
expect 1 "input sizes are open: 1x6x6 is from the data" "$ESPALIER" tune open-lenet5.onnx -o x.onnx --data idx:tiny -m wsp -r 0.3 -p one-shot --epochs 1
[ ! -e x.onnx ] || fail "a refused run wrote a model"

# images that cannot be read are left out, and named
/usr/bin/python3 - <<'END'
import os, random, struct, zlib
random.seed(2)
def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
def png(rows):
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 28, 28, 8, 0, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))
for split, count in (("train", 24), ("test", 8)):
    for label in ("a", "b"):
        os.makedirs(f"set/{split}/{label}")
        for i in range(count):
            rows = [bytes((200 if (x < 14) == (label == "a") else 20) + random.randrange(40) for x in range(28)) for y in range(28)]
            open(f"set/{split}/{label}/{i:02}.png", "wb").write(png(rows))
    open(f"set/{split}/a/broken.png", "wb").write(png(rows)[:100])
END
for command in "tune -m wsp -r 0.4 -p one-shot --validation 0.2" "train --validation 0.2"; do
    expect_out "top-1" "$ESPALIER" $command "$MODEL" -o skipped.onnx --data "folder:set?skip-bad" --batch 16 --epochs 1
    for split in train test; do
        [ "$(grep -c "left out: .*$split/a/broken.png" err.txt)" = 1 ] || { cat err.txt; fail "$command: $split image not named once"; }
    done
done

# images that cannot be read any more end a run, which says what is kept
rm set/train/a/broken.png
"$ESPALIER" tune "$SAMPLES/lenet5.onnx" -o ended.onnx --data "folder:set?cache=0" --batch 8 --local-epochs 100000 --checkpoint-every 1steps \
    -m wsp -r 0.4 -p lg --step 0.2 --validation none >out.txt 2>err.txt &
pid=$!
tries=0
while [ ! -e ended.onnx.state.json.training ] && kill -0 $pid 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 1000000 ] || fail "no checkpoint"
done
for image in set/train/a/*.png; do
    : >$image
done
status=0
wait $pid || status=$?
[ $status -eq 1 ] || { cat err.txt; fail "exit status $status after images were spoiled"; }
grep -q 'set/train/a/.*leaves bad images out; 0 of 2 steps are done, --resume goes on' err.txt || { cat err.txt; fail "what is said of a run that met a bad image"; }
[ ! -e ended.onnx ] || fail "a run that ended early wrote a model"
