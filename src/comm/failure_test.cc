#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "comm/launch.h"
#include "comm/reduce.h"
#include "comm/test_worlds.h"

namespace rhetor {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

const World kWorlds[] = {run_loopback, run_tcp};

void step(Communicator& c, std::string_view tensor, std::size_t count = 1000) {
  std::vector<float> data(count);
  c.all_reduce(std::span(data), Reduce::sum, tensor);
}

TEST(CommFailure, AnotherSizeIsNamedOnAllRanks) {
  for (const World& run : kWorlds) {
    const auto errors = errors_of(run, 3, [](Communicator& c) {
      step(c, "same");
      step(c, "wte", c.rank() == 1 ? 999 : 1000);
    }, {});
    for (const std::string& error : errors)
      EXPECT_THAT(error, AllOf(HasSubstr("all_reduce of 'wte'"), HasSubstr("do not make the same call"), HasSubstr("f32 x 999"),
                               HasSubstr("f32 x 1000"), HasSubstr("call 2")));
  }
}

TEST(CommFailure, AnotherOrderDtypeOperationOrKindIsNamed) {
  const auto differ = [](const std::function<void(Communicator&)>& usual, const std::function<void(Communicator&)>& odd) {
    const auto errors = errors_of(run_loopback, 3, [&](Communicator& c) { c.rank() == 2 ? odd(c) : usual(c); }, {});
    EXPECT_THAT(errors[0], HasSubstr("do not make the same call"));
    EXPECT_THAT(errors[2], HasSubstr("do not make the same call"));
    return errors[1];
  };
  std::vector<std::int32_t> ints(1000);
  EXPECT_THAT(differ([](Communicator& c) { step(c, "a"); step(c, "b"); }, [](Communicator& c) { step(c, "b"); step(c, "a"); }),
              AllOf(HasSubstr("'a'"), HasSubstr("'b'")));
  EXPECT_THAT(differ([](Communicator& c) { step(c, "a"); }, 
                     [&](Communicator& c) { auto own = ints; c.all_reduce(std::span(own), Reduce::sum, "a"); }),
              AllOf(HasSubstr("f32"), HasSubstr("i32")));
  EXPECT_THAT(differ([](Communicator& c) { step(c, "a"); }, 
                     [](Communicator& c) { std::vector<float> d(1000); c.all_reduce(std::span(d), Reduce::max, "a"); }),
              AllOf(HasSubstr("(sum)"), HasSubstr("(max)")));
  EXPECT_THAT(differ([](Communicator& c) { step(c, "a"); }, [](Communicator& c) { c.barrier("a"); }), HasSubstr("barrier"));
  const std::string long_name(300, 'x');
  EXPECT_THAT(differ([&](Communicator& c) { c.barrier(long_name + "1"); }, [&](Communicator& c) { c.barrier(long_name + "2"); }),
              HasSubstr("do not make the same call"));
}

TEST(CommFailure, TheCulpritIsKnownToPrograms) {
  run_loopback(4, [](Communicator& c) {
    try {
      step(c, "w", c.rank() == 2 ? 5 : 6);
      ADD_FAILURE() << "must fail";
    } catch (const CommError& error) {
      EXPECT_EQ(error.rank(), 2);
    }
    EXPECT_THROW(c.barrier("later"), CommError);   // and so does every later call
  });
}

TEST(CommFailure, ARankThatDoesNotComeIsNamedAtTheDeadline) {
  for (const World& run : kWorlds) {
    const auto errors = errors_of(run, 3, [](Communicator& c) {
      step(c, "first");
      if (c.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(900));
      step(c, "h.3.attn");
    }, {.deadline = 0.4, .warn_after = 100});
    for (const int r : {0, 2}) {
      const std::string& error = errors[static_cast<std::size_t>(r)];
      EXPECT_THAT(error, AllOf(HasSubstr("all_reduce of 'h.3.attn'"), ContainsRegex("rank 1( \\(.*\\))? did not come"))) << r;
    }
    EXPECT_THAT(errors[1], HasSubstr("rank 1"));   // it learns that the others gave up
  }
}

TEST(CommFailure, ARankThatLeavesOrThrowsIsNamed) {
  for (const World& run : kWorlds) {
    const auto left = errors_of(run, 3, [](Communicator& c) {
      if (c.rank() != 1) step(c, "w");
    }, {});
    for (const int r : {0, 2}) EXPECT_THAT(left[static_cast<std::size_t>(r)], ContainsRegex("'w'.*rank 1( \\(.*\\))? has left"));

    std::vector<std::string> errors(3);
    EXPECT_THROW(run(3, [&](Communicator& c) {
      try {
        if (c.rank() == 1) fail("disk full");
        step(c, "w");
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(c.rank())] = error.what();
        throw;
      }
    }, {}), Error);
    for (const int r : {0, 2}) EXPECT_THAT(errors[static_cast<std::size_t>(r)], ContainsRegex("'w'.*rank 1( \\(.*\\))? gave up: "));
  }
}

TEST(CommFailure, StartedCollectivesFailWithTheRest) {
  for (const World& run : kWorlds)
    run(3, [](Communicator& c) {
      std::vector<float> a(100), b(100);
      Pending first = c.start_all_reduce(std::span(a), Reduce::sum, "a");
      Pending second = c.start_all_reduce(std::span(b).first(c.rank() == 0 ? 50 : 100), Reduce::sum, "b");
      Pending dropped = c.start_all_reduce(std::span(a), Reduce::sum, "c");
      first.wait();
      EXPECT_THROW(second.wait(), CommError);
      EXPECT_THROW(second.wait(), CommError);
    }, {});
}

TEST(CommFailure, GroupsFailTogether) {
  // Ranks 0 and 1 wait for each other in a group of their own when rank 2 gives up.
  std::atomic<int> ready = 0;
  const auto errors = errors_of(run_loopback, 3, [&](Communicator& c) {
    const auto part = c.split(c.rank() == 2, 0);
    ++ready;
    while (c.rank() && ready < 3) std::this_thread::yield();
    if (c.rank() == 0) return step(*part, "w");
    if (c.rank() == 2) return c.abort("no more disk");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    step(*part, "w");
  }, {});
  EXPECT_THAT(errors[0], AllOf(HasSubstr("no more disk"), HasSubstr("among 2 of 3 ranks")));
  EXPECT_THAT(errors[1], HasSubstr("rank 2 gave up"));
}

TEST(Rendezvous, SaysWhoHasNotCome) {
  const SocketAddress master{"127.0.0.1", free_port()};
  std::string error0, error1;
  const auto attempt = [&](int rank, std::string& error) {
    try {
      meet(master, rank, 4, {.rendezvous = 0.5});
    } catch (const Error& e) {
      error = e.what();
    }
  };
  std::thread other([&] { attempt(1, error1); });
  attempt(0, error0);
  other.join();
  EXPECT_THAT(error0, HasSubstr("ranks 2, 3 of 4 had not come"));
  EXPECT_EQ(error1, error0);
}

TEST(Rendezvous, RefusesOneRankTwiceAndAnotherWorld) {
  const auto both = [](int rank_a, int size_a, int size_0) {
    const SocketAddress master{"127.0.0.1", free_port()};
    const auto attempt = [&](int rank, int size) -> std::string {
      try {
        meet(master, rank, size, {.rendezvous = 5});
        return "";
      } catch (const Error& e) {
        return e.what();
      }
    };
    std::string first, second;
    std::thread a([&] { first = attempt(1, size_0); }), b([&] { second = attempt(rank_a, size_a); });
    const std::string error = attempt(0, size_0);
    a.join();
    b.join();
    return error;
  };
  EXPECT_THAT(both(1, 3, 3), HasSubstr("is taken"));
  EXPECT_THAT(both(2, 4, 3), HasSubstr("believes in 4 ranks, rank 0 in 3"));
}

TEST(Rendezvous, StrangersDoNotDisturb) {
  const SocketAddress master{"127.0.0.1", free_port()};
  std::thread rank0([&] { EXPECT_EQ(meet(master, 0, 2, {.rendezvous = 10}).links.size(), 2u); });
  std::string why;
  const CommClock::time_point soon = CommClock::now() + comm_seconds(5);
  const Socket silent = connect_to(master, soon, why), loud = connect_to(master, soon, why);
  const std::string request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
  EXPECT_TRUE(write_all(loud, std::as_bytes(std::span(request)), soon));
  EXPECT_EQ(meet(master, 1, 2, {.rendezvous = 10}).links.size(), 2u);
  rank0.join();
}

TEST(Rendezvous, NoRankZero) {
  EXPECT_THAT([] { meet({"127.0.0.1", free_port()}, 1, 2, {.rendezvous = 0.3}); },
              testing::ThrowsMessage<Error>(HasSubstr("could not reach rank 0")));
}

std::optional<Launch> launched(std::initializer_list<std::pair<const char*, const char*>> variables) {
  return detect_launch([&](const char* name) -> std::optional<std::string> {
    for (const auto& [key, value] : variables)
      if (std::string_view(key) == name) return value;
    return std::nullopt;
  });
}

TEST(Launch, ReadsEveryLauncher) {
  EXPECT_FALSE(launched({}));
  const auto torchrun = launched({{"RANK", "3"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "77"}});
  EXPECT_EQ(torchrun->backend, "tcp");
  EXPECT_EQ(torchrun->rank, 3);
  EXPECT_EQ(torchrun->size, 8);
  EXPECT_EQ(torchrun->local_rank, 1);
  EXPECT_EQ(torchrun->master.str(), "a:77");
  const auto elastic = launched({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "::1"}, {"MASTER_PORT", "77"},
                                 {"TORCHELASTIC_USE_AGENT_STORE", "True"}});
  EXPECT_EQ(elastic->master.str(), "[::1]:78");
  // mpirun inside a Slurm allocation: the innermost launcher counts.
  const auto mpi = launched({{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}});
  EXPECT_EQ(mpi->backend, "mpi");
  EXPECT_EQ(mpi->rank, 1);
  EXPECT_EQ(launched({{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"RHETOR_COMM", "tcp"}})->backend, "tcp");
  EXPECT_EQ(launched({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}})->backend, "mpi");
  const auto slurm = launched({{"SLURM_PROCID", "5"}, {"SLURM_STEP_NUM_TASKS", "6"}, {"SLURM_LOCALID", "1"}, {"SLURM_JOB_ID", "12"},
                               {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NODELIST", "gpu[07-09,12],b1"}});
  EXPECT_EQ(slurm->backend, "tcp");
  EXPECT_EQ(slurm->master.host, "gpu07");
  EXPECT_EQ(slurm->local_rank, 1);
  // A batch script that runs one program.
  EXPECT_FALSE(launched({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "6"}, {"SLURM_JOB_ID", "12"}}));
}

TEST(Launch, RefusesNonsense) {
  EXPECT_THROW(launched({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}), Error);
  EXPECT_THROW(launched({{"RANK", "x"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}), Error);
  EXPECT_THROW(launched({{"RANK", "0"}, {"WORLD_SIZE", "2"}}), Error);
  EXPECT_THROW(launched({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "99999"}}), Error);
}

TEST(Launch, FirstNode) {
  EXPECT_EQ(first_node("node[07-09,12],b1"), "node07");
  EXPECT_EQ(first_node("a,b"), "a");
  EXPECT_EQ(first_node("localhost"), "localhost");
  EXPECT_EQ(first_node("r[1,2]n3"), "r1n3");
}

}  // namespace
}  // namespace rhetor
