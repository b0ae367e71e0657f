// Both ends of the tuner's worker process.
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <iostream>
#include <sstream>

#include "base/error.h"
#include "runtime/tune_device.h"

extern char** environ;

namespace rhetor {

int run_tune_worker() {
  set_cuda_tuner(nullptr);
  std::string line, word, way, problem;
  int device = 0;
  while (std::getline(std::cin, line)) {
    std::istringstream in(line);
    in >> word >> device >> way >> std::ws;
    std::getline(in, problem);
    try {
      const auto& devices = cuda_devices();
      if (!in || word != "try" || device < 0 || device >= static_cast<int>(devices.size())) fail("the request '{}' is none", line);
      const CudaTrial trial = try_cuda_way(devices[static_cast<std::size_t>(device)], problem, way);
      fmt::print("done {:x} {:.3f}\n", trial.hash, trial.us);
    } catch (const std::exception& error) {
      std::string text = error.what();
      std::replace(text.begin(), text.end(), '\n', ' ');
      fmt::print("failed {}\n", text);
    }
    std::fflush(stdout);
  }
  return 0;
}

void TuneWorker::start() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) fail(ErrorKind::io, "the tuner's worker: {}", std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  std::vector<char*> arguments;
  for (std::string& word : command_) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t pid = -1;
  const int status = posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (status != 0) {
    close(ends[0]);
    fail(ErrorKind::io, "the tuner's worker '{}' cannot be started: {}", command_[0], std::strerror(status));
  }
  pid_ = pid;
  socket_ = ends[0];
}

void TuneWorker::end() {
  if (pid_ < 0) return;
  close(socket_);
  kill(pid_, SIGKILL);  // it holds nothing that must be written
  waitpid(pid_, nullptr, 0);
  pid_ = socket_ = -1;
}

bool TuneWorker::read_line(std::string& line, std::string& why) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(patience_s_);
  line.clear();
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd waiting{socket_, POLLIN, 0};
    const int ready = left > 0 ? poll(&waiting, 1, static_cast<int>(left)) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      why = fmt::format("it gave no answer in {:g} s", patience_s_);
      return false;
    }
    char letter = 0;  // lines are short and few
    if (read(socket_, &letter, 1) != 1) {
      why = "its process ended without an answer";
      return false;
    }
    if (letter == '\n') return true;
    line += letter;
  }
}

std::optional<CudaTrial> TuneWorker::ask(int device, const std::string& way, const std::string& problem, std::string& why) {
  try {
    if (pid_ < 0) start();
  } catch (const Error& error) {
    why = error.what();
    return std::nullopt;
  }
  const std::string request = fmt::format("try {} {} {}\n", device, way, problem);
  std::string line;
  // A socket takes a line of this length at once, or its reader is gone.
  if (send(socket_, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) why = "its process ended before it was asked";
  else if (read_line(line, why)) {
    std::istringstream in(line);
    std::string word;
    CudaTrial trial;
    if (in >> word >> std::hex >> trial.hash >> trial.us && word == "done") return trial;
    why = line;
    // After a kernel that went wrong every later one fails: a new process.
  }
  end();
  return std::nullopt;
}

}  // namespace rhetor
