#!/usr/bin/env bash
# Download LibriSpeech and the 10 h subset of Libri-Light (62 GB), verify and unpack them (62 GB), and write manifests.
#
#   examples/librispeech/prepare.sh        one GPU, one node or many nodes: once, with OUT on shared storage
#   ARCHIVES=/corpora examples/librispeech/prepare.sh        use archives that are downloaded already
#
# Finished steps are skipped, and interrupted downloads continue. The archives may be removed afterwards.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ARCHIVES=${ARCHIVES:-$OUT/archives}
openslr=https://www.openslr.org/resources/12
librilight=https://dl.fbaipublicfiles.com/librilight/data

# fetch NAME URL MD5: download NAME to ARCHIVES, and verify it.
fetch() {
  local archive=$ARCHIVES/$1
  [ ! -e "$archive" ] || return 0
  run curl --fail --location --retry 5 --continue-at - --output "$archive.part" "$2/$1"
  [ "$DRY_RUN" = 1 ] || echo "$3  $archive.part" | md5sum --check --quiet - ||
    die "$archive.part has the wrong checksum; remove it and run this script again"
  run mv "$archive.part" "$archive"
}

# unpack NAME FOLDER: unpack the archive NAME, which contains FOLDER, to OUT.
unpack() {
  [ ! -e "$OUT/$2/unpacked" ] || return 0
  run tar --extract --gzip --file "$ARCHIVES/$1" --directory "$OUT"
  run touch "$OUT/$2/unpacked"
}

# link SPLIT NAME FOLDER: link the speaker FOLDER as NAME in SPLIT of the corpus to prepare.
link() {
  [ "$DRY_RUN" != 1 ] || return 0
  mkdir -p "$OUT/corpus/$1"
  ln -sfn "$(realpath "$3")" "$OUT/corpus/$1/$2"
}

run mkdir -p "$ARCHIVES" "$OUT"
while read -r split md5; do
  fetch "$split.tar.gz" "$openslr" "$md5"
  unpack "$split.tar.gz" "LibriSpeech/$split"
done <<'END'
dev-clean 42e2234ba48799c1f50f24a7926300a1
dev-other c8d0bcc9cca99d4f8b62fcc847357931
test-clean 32fa31d27d2e1cad72775fee3f4849a9
test-other fb5a50374b501bb3bac4815ee91d3135
train-clean-100 2a93770f6d5c6c964bc36631d331a522
train-clean-360 c0e676e450a7ff2f54aeade5171606fa
train-other-500 d1a0fd59409feb2c614ce4d30c387708
END
fetch librispeech_finetuning.tgz "$librilight" 7f83024cb1334bfa372d1af2c75c3a77
unpack librispeech_finetuning.tgz librispeech_finetuning

if [ -e "$data/train-960.tsv" ]; then
  printf '# %s: finished\n' "$data"
  exit
fi
printf '# linking the speakers of each split in %s\n' "$OUT/corpus"
shopt -s nullglob
for split in dev-clean dev-other test-clean test-other train-clean-100; do
  for speaker in "$OUT/LibriSpeech/$split"/*/; do link "$split" "$(basename "$speaker")" "$speaker"; done
done
for speaker in "$OUT"/LibriSpeech/train-{clean-100,clean-360,other-500}/*/; do
  link train-960 "$(basename "$speaker")" "$speaker"
done
# A speaker can be in several parts of the 10 h subset: 9h/clean/SPEAKER, 1h/0/other/SPEAKER, ...
for speaker in "$OUT"/librispeech_finetuning/{9h,1h/[0-5]}/{clean,other}/*/; do
  part=${speaker#"$OUT/librispeech_finetuning/"}
  part=${part%/}
  link train-10h "${part//\//-}" "$speaker"
done
run w2v-compress prepare librispeech "$OUT/corpus" "$data"
