#include "train/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "comm/communicator.h"
#include "tensor/safetensors.h"
#include "train/ranks.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 1, kPartsFormat = 2;   // one file of states; one a rank
constexpr std::string_view kPrefix = "step-";

fs::path folder_of(const fs::path& run_folder) { return run_folder / "checkpoints"; }

// The N of "step-N"; nothing for any other name.
std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix) || name.size() == kPrefix.size() || name.size() > kPrefix.size() + 18) return std::nullopt;
  std::int64_t step = 0;
  for (const char c : name.substr(kPrefix.size())) {
    if (c < '0' || c > '9') return std::nullopt;
    step = step * 10 + (c - '0');
  }
  return step;
}

// What is in `folder`; nothing if it does not exist. A folder that cannot be read is an error: to take it for an empty one would
// start a run anew over its checkpoints.
std::vector<fs::path> entries(const fs::path& folder) {
  std::vector<fs::path> out;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  if (error == std::errc::no_such_file_or_directory) return out;
  for (; !error && it != fs::directory_iterator(); it.increment(error)) out.push_back(it->path());
  if (error) fail(ErrorKind::io, "cannot read the folder '{}': {}", folder.string(), error.message());
  return out;
}

// Whole checkpoints by name, oldest first.
std::vector<std::pair<std::int64_t, fs::path>> list(const fs::path& folder) {
  std::vector<std::pair<std::int64_t, fs::path>> out;
  for (const auto& path : entries(folder)) {
    if (const auto step = step_of(path.filename().string())) out.emplace_back(*step, path);
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::string states_name(int rank, int ranks) {
  return ranks == 1 ? "state.safetensors" : fmt::format("state-{}-of-{}.safetensors", rank, ranks);
}

// What a write needs and what its disk has, for the sentence about one that failed.
std::string room_for(const fs::path& folder, const std::map<std::string, Tensor>& tensors) {
  std::uint64_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += tensor.bytes();
  std::error_code unknown;
  const fs::space_info disk = fs::space(folder, unknown);
  return fmt::format(" (it needs {} bytes{})", bytes, unknown ? "" : fmt::format(", {} are free there", disk.available));
}

json real(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }
double real(const json& value) { return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>(); }

// A list of pairs: the order is the metrics' own.
json metrics(const std::vector<std::pair<std::string, double>>& values) {
  json out = json::array();
  for (const auto& [name, value] : values) out.push_back({name, real(value)});
  return out;
}
std::vector<std::pair<std::string, double>> metrics(const json& values) {
  std::vector<std::pair<std::string, double>> out;
  for (const json& entry : values) out.emplace_back(entry.at(0).get<std::string>(), real(entry.at(1)));
  return out;
}

// 64-bit hashes as text: JSON readers elsewhere would round them to doubles.
std::string hex(std::uint64_t value) { return fmt::format("{:016x}", value); }

json to_json(const TrainerState& s) {
  return {{"format", kFormat},
          {"step", s.step},
          {"steps", s.steps},
          {"updates", s.updates},
          {"skipped", s.skipped},
          {"skipped_in_a_row", s.skipped_in_a_row},
          {"tokens", s.tokens},
          {"first_loss", real(s.first_loss)},
          {"last_loss", real(s.last_loss)},
          {"smooth_loss", real(s.smooth_loss)},
          {"validation_loss", real(s.validation_loss)},
          {"metric", real(s.metric)},
          {"best", real(s.best)},
          {"best_step", s.best_step},
          {"stale", s.stale},
          {"last_metrics", metrics(s.last_metrics)},
          {"best_metrics", metrics(s.best_metrics)},
          {"seconds", real(s.seconds)},
          {"metrics_bytes", s.metrics_bytes},
          {"data_hash", hex(s.data_hash)},
          {"recipe", s.recipe}};
}

TrainerState from_json(const json& j) {
  TrainerState s;
  s.step = j.at("step").get<std::int64_t>();
  s.steps = j.at("steps").get<std::int64_t>();
  s.updates = j.at("updates").get<std::int64_t>();
  s.skipped = j.at("skipped").get<std::int64_t>();
  s.skipped_in_a_row = j.at("skipped_in_a_row").get<std::int64_t>();
  s.tokens = j.at("tokens").get<std::int64_t>();
  s.first_loss = real(j.at("first_loss"));
  s.last_loss = real(j.at("last_loss"));
  s.smooth_loss = real(j.at("smooth_loss"));
  s.validation_loss = real(j.at("validation_loss"));
  if (j.contains("best")) {  // checkpoints of earlier versions have none of these
    s.metric = real(j.at("metric"));
    s.best = real(j.at("best"));
    s.best_step = j.at("best_step").get<std::int64_t>();
    s.stale = j.at("stale").get<std::int64_t>();
    s.last_metrics = metrics(j.at("last_metrics"));
    s.best_metrics = metrics(j.at("best_metrics"));
  }
  s.seconds = real(j.at("seconds"));
  s.metrics_bytes = j.at("metrics_bytes").get<std::uint64_t>();
  s.data_hash = std::stoull(j.at("data_hash").get<std::string>(), nullptr, 16);
  s.recipe = j.at("recipe").get<std::string>();
  return s;
}

}  // namespace

Checkpoint load_checkpoint(const fs::path& path) {
  const fs::path meta = path / "trainer.json";
  Checkpoint out;
  out.path = path;
  std::vector<std::string> expected;
  std::map<std::string, int> cut;
  try {
    json j = json::parse(read_file(meta, 64u << 20));
    const std::string own = j.at("checksum").get<std::string>();
    j.erase("checksum");
    if (hex(hash64(j.dump())) != own) fail("{}: its checksum does not match its content", meta.string());
    if (const int format = j.at("format").get<int>(); format != kFormat && format != kPartsFormat) {
      fail(ErrorKind::unsupported, "{}: checkpoint format {}, this build reads up to {}", meta.string(), format, kPartsFormat);
    }
    if (j.contains("cut")) {
      cut = j.at("cut").get<std::map<std::string, int>>();
      expected = j.at("state_checksums").get<std::vector<std::string>>();
    } else {
      expected = {j.at("state_checksum").get<std::string>()};
    }
    out.state = from_json(j);
  } catch (const json::exception& error) {
    fail("{}: not a checkpoint description: {}", meta.string(), error.what());
  } catch (const std::logic_error&) {  // stoull
    fail("{}: not a checkpoint description: a hash is not hexadecimal", meta.string());
  }
  std::map<std::string, std::vector<Tensor>> parts;
  const int ranks = static_cast<int>(expected.size());
  for (int rank = 0; rank < ranks; ++rank) {
    const fs::path states = path / states_name(rank, ranks);
    const std::string& own = expected[static_cast<std::size_t>(rank)];
    if (const std::string found = hex(hash64_of_file(states)); found != own)
      fail("{}: its checksum is {}, expected {}; the file is damaged", states.string(), found, own);
    for (auto& [name, tensor] : load_safetensors(states).tensors) parts[name].push_back(tensor);
  }
  for (auto& [name, of_ranks] : parts) {
    const auto shared = cut.find(name);
    if (shared == cut.end()) {
      out.tensors[name] = of_ranks[0];
      continue;
    }
    if (static_cast<int>(of_ranks.size()) != ranks || shared->second < 0 || shared->second >= of_ranks[0].shape().rank())
      fail("{}: the tensor '{}' has {} parts, expected {}", path.string(), name, of_ranks.size(), ranks);
    out.tensors[name] = join_parts(of_ranks, shared->second);
  }
  return out;
}

std::optional<Checkpoint> load_newest_checkpoint(const fs::path& run_folder) {
  const fs::path folder = folder_of(run_folder);
  std::error_code ignored;
  for (const auto& path : entries(folder)) {
    if (path.extension() == ".tmp") fs::remove_all(path, ignored);
  }
  const auto all = list(folder);
  std::vector<fs::path> damaged;
  std::string first_problem;
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    std::optional<Checkpoint> found;
    try {
      found = load_checkpoint(it->second);
    } catch (const Error& error) {
      // Anything else says nothing about the content: no more file handles, no right to read, a newer format.
      if (error.kind() != ErrorKind::invalid && error.kind() != ErrorKind::not_found) {
        throw Error(error.kind(), fmt::format("the checkpoint '{}' cannot be read: {}; nothing was changed. Mend that and run the same "
                                              "command again, or start anew with --fresh", it->second.string(), error.what()));
      }
      log_warning("{}", error.what());
      if (damaged.empty()) first_problem = error.what();
      damaged.push_back(it->second);
      continue;
    }
    // Only now that an older one is known to be good: a run whose checkpoints are all damaged must not look like one that has none.
    for (const auto& path : damaged) {
      const fs::path aside = path.string() + ".damaged";
      fs::remove_all(aside, ignored);
      fs::rename(path, aside, ignored);
    }
    if (!damaged.empty()) log_warning("going back to the checkpoint '{}'", found->path.string());
    return found;
  }
  if (!damaged.empty()) {
    fail("none of the {} checkpoints in '{}' can be used, the newest because of {}; start anew with --fresh, which removes them",
         damaged.size(), folder.string(), first_problem);
  }
  return std::nullopt;
}

fs::path run_tokenizer_path(const fs::path& run_folder) { return folder_of(run_folder) / "tokenizer.json"; }

void remove_checkpoints(const fs::path& run_folder) {
  std::error_code error;
  fs::remove_all(folder_of(run_folder), error);
  if (error) fail(ErrorKind::io, "cannot remove '{}': {}", folder_of(run_folder).string(), error.message());
}

namespace {

constexpr double kSlowestDisk = 3600;   // seconds the ranks wait for each other's disks

// Every rank's number, in rank order.
std::vector<std::uint64_t> gathered(Communicator* communicator, std::uint64_t own, const std::string& name) {
  if (!communicator) return {own};
  std::vector<std::int64_t> all(static_cast<std::size_t>(communicator->size()));
  const auto value = static_cast<std::int64_t>(own);
  communicator->run({.kind = CollectiveKind::all_gather, .name = name, .in = &value, .out = all.data(), .dtype = DType::i64,
                     .count = communicator->size(), .deadline = kSlowestDisk});
  return {all.begin(), all.end()};
}

// Does `work` and learns whether all ranks could: fails on all ranks if one did not.
void on_all(Communicator* communicator, const std::string& name, const std::function<void()>& work) {
  std::string problem;
  try {
    work();
  } catch (const fs::filesystem_error& failure) {
    problem = failure.code().message();
  } catch (const Error& error) {
    problem = error.what();
  }
  const std::vector<std::uint64_t> bad = gathered(communicator, problem.empty() ? 0 : 1, name);
  if (!problem.empty()) fail(ErrorKind::io, "{}: {}", name, problem);
  for (std::size_t r = 0; r < bad.size(); ++r)
    if (bad[r]) fail(ErrorKind::io, "{}: rank {} failed, and says why", name, r);
}

void delete_old(const fs::path& folder, std::int64_t keep) {
  std::error_code error;
  auto all = list(folder);
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i) {
    // Renamed first: a kill while files are being removed must not leave something that looks like a checkpoint.
    const fs::path doomed = all[i].second.string() + ".old.tmp";
    fs::rename(all[i].second, doomed, error);
    fs::remove_all(error ? all[i].second : doomed, error);
  }
}

}  // namespace

void write_checkpoint(const fs::path& run_folder, const TrainerState& state, const std::map<std::string, Tensor>& tensors,
                      std::int64_t keep, const CheckpointParts& parts) {
  const fs::path folder = folder_of(run_folder);
  const fs::path final_path = folder / fmt::format("{}{}", kPrefix, state.step);
  const fs::path temporary = final_path.string() + ".tmp";
  const int rank = parts.communicator ? parts.communicator->rank() : 0, ranks = parts.communicator ? parts.communicator->size() : 1;
  const std::string title = fmt::format("cannot write checkpoint '{}'", final_path.string());
  try {
    on_all(parts.communicator, title, [&] {
      if (rank > 0) return;
      fs::remove_all(temporary);
      fs::create_directories(temporary);
    });
    std::uint64_t hash = 0;
    on_all(parts.communicator, title, [&] {
      std::map<std::string, Tensor> own;
      for (const auto& [name, tensor] : tensors)
        if (rank == 0 || parts.cut.contains(name)) own[name] = tensor;
      try {
        save_safetensors(temporary / states_name(rank, ranks), own);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::io) throw;
        throw Error(ErrorKind::io, error.what() + room_for(temporary, own));
      }
      hash = hash64_of_file(temporary / states_name(rank, ranks));
    });
    const std::vector<std::uint64_t> hashes = gathered(parts.communicator, hash, "checkpoint checksums");
    on_all(parts.communicator, title, [&] {
      if (rank > 0) return;
      json j = to_json(state);
      if (ranks == 1) {
        j["state_checksum"] = hex(hash);
      } else {
        j["format"] = kPartsFormat;
        j["cut"] = parts.cut;
        for (const std::uint64_t one : hashes) j["state_checksums"].push_back(hex(one));
      }
      j["checksum"] = hex(hash64(j.dump()));
      write_file_atomic(temporary / "trainer.json", j.dump(1));
      flush_folder(temporary);
      // Only a run that resumed from an older checkpoint meets one of the same step; a rename needs an empty place.
      if (fs::exists(final_path)) fs::remove_all(final_path);
      fs::rename(temporary, final_path);
      flush_folder(folder);
      delete_old(folder, keep);
    });
  } catch (...) {
    std::error_code ignored;
    if (rank == 0) fs::remove_all(temporary, ignored);
    throw;
  }
}

struct CheckpointWriter::Impl {
  fs::path run_folder;
  std::int64_t keep;
  CheckpointParts parts;
  std::mutex mutex;
  std::condition_variable changed;
  bool busy = false, stop = false;
  TrainerState state;
  std::map<std::string, Tensor> tensors;
  std::string failure;
  std::thread thread;

  void loop() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return busy || stop; });
      if (!busy) return;
      lock.unlock();
      std::string message;
      try {
        write_checkpoint(run_folder, state, tensors, keep, parts);
      } catch (const std::exception& error) {
        message = error.what();
        log_line(LogLevel::error,
                 fmt::format("the checkpoint of step {} was not written: {}. Training goes on and the next one is tried; the former checkpoints are intact",
                             state.step, message));
      }
      lock.lock();
      tensors.clear();
      failure = message;
      busy = false;
      changed.notify_all();
    }
  }
};

CheckpointWriter::CheckpointWriter(fs::path run_folder, std::int64_t keep, CheckpointParts parts) : impl_(std::make_unique<Impl>()) {
  impl_->run_folder = std::move(run_folder);
  impl_->keep = keep;
  impl_->parts = std::move(parts);
  impl_->thread = std::thread([this] { impl_->loop(); });
}

CheckpointWriter::~CheckpointWriter() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->changed.notify_all();
  impl_->thread.join();
}

void CheckpointWriter::write(TrainerState state, std::map<std::string, Tensor> tensors) {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [&] { return !impl_->busy; });
  impl_->state = std::move(state);
  impl_->tensors = std::move(tensors);
  impl_->busy = true;
  impl_->changed.notify_all();
}

void CheckpointWriter::wait() {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [&] { return !impl_->busy; });
}

bool CheckpointWriter::busy() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->busy;
}

std::string CheckpointWriter::failure() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->failure;
}

}  // namespace rhetor
