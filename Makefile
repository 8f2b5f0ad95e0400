# The two commands: `make demo` shows what heed is for, `make test` checks all of it. Both install what is missing (Debian 12).
.PHONY: demo test build deps asan fuzz clean
FUZZ_SECONDS ?= 60

demo: build
	build/heed compare --html compare.html

test: build
	ctest --preset release -j2

build: deps
	cmake --preset release
	cmake --build --preset release

deps:
	@scripts/install-deps.sh

# The kernels and file formats under AddressSanitizer and UndefinedBehaviorSanitizer.
asan: deps
	cmake --preset asan
	cmake --build --preset asan
	ctest --preset asan

# Every fuzz target for a minute, two at a time.
fuzz:
	@scripts/install-deps.sh --analysis
	cmake --preset fuzz
	cmake --build --preset fuzz
	@ls build-fuzz/tests/fuzz/*_fuzz >/dev/null || { echo "no fuzz target was built"; exit 1; }
	ls build-fuzz/tests/fuzz/*_fuzz | xargs -P 2 -I{} sh -c '{} -max_total_time=$(FUZZ_SECONDS) >{}.log 2>&1 || { tail -n 40 {}.log; exit 1; }'

clean:
	rm -rf build build-debug build-asan build-fuzz compare.html
