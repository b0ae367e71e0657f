// comm_probe: started by mpirun, srun, torchrun, or with --ranks N as threads. Checks the collectives, times them, or loops until it is
// stopped, for whoever wants to see what happens when a rank dies.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

#include "base/log.h"
#include "comm/launch.h"
#include "comm/loopback.h"
#include "comm/self_check.h"

namespace rhetor {
namespace {

constexpr const char* kHelp =
    "comm_probe check [--count N]      every collective, dtype and operation against float64; prints a hash a case\n"
    "comm_probe time [--most BYTES]    seconds of an all_reduce by size, and the model fitted to them\n"
    "comm_probe loop [--seconds S] [--sleep-rank R | --odd-rank R | --leave-rank R]\n"
    "                                  one all_reduce after another; a rank may sleep, give another size or leave at call 5\n"
    "Common: --ranks N (threads of this process), --deadline S, --silence S, --rendezvous S, --segment BYTES\n";

struct Options {
  std::string_view command = "check";
  std::int64_t count = 1001, most = std::int64_t{64} << 20;
  double seconds = 30;
  int ranks = 0, sleep_rank = -1, odd_rank = -1, leave_rank = -1;
  CommOptions comm;
};

Options parse(int argc, char** argv) {
  Options options;
  if (argc > 1) options.command = argv[1];
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    const double value = std::atof(argv[i + 1]);
    if (flag == "--ranks") options.ranks = static_cast<int>(value);
    else if (flag == "--count") options.count = static_cast<std::int64_t>(value);
    else if (flag == "--most") options.most = static_cast<std::int64_t>(value);
    else if (flag == "--seconds") options.seconds = value;
    else if (flag == "--deadline") options.comm.deadline = value;
    else if (flag == "--silence") options.comm.silence = value;
    else if (flag == "--rendezvous") options.comm.rendezvous = value;
    else if (flag == "--segment") options.comm.segment_bytes = static_cast<std::size_t>(value);
    else if (flag == "--sleep-rank") options.sleep_rank = static_cast<int>(value);
    else if (flag == "--odd-rank") options.odd_rank = static_cast<int>(value);
    else if (flag == "--leave-rank") options.leave_rank = static_cast<int>(value);
    else fail("there is no option '{}'\n{}", flag, kHelp);
  }
  return options;
}

void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

void loop(Communicator& c, const Options& options) {
  say(fmt::format("rank {} of {} on {}: process {}", c.rank(), c.size(), c.backend(), ::getpid()));
  const CommClock::time_point begin = CommClock::now(), end = begin + comm_seconds(options.seconds);
  std::vector<float> data(100000);
  int go_on = 1;
  for (int step = 1; go_on; ++step) {
    if (step == 5 && c.rank() == options.sleep_rank) std::this_thread::sleep_for(comm_seconds(options.seconds));
    if (step == 5 && c.rank() == options.leave_rank) return;
    const std::size_t count = step == 5 && c.rank() == options.odd_rank ? 99999 : data.size();
    c.all_reduce(std::span(data).first(count), Reduce::mean, fmt::format("layer.{}.weight", step));
    std::this_thread::sleep_for(comm_seconds(0.01));
    go_on = CommClock::now() < end;
    c.broadcast(std::span(&go_on, 1), 0, "go on");
  }
  const WaitStats stats = gather_waits(c);
  const std::string slow = slow_rank(stats, in_seconds(CommClock::now() - begin));
  if (c.rank() == 0) say(fmt::format("{} collectives; {}", stats.collectives, slow.empty() ? "no rank is slow" : slow));
}

void probe(Communicator& c, const Options& options) {
  if (options.command == "check") {
    const bool speaks = c.rank() == 0;
    check_collectives(c, {1, 3, 257, options.count}, [&](const std::string& line) { if (speaks) say(line); });
    c.barrier("end of the check");
    if (speaks) say(fmt::format("{} ranks on {}: all right", c.size(), c.backend()));
  } else if (options.command == "time") {
    std::vector<std::int64_t> sizes;
    for (std::int64_t bytes = 1024; bytes <= options.most; bytes *= 4) sizes.push_back(bytes);
    const std::vector<CommSample> samples = time_all_reduce(c, sizes, 9);
    if (c.rank() != 0) return;
    for (const CommSample& one : samples)
      say(fmt::format("{:>12.0f} bytes {:>10.1f} us {:>8.3f} GB/s", one.bytes, one.seconds * 1e6, one.bytes / one.seconds / 1e9));
    if (samples.size() < 2) return;
    const CommModel model = fit_comm_model(samples);
    say(fmt::format("all_reduce of n bytes over {} ranks on {}: {} (error {:.0f} %)", c.size(), c.backend(), model.str(),
                    relative_error(model, samples) * 100));
  } else if (options.command == "loop") {
    loop(c, options);
  } else {
    fail("there is no command '{}'\n{}", options.command, kHelp);
  }
}

}  // namespace
}  // namespace rhetor

int main(int argc, char** argv) {
  using namespace rhetor;
  try {
    const Options options = parse(argc, argv);
    if (options.ranks > 0) {
      run_loopback(options.ranks, [&](Communicator& c) { probe(c, options); }, options.comm);
      return 0;
    }
    const std::optional<Launch> launch = detect_launch();
    if (!launch) fail("no launcher is behind this process: start it with mpirun, srun or torchrun, or give --ranks N");
    const std::unique_ptr<Communicator> communicator = join(*launch, options.comm);
    probe(*communicator, options);
    return 0;
  } catch (const std::exception& error) {
    log_line(LogLevel::error, error.what());
    return 1;
  }
}
