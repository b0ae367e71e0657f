# What a sanitizer build adds (-DRHETOR_SANITIZE=address,undefined or thread), with an eye on the time to build it.
#
# Of UBSan, GCC's null and vptr checks are left out: they double the time to compile and find little that AddressSanitizer does not.
# The alignment check is as dear, so only the rooms that handle raw bytes get it. The tests themselves are built without UBSan.
set(RHETOR_TEST_FLAGS -O0)   # what the tests check is the rooms: they themselves are built the quick way
if(NOT RHETOR_SANITIZE)
  function(rhetor_sanitize_room name)
  endfunction()
  function(rhetor_sanitize_test target)
    target_compile_options(${target} PRIVATE ${RHETOR_TEST_FLAGS})
  endfunction()
  return()
endif()

add_compile_options(-fsanitize=${RHETOR_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
add_link_options(-fsanitize=${RHETOR_SANITIZE})
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-subobject-linkage>)   # sources compiled as one are included, and what they hide is no header's
if(RHETOR_SANITIZE STREQUAL thread)
  add_compile_options(-Wno-tsan)   # it cannot see the memory fences in Boost.Asio, whose locks order the same
endif()
if(RHETOR_SANITIZE MATCHES undefined)
  add_compile_options(-fno-sanitize=null,vptr,alignment)
  list(APPEND RHETOR_TEST_FLAGS -fno-sanitize=undefined)
endif()

# The standard library's and GoogleTest's headers are a third of the work: they are parsed once for the rooms and once for the tests.
set(RHETOR_COMMON_HEADERS <algorithm> <array> <atomic> <chrono> <cmath> <condition_variable> <cstdint> <cstring> <deque> <filesystem>
    <fstream> <functional> <map> <memory> <mutex> <optional> <set> <span> <sstream> <string> <string_view> <thread> <unordered_map>
    <utility> <variant> <vector> <fmt/core.h>)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled.cc CONTENT "int main() {}\n")
add_library(rhetor_precompiled STATIC ${CMAKE_BINARY_DIR}/precompiled.cc)
target_link_libraries(rhetor_precompiled PRIVATE rhetor_flags fmt::fmt)
target_precompile_headers(rhetor_precompiled PRIVATE ${RHETOR_COMMON_HEADERS})
add_executable(rhetor_precompiled_test ${CMAKE_BINARY_DIR}/precompiled.cc)
target_link_libraries(rhetor_precompiled_test PRIVATE rhetor_flags fmt::fmt GTest::gmock)
target_compile_options(rhetor_precompiled_test PRIVATE ${RHETOR_TEST_FLAGS})
target_precompile_headers(rhetor_precompiled_test PRIVATE ${RHETOR_COMMON_HEADERS} <gmock/gmock.h> <gtest/gtest.h>)

function(rhetor_sanitize_room name)
  rhetor_unity(rhetor_${name} ${name})
  if(RHETOR_SANITIZE MATCHES undefined AND name MATCHES "^(base|tensor|data|text|cpu|runtime)$")
    target_compile_options(rhetor_${name} PRIVATE -fsanitize=alignment)
  else()
    target_precompile_headers(rhetor_${name} REUSE_FROM rhetor_precompiled)
  endif()
endfunction()

function(rhetor_sanitize_test target)
  target_compile_options(${target} PRIVATE ${RHETOR_TEST_FLAGS})
  target_precompile_headers(${target} REUSE_FROM rhetor_precompiled_test)
endfunction()
