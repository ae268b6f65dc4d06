# Tessera: `make run` and `make test` are the two commands of the README. CMake does the work; see CMakePresets.json.
.PHONY: all run test lint bench packages test-packages clean

# Builds without the tests, which need packages that users do not need.
all: packages
	@test -f build/build.ninja || cmake --preset release -DTESSERA_BUILD_TESTS=OFF >/dev/null
	@cmake --build --preset release --target tesserad tessera tessera-quantize tessera-bench

run: all
	@deploy/run_demo.sh

test: packages test-packages
	@python3 tests/run_all.py

lint: packages test-packages
	@python3 tests/lint.py

bench: packages test-packages
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target tessera_kernel_bench
	@build/bin/tessera_kernel_bench --benchmark_min_time=0.2

packages:
	@deploy/install_packages.sh deploy/packages.txt

test-packages:
	@deploy/install_packages.sh deploy/packages-test.txt

clean:
	rm -rf build
