# The libraries Espalier stands on, all from the distribution, and the ONNX schema compiled at build time.

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_package(JPEG REQUIRED)
find_package(PNG REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c)
pkg_check_modules(SQLITE3 REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(LUA REQUIRED IMPORTED_TARGET lua5.4)
pkg_check_modules(NCURSESW REQUIRED IMPORTED_TARGET ncursesw)

find_program(ESP_PROTOC_C protoc-c REQUIRED DOC "The protobuf-c compiler")
find_file(ESP_ONNX_PROTO onnx.proto PATH_SUFFIXES onnx REQUIRED DOC "The ONNX schema (libonnx-dev)")

# Generated code is not ours to warn about: no esp_options, and its header counts as a system header.
set(esp_proto_dir "${PROJECT_BINARY_DIR}/generated")
cmake_path(GET ESP_ONNX_PROTO PARENT_PATH esp_proto_source_dir)
file(MAKE_DIRECTORY "${esp_proto_dir}")
add_custom_command(
  OUTPUT "${esp_proto_dir}/onnx.pb-c.c" "${esp_proto_dir}/onnx.pb-c.h"
  COMMAND "${ESP_PROTOC_C}" --proto_path=${esp_proto_source_dir} --c_out=${esp_proto_dir} "${ESP_ONNX_PROTO}"
  DEPENDS "${ESP_ONNX_PROTO}"
  COMMENT "Compiling the ONNX schema"
  VERBATIM)
add_library(esp_onnx_proto STATIC EXCLUDE_FROM_ALL "${esp_proto_dir}/onnx.pb-c.c" "${esp_proto_dir}/onnx.pb-c.h")
target_include_directories(esp_onnx_proto SYSTEM PUBLIC "${esp_proto_dir}")
target_link_libraries(esp_onnx_proto PUBLIC PkgConfig::PROTOBUF_C)
