// librhetor_mpi.so: MPI behind the table of comm/mpi_api.h. Built when CMake finds an MPI, for that MPI.
#include <mpi.h>

#include <cstring>

#include "comm/mpi_api.h"

namespace {

static_assert(sizeof(MPI_Request) <= sizeof(void*));
MPI_Comm world = MPI_COMM_NULL;

MPI_Request from_word(void* word) {
  MPI_Request request;
  std::memcpy(&request, &word, sizeof request);
  return request;
}
void to_word(MPI_Request request, void** word) {
  *word = nullptr;
  std::memcpy(word, &request, sizeof request);
}

int init(int* rank, int* size) {
  int provided = 0;
  if (const int error = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided)) return error;
  // Errors come back as codes: a lost rank must not end this process before it can say which one it was.
  if (const int error = MPI_Comm_dup(MPI_COMM_WORLD, &world)) return error;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
  MPI_Comm_rank(world, rank);
  return MPI_Comm_size(world, size);
}
void finalize() { MPI_Finalize(); }
int all_gather(const void* mine, void* all, int bytes) { return MPI_Allgather(mine, bytes, MPI_BYTE, all, bytes, MPI_BYTE, world); }

int isend(const void* bytes, int count, int to, int tag, void** request) {
  MPI_Request made;
  const int error = MPI_Isend(bytes, count, MPI_BYTE, to, tag, world, &made);
  to_word(made, request);
  return error;
}
int irecv(void* bytes, int capacity, int from, int tag, void** request) {
  MPI_Request made;
  const int error = MPI_Irecv(bytes, capacity, MPI_BYTE, from < 0 ? MPI_ANY_SOURCE : from, tag, world, &made);
  to_word(made, request);
  return error;
}
int test(void** request, int* done, int* count, int* from) {
  MPI_Request given = from_word(*request);
  MPI_Status status;
  const int error = MPI_Test(&given, done, &status);
  to_word(given, request);
  if (error || !*done) return error;
  *from = status.MPI_SOURCE;
  return MPI_Get_count(&status, MPI_BYTE, count);
}
const char* library() {
  static char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  return text;
}

}  // namespace

extern "C" const RhetorMpiApi* rhetor_mpi_api() {
  static const RhetorMpiApi api{RHETOR_MPI_API_VERSION, init, finalize, all_gather, isend, irecv, test, library};
  return &api;
}
