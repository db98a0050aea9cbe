# Compiler and build options shared by every target of ours.

option(ESP_WERROR "Treat warnings as errors" OFF)
set(ESP_SANITIZE "" CACHE STRING "Sanitizer: empty, 'address' (with undefined behaviour) or 'thread'")
set_property(CACHE ESP_SANITIZE PROPERTY STRINGS "" address thread)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug or Release" FORCE)
endif()

set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

# No -march: the program runs on any machine of its architecture; kernels choose instruction sets at run time.
set(CMAKE_C_FLAGS_DEBUG "-O1 -g")
set(CMAKE_C_FLAGS_RELEASE "-O3 -g -DNDEBUG")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O3 -g")

# Carried by every target of ours, but not by generated code.
add_library(esp_options INTERFACE)
target_compile_definitions(esp_options INTERFACE _GNU_SOURCE)
target_compile_options(esp_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -fno-math-errno)
if(ESP_WERROR)
  target_compile_options(esp_options INTERFACE -Werror)
endif()

# Sanitizers go to everything, generated code too: a race detector must see every access.
if(ESP_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(ESP_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
elseif(ESP_SANITIZE)
  message(FATAL_ERROR "ESP_SANITIZE is '${ESP_SANITIZE}', expected nothing, 'address' or 'thread'")
endif()
