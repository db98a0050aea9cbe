# Registers every test with CTest. Adding a test is adding a file:
#
#   tests/unit/<layer>/test_<name>.c   one cmocka program, <layer>_test_<name>, linked with esp_<layer>
#   tests/{oracle,onnx,fuzz,lua,ui}/test_<name>.c   the same, linked as listed at the end of this file
#   tests/lua/test_<name>.lua          run by `espalier run`; exit status 0 passes
#   tests/{cli,onnx,ui}/<name>.sh      run with ESPALIER=<program>; exit status 77 is "skipped"
#
# ESP_SOURCE_DIR and ESP_BUILD_DIR are definitions in C and environment variables everywhere.
#
# Other .c files of such a directory are helpers: they are linked into its tests and into those of every layer
# to the right, which include them as "unit/<layer>/<helper>.h" (include root tests/).
# Each test has its layer or directory as a label. `threads` (run under the thread sanitizer too) is added when
# the file starts threads; more labels, such as `slow`, come from a line `/* labels: slow */` (or `# labels:`).

set(ESP_TEST_SUFFIX "" CACHE STRING "Appended to test names, to tell apart the same test of several builds")
set(ESP_TEST_ONLY_LABEL "" CACHE STRING "Build and register only the tests that have this label")

pkg_check_modules(CMOCKA QUIET IMPORTED_TARGET cmocka)
pkg_check_modules(VTERM QUIET IMPORTED_TARGET vterm)
if(NOT CMOCKA_FOUND OR NOT VTERM_FOUND)
  message(WARNING "Tests are left out: they need libcmocka-dev and libvterm-dev (scripts/test.sh installs them)")
  return()
endif()

# The thread sanitizer of gcc 12 wants its address space where it expects it; some kernels randomise too widely.
set(esp_test_launcher "")
if(ESP_SANITIZE STREQUAL "thread")
  execute_process(COMMAND setarch -R true RESULT_VARIABLE setarch_failure OUTPUT_QUIET ERROR_QUIET)
  if(setarch_failure EQUAL 0)
    set(esp_test_launcher setarch -R)
  endif()
endif()

set(esp_test_environment
  "ESP_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
  "ESP_BUILD_DIR=${PROJECT_BINARY_DIR}"
  "ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:allocator_may_return_null=1"
  "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/lsan.supp:print_suppressions=0"
  "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1"
  "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp:halt_on_error=1:second_deadlock_stack=1")

# Sets `result` to the labels of a test file.
function(esp_test_labels result file own_label)
  set(labels ${own_label})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
  file(STRINGS "${file}" marker REGEX "^(/\\*|#|--) labels: " LIMIT_COUNT 1)
  if(marker)
    string(REGEX MATCHALL "[a-z_]+" words "${marker}")
    list(REMOVE_ITEM words labels)
    list(APPEND labels ${words})
  endif()
  file(STRINGS "${file}" starts_threads LIMIT_COUNT 1
       REGEX "(esp_pool|esp_queue|esp_worker|esp_session)_new|pthread_create")
  if(starts_threads)
    list(APPEND labels threads)
  endif()
  list(REMOVE_DUPLICATES labels)
  set(${result} "${labels}" PARENT_SCOPE)
endfunction()

# Sets `result` to whether a test with these labels is wanted in this build.
function(esp_test_is_wanted result)
  set(${result} TRUE PARENT_SCOPE)
  if(ESP_TEST_ONLY_LABEL AND NOT ESP_TEST_ONLY_LABEL IN_LIST ARGN)
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()

function(esp_register_test name labels)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "DIRECTORY" "COMMAND;ENVIRONMENT")
  set(full_name "${name}${ESP_TEST_SUFFIX}")
  if(NOT arg_DIRECTORY)
    set(arg_DIRECTORY "${PROJECT_BINARY_DIR}")
  endif()
  add_test(NAME "${full_name}" COMMAND ${arg_COMMAND} WORKING_DIRECTORY "${arg_DIRECTORY}")
  set(timeout 300)
  if("slow" IN_LIST labels)
    set(timeout 2400)
  endif()
  set_tests_properties("${full_name}" PROPERTIES
    LABELS "${labels}" TIMEOUT ${timeout} SKIP_RETURN_CODE 77
    ENVIRONMENT "${esp_test_environment};${arg_ENVIRONMENT}")
endfunction()

# esp_c_tests(<directory under tests/> <prefix> <label> LINK <library>...)
function(esp_c_tests directory prefix label)
  cmake_parse_arguments(PARSE_ARGV 3 arg "" "" "LINK")
  set(root "${PROJECT_SOURCE_DIR}/tests/${directory}")
  file(GLOB tests CONFIGURE_DEPENDS "${root}/test_*.c")
  file(GLOB helpers CONFIGURE_DEPENDS "${root}/*.c")
  list(REMOVE_ITEM helpers ${tests})
  esp_missing_layers(missing ${arg_LINK})
  if(missing)
    return()
  endif()

  set(layers ${arg_LINK})
  list(TRANSFORM layers PREPEND esp_)
  add_library(esp_${prefix}_test_setup INTERFACE)
  target_link_libraries(esp_${prefix}_test_setup INTERFACE ${layers} PkgConfig::CMOCKA m)
  if(helpers)
    add_library(esp_${prefix}_test_helpers STATIC EXCLUDE_FROM_ALL ${helpers})
    target_link_libraries(esp_${prefix}_test_helpers PUBLIC ${layers} PkgConfig::CMOCKA m PRIVATE esp_options
                          ${ESP_TEST_HELPERS})
    target_include_directories(esp_${prefix}_test_helpers PUBLIC "${PROJECT_SOURCE_DIR}/tests")
    esp_define_test_paths(esp_${prefix}_test_helpers)
    set(ESP_TEST_HELPERS esp_${prefix}_test_helpers ${ESP_TEST_HELPERS})
    set(ESP_TEST_HELPERS ${ESP_TEST_HELPERS} PARENT_SCOPE)
  endif()

  foreach(file IN LISTS tests)
    cmake_path(GET file STEM LAST_ONLY stem)
    esp_test_labels(labels "${file}" ${label})
    esp_test_is_wanted(is_wanted ${labels})
    if(is_wanted)
      set(target "${prefix}_${stem}")
      add_executable(${target} "${file}")
      target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
      target_link_libraries(${target} PRIVATE ${ESP_TEST_HELPERS} esp_${prefix}_test_setup esp_options)
      esp_define_test_paths(${target})
      esp_register_test(${target} "${labels}" COMMAND ${esp_test_launcher} $<TARGET_FILE:${target}>)
    endif()
  endforeach()
endfunction()

function(esp_define_test_paths target)
  target_compile_definitions(${target} PRIVATE
    ESP_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ESP_BUILD_DIR="${PROJECT_BINARY_DIR}")
endfunction()

# esp_script_tests(<directory under tests/> <pattern> COMMAND <word>...): the file is appended to the command.
function(esp_script_tests directory pattern)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "COMMAND")
  file(GLOB files CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/${directory}/${pattern}")
  if(NOT TARGET espalier)
    return()
  endif()
  foreach(file IN LISTS files)
    cmake_path(GET file STEM LAST_ONLY stem)
    string(REGEX REPLACE "^test_" "" stem "${stem}")
    esp_test_labels(labels "${file}" ${directory})
    esp_test_is_wanted(is_wanted ${labels})
    if(is_wanted)
      # a directory of its own, so that tests may write where they stand
      set(working_directory "${PROJECT_BINARY_DIR}/tests/${directory}_${stem}")
      file(MAKE_DIRECTORY "${working_directory}")
      esp_register_test(${directory}_${stem} "${labels}" DIRECTORY "${working_directory}" COMMAND ${arg_COMMAND} "${file}"
        ENVIRONMENT "ESPALIER=$<TARGET_FILE:espalier>")
    endif()
  endforeach()
endfunction()

# Helpers accumulate from left to right, so this order is the layers' order.
set(ESP_TEST_HELPERS "")
esp_c_tests(unit/base base base LINK base)
esp_c_tests(unit/tensor tensor tensor LINK tensor)
esp_c_tests(unit/graph graph graph LINK graph)
esp_c_tests(unit/train train train LINK train)
esp_c_tests(unit/io io io LINK io)
esp_c_tests(onnx onnx onnx LINK io)
esp_c_tests(unit/prune prune prune LINK prune io)
esp_c_tests(oracle oracle oracle LINK prune io)
esp_c_tests(unit/study study study LINK study)
esp_c_tests(unit/plot plot plot LINK plot)
esp_c_tests(unit/script script script LINK script)
esp_c_tests(lua lua lua LINK script)
esp_c_tests(unit/cli cli cli LINK cli)
esp_c_tests(unit/ui ui ui LINK ui)
esp_c_tests(ui ui_screen ui LINK ui)

# Tests of these layers may use the library the layer wraps.
foreach(pair IN ITEMS "script|PkgConfig::LUA" "lua|PkgConfig::LUA" "ui|PkgConfig::VTERM"
                      "ui_screen|PkgConfig::VTERM" "ui_screen|PkgConfig::NCURSESW" "ui|PkgConfig::NCURSESW"
                      "io|esp_onnx_proto" "onnx|esp_onnx_proto" "io|ZLIB::ZLIB" "base|ZLIB::ZLIB"
                      "study|PkgConfig::SQLITE3")
  string(REPLACE "|" ";" pair "${pair}")
  list(GET pair 0 prefix)
  list(GET pair 1 library)
  if(TARGET esp_${prefix}_test_setup)
    target_link_libraries(esp_${prefix}_test_setup INTERFACE ${library})
  endif()
  if(TARGET esp_${prefix}_test_helpers)
    target_link_libraries(esp_${prefix}_test_helpers PRIVATE ${library})
  endif()
endforeach()

esp_script_tests(lua "test_*.lua" COMMAND espalier run)
foreach(directory IN ITEMS cli onnx ui)
  esp_script_tests(${directory} "*.sh" COMMAND sh)
endforeach()
if(NOT ESP_SANITIZE) # it makes builds of its own
  esp_script_tests(fuzz "*.sh" COMMAND sh)
endif()

if(NOT ESP_TEST_ONLY_LABEL AND NOT ESP_SANITIZE)
  foreach(check IN ITEMS layers layers_test)
    esp_register_test(${check} style COMMAND sh "${PROJECT_SOURCE_DIR}/tests/${check}.sh")
  endforeach()
endif()

# Programs that benchmarks run, built on demand: tests/bench/<name>.c is the target bench_<name>.
file(GLOB benches CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/bench/*.c")
foreach(file IN LISTS benches)
  cmake_path(GET file STEM stem)
  add_executable(bench_${stem} EXCLUDE_FROM_ALL "${file}")
  target_link_libraries(bench_${stem} PRIVATE esp_prune esp_io esp_options)
endforeach()
