# rhetor_unity(TARGET ROOM): eight sources are compiled as one, which halves the work. cpu/ stays apart, whose files Highway compiles once
# an instruction set.
function(rhetor_unity target room)
  if(NOT room STREQUAL cpu)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
  endif()
endfunction()

# rhetor_room(NAME DEPS room... LIBS library...): one static library and one test program a room.
# Sources are x.cc, unit tests x_test.cc beside them.
function(rhetor_room name)
  cmake_parse_arguments(ARG "" "" "DEPS;LIBS;TEST_DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cc)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "(_test|/main)\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  if(NOT sources)
    return()
  endif()
  list(TRANSFORM ARG_DEPS PREPEND rhetor_)
  list(TRANSFORM ARG_TEST_DEPS PREPEND rhetor_)
  add_library(rhetor_${name} STATIC ${sources})
  target_link_libraries(rhetor_${name} PUBLIC rhetor_flags ${ARG_DEPS} ${ARG_LIBS})
  rhetor_sanitize_room(${name})
  if(RHETOR_TESTS AND tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE rhetor_${name} ${ARG_TEST_DEPS} GTest::gmock GTest::gtest_main)
    rhetor_unity(${name}_test ${name})
    rhetor_sanitize_test(${name}_test)
    add_test(NAME ${name} COMMAND ${name}_test)
    set_tests_properties(${name} PROPERTIES TIMEOUT 1200 ENVIRONMENT
      "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tools/tsan.supp")
  endif()
endfunction()
