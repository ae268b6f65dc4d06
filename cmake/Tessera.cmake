# The project's build functions. The CMakeLists.txt of a room defines its targets by these only, so that the
# dependencies between floors stay visible:
#   tessera_library(NAME SRCS ... [DEPS ...] [OPTIONS compile-flags ...])
#   tessera_binary(NAME SRCS ... [DEPS ...])              -> build/bin/NAME
#   tessera_test(NAME SRCS ... [DEPS ...] [TIMEOUT seconds] [SANITIZE | SANITIZE_ADDRESS]) -> ctest NAME (one per binary)
#       SANITIZE: the test is also built and run in the asan and tsan presets (engine, store, parsers, server)
#       SANITIZE_ADDRESS: the test is also built and run in the asan preset. Tests over gRPC use this: Debian's gRPC is
#       not built for tsan, which then reports false races inside gRPC
#   tessera_fuzzer(NAME SRCS ... [DEPS ...])              -> build/asan/fuzz/NAME in the asan preset only
#       The target `fuzzers` builds all fuzzers.
include_guard(GLOBAL)

# The options of libraries and product binaries of all rooms, unless the CMakeLists.txt of a room clears them.
# TESSERA_HARDENING: an overflow of a buffer on the stack, or of one whose size the compiler knows, ends the process.
# Cleared by floor 1, which has the hot loops and reads no foreign bytes.
set(TESSERA_HARDENING $<$<CONFIG:Release>:-fstack-protector-strong> $<$<CONFIG:Release>:-D_FORTIFY_SOURCE=2>)
# TESSERA_COVERAGE: the code reports to libFuzzer which branches an input takes. Cleared by the rooms that no fuzzer
# aims at.
set(TESSERA_COVERAGE "")
if(TESSERA_FUZZ)
  set(TESSERA_COVERAGE -fsanitize=fuzzer-no-link)
endif()

function(tessera_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;OPTIONS" ${ARGN})
  add_library(${name} STATIC ${ARG_SRCS})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS})
  target_compile_options(${name} PRIVATE ${TESSERA_HARDENING} ${TESSERA_COVERAGE} ${ARG_OPTIONS})
endfunction()

function(tessera_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  target_compile_options(${name} PRIVATE ${TESSERA_HARDENING})
  # A position-independent binary, whose addresses of functions in libraries are set at start and then read-only.
  target_link_options(${name} PRIVATE -pie -Wl,-z,relro -Wl,-z,now)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

function(tessera_test name)
  cmake_parse_arguments(ARG "SANITIZE;SANITIZE_ADDRESS" "TIMEOUT" "SRCS;DEPS" ${ARGN})
  if(NOT TESSERA_BUILD_TESTS)
    return()
  endif()
  if(TESSERA_SANITIZE AND NOT ARG_SANITIZE AND NOT (ARG_SANITIZE_ADDRESS AND TESSERA_SANITIZE MATCHES "address"))
    return()
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gtest GTest::gmock tessera_test_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()

function(tessera_fuzzer name)
  if(NOT TESSERA_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  target_compile_options(${name} PRIVATE ${TESSERA_COVERAGE})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name})
endfunction()
