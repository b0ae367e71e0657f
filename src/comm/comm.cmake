rhetor_room(comm DEPS tensor parallel LIBS ${CMAKE_DL_LIBS})
# Sums over ranks are simple loops that only this level vectorises. Not under sanitizers, whose precompiled headers are of one level.
if(NOT RHETOR_SANITIZE)
  set_source_files_properties(comm/reduce.cc PROPERTIES COMPILE_OPTIONS -O3)
endif()

# comm_probe: what one starts under a launcher to see whether the ranks reach each other, and how fast.
if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/comm/main.cc)
  add_executable(comm_probe comm/main.cc)
  target_link_libraries(comm_probe PRIVATE rhetor_comm)
endif()

# The MPI backend is a library of its own that the program loads under an MPI launcher: without MPI it is not built, and nothing else changes.
find_package(MPI QUIET COMPONENTS C)
if(MPI_C_FOUND)
  add_library(rhetor_mpi MODULE comm/mpi/plugin.cc)
  target_include_directories(rhetor_mpi PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} SYSTEM ${MPI_C_INCLUDE_DIRS})
  target_compile_definitions(rhetor_mpi PRIVATE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  target_link_libraries(rhetor_mpi PRIVATE ${MPI_C_LIBRARIES})
  set_target_properties(rhetor_mpi PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  if(TARGET comm_probe)
    add_dependencies(comm_probe rhetor_mpi)
  endif()
endif()
