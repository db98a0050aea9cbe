# The two scripts a newcomer meets: they explain themselves, refuse what they do not know, and install only what is missing.
. "$(dirname "$0")/lib.inc"
cd "$ESP_SOURCE_DIR"

for script in scripts/test.sh scripts/quickstart.sh; do
    sh -n $script || fail "$script does not parse"
    $script --help | grep -q Example || fail "$script --help shows no example"
done
status=0
scripts/test.sh --fast >"$SCRATCH/out.txt" 2>&1 || status=$?
[ $status -eq 2 ] || fail "an unknown argument gives exit status $status, expected 2"
grep -q -- "--fast" "$SCRATCH/out.txt" || fail "the message does not name the argument"
grep -q 'scripts/test.sh' .ci/run || fail ".ci/run does not call scripts/test.sh"

# What counts as missing, with a dpkg-query that says what the test wants it to say.
mkdir "$SCRATCH/bin"
printf '#!/bin/sh\ncat "%s/installed"\n' "$SCRATCH" >"$SCRATCH/bin/dpkg-query"
chmod +x "$SCRATCH/bin/dpkg-query"
missing() {
    PATH=$SCRATCH/bin:$PATH sh -c '. scripts/packages.sh; missing_packages build run test slow'
}
printf 'installed:cmake ' >"$SCRATCH/installed"
missing | grep -q dataset-fashion-mnist || fail "a missing package is not named: $(missing)"
missing | grep -qw cmake && fail "an installed package is called missing: $(missing)"
sh -c '. scripts/packages.sh; printf "%s\n" "$espalier_packages"' | awk 'NF {printf "installed:%s ", $2}' >"$SCRATCH/installed"
[ -z "$(missing)" ] || fail "packages that are installed count as missing: $(missing)"
