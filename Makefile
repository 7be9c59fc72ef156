# make              nr, tokenizer, and the generated corpus in data/toy; then ./nr
# make test         the tests: against central differences (in double) and dev/reference.safetensors (in both)
# make fuzz         looks for files and command lines that break nr, FUZZ_SECONDS=900 for each reader; needs clang
# make bench        how fast this machine multiplies, trains and decodes; bench-torch: beside PyTorch
# make figure       dev/figure.svg from dev/results.csv; RESULTS=out/results.csv: out/results.svg
# make clean        removes what was built; data and results stay
#
# CC=clang chooses a compiler, OPENMP=no builds for one thread, ARCH= for any machine of this kind (ARCH=-march=x86-64-v3 ...).

CC = cc
ARCH = -march=native
CFLAGS = -O3 -std=c11 -Wall -Wextra
# One rounding for x * y + z where the processor can, and no errno from sqrt: what lets loops be vectorised.
MATH = -ffp-contract=fast -fno-math-errno
# OpenMP if the compiler has it.
OPENMP := $(shell echo '\#include <omp.h>' | $(CC) -fopenmp -E -x c - >/dev/null 2>&1 && echo yes || echo no)
OPENMP_yes = -fopenmp
OPENMP_no = -fopenmp-simd -Wno-unknown-pragmas
FLAGS = $(CFLAGS) $(ARCH) $(MATH) $(OPENMP_$(OPENMP))

all: nr tokenizer data/toy/vocab.json

nr: nr.c tokenizer.c
	$(CC) $(FLAGS) -o $@ nr.c -lm

tokenizer: tokenizer.c
	$(CC) $(CFLAGS) $(ARCH) -o $@ tokenizer.c

data/toy/vocab.json: prepare_data.sh tokenizer
	./prepare_data.sh toy

test_nr_double: test_nr.c nr.c tokenizer.c
	$(CC) $(FLAGS) -DREAL=double -o $@ test_nr.c -lm

test_nr_float: test_nr.c nr.c tokenizer.c
	$(CC) $(FLAGS) -o $@ test_nr.c -lm

test: nr tokenizer test_nr_double test_nr_float
	./test_nr_double
	./test_nr_float

FUZZ_TARGETS = tokens domains config backbone extension state vocab merges text items options
FUZZ_SECONDS = 900
FUZZ_FLAGS = -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=64 -use_value_profile=1 \
	-dict=dev/fuzz/words.dict -artifact_prefix=dev/fuzz/broken- -print_final_stats=1

dev/fuzz/fuzz: dev/fuzz/fuzz.c nr.c tokenizer.c
	clang -g -O1 -std=c11 -Wall -Wextra -Wno-unknown-pragmas -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o $@ $< -lm

# Every search starts from dev/fuzz/seeds, and from what former ones have added to dev/fuzz/corpus. Prints how many inputs each
# reader was given.
fuzz: dev/fuzz/fuzz
	@export TMPDIR=$$(TMPDIR=/dev/shm mktemp -d || mktemp -d) && trap 'rm -rf "$$TMPDIR"' EXIT && trap 'exit 1' INT TERM && \
	for target in $(FUZZ_TARGETS); do \
	    mkdir -p dev/fuzz/corpus/$$target && \
	    FUZZ=$$target dev/fuzz/fuzz $(FUZZ_FLAGS) dev/fuzz/corpus/$$target dev/fuzz/seeds/$$target >dev/fuzz/log 2>&1 || \
	        { cat dev/fuzz/log; exit 1; }; \
	    sed -n "s/^stat::number_of_executed_units:/$$target/p" dev/fuzz/log; done

dev/bench: dev/bench.c nr.c tokenizer.c
	$(CC) $(FLAGS) -o $@ dev/bench.c -lm

bench: dev/bench
	./dev/bench

bench-torch: dev/bench
	python3 dev/bench_torch.py dev/bench

RESULTS = dev/results.csv
FIGURE = $(if $(filter dev/results.csv,$(RESULTS)),dev/figure.svg,$(basename $(RESULTS)).svg)

figure:
	RESULTS=$(RESULTS) ./dev/figure.sh >$(FIGURE).tmp
	mv $(FIGURE).tmp $(FIGURE)

clean:
	rm -f nr tokenizer test_nr_double test_nr_float dev/bench dev/fuzz/fuzz dev/fuzz/log

.PHONY: all test fuzz bench bench-torch figure clean
