#include "comm/self_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/file.h"
#include "base/rng.h"
#include "comm/transport.h"

namespace rhetor {
namespace {

// Element i of what rank r contributes: any rank can compute it.
template <class T>
T element(int rank, std::int64_t i) {
  const std::uint32_t word = random_u32(17, static_cast<std::uint64_t>(rank), static_cast<std::uint64_t>(i));
  if constexpr (std::is_same_v<T, bool>) return (word & 3) == 0;
  else if constexpr (std::is_integral_v<T>) return static_cast<T>(word);
  else return from_double<T>(static_cast<double>(to_uniform(word)) * 4 - 2);
}
template <class T>
std::vector<std::byte> elements(int rank, std::int64_t count) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * sizeof(T));
  for (std::int64_t i = 0; i < count; ++i) {
    const T value = element<T>(rank, i);
    std::memcpy(bytes.data() + static_cast<std::size_t>(i) * sizeof(T), &value, sizeof value);
  }
  return bytes;
}

// The definition of a reduction, written the plain way.
template <class T>
T reduced(Reduce op, int ranks, std::int64_t i, double* exact, double* magnitude) {
  const auto wide = [](T x) {
    if constexpr (requires { x.to_float(); }) return x.to_float();
    else return x;
  };
  auto sum = wide(element<T>(0, i));
  *exact = to_double(element<T>(0, i));
  *magnitude = std::abs(*exact);
  for (int r = 1; r < ranks; ++r) {
    const auto x = wide(element<T>(r, i));
    const double d = to_double(element<T>(r, i));
    if (op == Reduce::max) sum = std::max(sum, x), *exact = std::max(*exact, d);
    else if (op == Reduce::min) sum = std::min(sum, x), *exact = std::min(*exact, d);
    else {
      if constexpr (std::is_same_v<T, bool>) sum = sum || x;
      else if constexpr (std::is_integral_v<T>) sum = static_cast<T>(static_cast<std::uint64_t>(sum) + static_cast<std::uint64_t>(x));
      else sum += x;
      *exact += d;
    }
    *magnitude += std::abs(d);
  }
  if constexpr (is_float(dtype_v<T>))
    if (op == Reduce::mean) sum /= static_cast<decltype(sum)>(ranks), *exact /= ranks;
  if constexpr (requires { T::from_float(0.0f); }) return T::from_float(sum);
  else return sum;
}

class Checker {
 public:
  Checker(Communicator& c, const std::function<void(const std::string&)>& line) : c_(c), line_(line) {}

  template <class T>
  void all(std::int64_t count) {
    for (const Reduce op : {Reduce::sum, Reduce::mean, Reduce::max, Reduce::min}) {
      if ((op == Reduce::mean && !is_float(dtype_v<T>)) || (op == Reduce::sum && std::is_same_v<T, bool>)) continue;
      reductions<T>(op, count);
    }
    movements<T>(count);
  }

 private:
  template <class T>
  void reductions(Reduce op, std::int64_t count) {
    std::vector<std::byte> expected(static_cast<std::size_t>(count) * sizeof(T));
    for (std::int64_t i = 0; i < count; ++i) {
      double exact = 0, magnitude = 0;
      const T value = reduced<T>(op, c_.size(), i, &exact, &magnitude);
      std::memcpy(expected.data() + static_cast<std::size_t>(i) * sizeof(T), &value, sizeof value);
      if constexpr (is_float(dtype_v<T>)) {
        // n roundings of partial sums, one to the dtype.
        const double sum_epsilon = std::min(epsilon(dtype_v<T>), epsilon(DType::f32));
        const double allowed = c_.size() * sum_epsilon * magnitude + epsilon(dtype_v<T>) * (std::abs(exact) + 1e-2);
        if (!(std::abs(to_double(value) - exact) <= allowed))
          fail("{} {} over {} ranks strays from float64 at {}", name(op), name(dtype_v<T>), c_.size(), i);
      }
    }
    std::vector<std::byte> data = elements<T>(c_.rank(), count);
    c_.all_reduce({data.data(), dtype_v<T>, count}, op, "check");
    compare<T>("all_reduce", op, count, expected, data);

    const Slice mine = slice_of(count, c_.size(), c_.rank());
    data = elements<T>(c_.rank(), count);
    std::vector<std::byte> part(static_cast<std::size_t>(mine.count()) * sizeof(T) + 1);
    c_.reduce_scatter({data.data(), dtype_v<T>, count}, {part.data(), dtype_v<T>, mine.count()}, op, "check");
    part.pop_back();
    const auto begin = expected.begin() + mine.begin * static_cast<std::int64_t>(sizeof(T));
    compare<T>("reduce_scatter", op, count, {begin, begin + static_cast<std::int64_t>(part.size())}, part);
    // In place, on the part itself.
    std::byte* own = data.data() + static_cast<std::size_t>(mine.begin) * sizeof(T);
    c_.reduce_scatter({data.data(), dtype_v<T>, count}, {own, dtype_v<T>, mine.count()}, op, "check");
    if (std::memcmp(own, part.data(), part.size()) != 0) fail("reduce_scatter in place of {} x {} differs", name(dtype_v<T>), count);
  }

  template <class T>
  void movements(std::int64_t count) {
    const int n = c_.size(), rank = c_.rank();
    const std::vector<std::byte> whole = elements<T>(99, count);
    const Slice mine = slice_of(count, n, rank);
    std::vector<std::byte> out(whole.size());
    c_.all_gather({whole.data() + static_cast<std::size_t>(mine.begin) * sizeof(T), dtype_v<T>, mine.count()}, {out.data(), dtype_v<T>, count},
                  "check");
    compare<T>("all_gather", Reduce::sum, count, whole, out);

    for (int root = 0; root < n; ++root) {
      out = elements<T>(rank, count);
      c_.broadcast({out.data(), dtype_v<T>, count}, root, "check");
      compare<T>("broadcast", Reduce::sum, count, elements<T>(root, count), out);
    }

    const std::int64_t block = (count + n - 1) / n;
    std::vector<std::byte> expected;
    for (int r = 0; r < n; ++r) {
      const std::vector<std::byte> theirs = elements<T>(r, block * n);
      const auto begin = theirs.begin() + block * rank * static_cast<std::int64_t>(sizeof(T));
      expected.insert(expected.end(), begin, begin + block * static_cast<std::int64_t>(sizeof(T)));
    }
    const std::vector<std::byte> in = elements<T>(rank, block * n);
    out.assign(in.size(), std::byte{0});
    c_.all_to_all({in.data(), dtype_v<T>, block * n}, {out.data(), dtype_v<T>, block * n}, "check");
    compare<T>("all_to_all", Reduce::sum, count, expected, out);

    // Round the ring: even ranks send first.
    if (n == 1) return;
    const int next = (rank + 1) % n, before = (rank + n - 1) % n;
    const std::vector<std::byte> own = elements<T>(rank, count);
    out.assign(own.size(), std::byte{0});
    const auto send = [&] { c_.send({own.data(), dtype_v<T>, count}, next, "ring"); };
    const auto recv = [&] { c_.recv({out.data(), dtype_v<T>, count}, before, "ring"); };
    if (rank == 0) send(), recv();   // one rank breaks the circle of waits
    else recv(), send();
    compare<T>("recv", Reduce::sum, count, elements<T>(before, count), out);
  }

  template <class T>
  void compare(std::string_view kind, Reduce op, std::int64_t count, const std::vector<std::byte>& expected, const std::vector<std::byte>& found) {
    const auto differs = std::mismatch(expected.begin(), expected.end(), found.begin(), found.end()).first;
    if (differs != expected.end() || expected.size() != found.size())
      fail("{} {} of {} x {} on rank {} of {} differs from element {} on", kind, name(op), name(dtype_v<T>), count, c_.rank(), c_.size(),
           (differs - expected.begin()) / static_cast<std::ptrdiff_t>(sizeof(T)));
    line_(fmt::format("{} {} {} x {}  {:016x}", kind, name(op), name(dtype_v<T>), count, hash64(found)));
  }

  Communicator& c_;
  const std::function<void(const std::string&)>& line_;
};

}  // namespace

void check_collectives(Communicator& communicator, const std::vector<std::int64_t>& counts, const std::function<void(const std::string&)>& line) {
  Checker checker(communicator, line);
  for (const std::int64_t count : counts) {
    checker.all<float>(count);
    checker.all<bf16>(count);
    checker.all<f16>(count);
    checker.all<double>(count);
    checker.all<std::int64_t>(count);
    checker.all<std::int32_t>(count);
    checker.all<std::int8_t>(count);
    checker.all<std::uint8_t>(count);
    checker.all<bool>(count);
  }
}

std::vector<CommSample> time_all_reduce(Communicator& communicator, const std::vector<std::int64_t>& bytes, int runs) {
  std::vector<CommSample> timed;
  for (const std::int64_t size : bytes) {
    std::vector<float> data(static_cast<std::size_t>(std::max<std::int64_t>(1, size / 4)));
    std::vector<double> seconds;
    for (int run = 0; run < runs + 2; ++run) {
      communicator.barrier("time all_reduce");
      const CommClock::time_point begin = CommClock::now();
      communicator.all_reduce(std::span(data), Reduce::sum, "time all_reduce");
      if (run >= 2) seconds.push_back(in_seconds(CommClock::now() - begin));
    }
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
    double median = seconds[seconds.size() / 2];
    communicator.all_reduce(std::span(&median, 1), Reduce::max, "time all_reduce");
    timed.push_back({static_cast<double>(data.size() * 4), median});
  }
  return timed;
}

}  // namespace rhetor
