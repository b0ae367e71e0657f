/* What librhetor_mpi.so offers: the few MPI calls Rhetor makes, behind plain C, so that the program starts where no MPI is installed and
   is not bound to one MPI's binary interface. The library holds no logic; comm/mpi.cc does. */
#ifndef RHETOR_COMM_MPI_API_H_
#define RHETOR_COMM_MPI_API_H_

#ifdef __cplusplus
extern "C" {
#endif

#define RHETOR_MPI_API_VERSION 1

/* All calls come from the one thread that called init. Calls return 0, or an MPI error code. */
struct RhetorMpiApi {
  int version;
  int (*init)(int* rank, int* size);
  /* Collective: waits for all ranks. */
  void (*finalize)(void);
  int (*all_gather)(const void* mine, void* all, int bytes);
  /* A request is one word; from -1: any rank. */
  int (*isend)(const void* bytes, int count, int to, int tag, void** request);
  int (*irecv)(void* bytes, int capacity, int from, int tag, void** request);
  /* done: 1 when the request is complete (it is then gone); count and from of a receive. */
  int (*test)(void** request, int* done, int* count, int* from);
  /* The name of the library, for messages. */
  const char* (*library)(void);
};

/* The only symbol that is looked up. */
const struct RhetorMpiApi* rhetor_mpi_api(void);

#ifdef __cplusplus
}
#endif
#endif
